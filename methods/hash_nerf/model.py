"""hash-nerf (Müller et al. 2022, "Instant Neural Graphics Primitives", on Fieldbook's kernels) as a nerfstudio model.

N rays, M samples, packed: ray i owns samples ``offsets[i]`` to ``offsets[i + 1]``.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.base_model import Model
from torch import Tensor
from torch.nn import functional as F

from methods.hash_nerf.config import HashNerfModelConfig
from methods.hash_nerf.field import HashField, Space
from methods.hash_nerf.rendering import render_rays
from methods.hash_nerf.visibility import march_visible
from methods.kernels.compositing import composite
from methods.kernels.distortion import distortion
from methods.kernels.marching import March, Samples, march, ray_aabb
from methods.kernels.occupancy_grid import OccupancyGrid
from methods.kernels.ray_points import ray_points
from methods.runner.on_demand import Psnr

COLOURS = {"white": 1.0, "black": 0.0}
MET = 1e-2  # opacity below which a ray has no depth of its own
UNKNOWN_BACKGROUND = 0.5  # what a random background is on average


class HashNerfModel(Model):
    """Hash grid marched through an occupancy grid."""

    config: HashNerfModelConfig
    centre: Tensor

    def populate_modules(self) -> None:
        """Build box, march, field and occupancy grid from the scene box."""
        super().populate_modules()
        self.stride = 1.0  # how much longer the steps are while training; the pipeline's business
        config, low, high = self.config, *self.scene_box.aabb.float()
        self.alpha_background: Tensor | None = (self.kwargs.get("metadata") or {}).get("background")
        unbounded = self.alpha_background is None if config.unbounded is None else config.unbounded
        centre, half = (low + high) / 2, float((high - low).max()) / 2
        self.register_buffer("centre", centre, persistent=False)
        cascades = 1
        if unbounded:
            cascades += min(max(math.ceil(math.log2(max(config.far_plane / half, 1.0))), 0), config.max_cascades - 1)
        step = 2 * math.sqrt(3) * half / config.march_steps
        self.march = March(
            centre=tuple(centre.tolist()),
            half=half,
            cascades=cascades,
            resolution=config.occupancy_res,
            step_min=step,
            step_max=step * 2 ** (cascades - 1),
            cone_angle=config.cone_angle if unbounded else 0.0,
            max_samples=config.max_samples_per_ray,
        )
        self.field = HashField(config, Space(self.centre, half, unbounded), self.num_train_data)
        self.occupancy = OccupancyGrid(
            self.march,
            threshold=config.occupancy_threshold,
            decay=config.occupancy_decay,
            every=config.occupancy_every,
            warm_up=config.occupancy_warmup,
            fraction=config.occupancy_fraction,
        )

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """``grids``: the hash table; ``fields``: everything else."""
        table = self.field.encoding.table
        return {"grids": [table], "fields": [p for p in self.field.parameters() if p is not table]}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Exclude what no training camera sees; keep the occupancy grid up to date."""
        datamanager: Any = getattr(training_callback_attributes.pipeline, "datamanager", None)
        if self.config.skip_unseen and datamanager is not None:
            self.exclude_unseen(datamanager.train_dataset.cameras)
        return [
            TrainingCallback(
                where_to_run=[TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
                update_every_num_iters=1,
                func=self.update_occupancy,
            )
        ]

    def exclude_unseen(self, cameras: Cameras) -> None:
        """Never march where none of the cameras looks: nothing can be learnt there, and it would stay a fog.

        Cameras that are not plain pinholes see more than their intrinsics say; with any such one nothing is excluded.
        """
        lens = cameras.distortion_params
        if (cameras.camera_type != CameraType.PERSPECTIVE.value).any() or (lens is not None and lens.any()):
            return
        size = torch.cat([cameras.width, cameras.height], dim=-1)
        intrinsics = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy, size], dim=-1).float()
        to_world = cameras.camera_to_worlds.float()
        self.occupancy.mark_unseen(to_world.to(self.device), intrinsics.to(self.device), self.config.near_plane)

    @torch.no_grad()
    def update_occupancy(self, step: int) -> None:
        """Look at the density of some cells: all of them in the first steps, but not before there is any to see."""
        if step == 0:
            return
        # Steps grow from box to box as cells do.
        steps_per_side = self.march.step_min * self.march.resolution / (2 * self.march.half)
        self.occupancy.every_step(
            step, lambda x, side: -torch.expm1(-self.field.density(x)[0] * (side * steps_per_side))
        )

    def ray_bounds(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where rays enter and leave the outermost box, ``[N]`` each, within near and far plane."""
        near, far = ray_aabb(origins, directions, self.march.aabb, self.config.near_plane)
        return near, far.clamp(max=self.config.far_plane)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Colour, opacity and depth of a bundle of rays.

        Args:
            ray_bundle: N rays.

        Returns:
            ``rgb`` ``[N, 3]``, ``accumulation`` and ``depth`` ``[N, 1]``; while training also ``num_samples`` and the
            ``background`` the pictures are to be blended over.
        """
        if not self.training:
            return self._render(ray_bundle)
        origins, directions = ray_bundle.origins.contiguous(), ray_bundle.directions.contiguous()
        samples = self._training_samples(origins, directions)
        ray = samples.ray_index
        density, raw = self.field.density(ray_points(origins, directions, samples))
        images = None if ray_bundle.camera_indices is None else ray_bundle.camera_indices[:, 0]
        colour = self.field.colour(raw, self.field.ray_features(directions, images), ray)
        made = composite(
            density, colour, samples.t_start, samples.t_end, samples.offsets, early_stop=self.config.early_stop
        )
        background = self._training_background(made.rgb)
        outputs = {
            "rgb": made.rgb + (1 - made.opacity[:, None]) * background,
            "accumulation": made.opacity[:, None],
            "depth": mean_depth(made.depth[:, None], made.opacity[:, None], self.config.far_plane),
            "background": background,
            "num_samples": samples.offsets[-1],
        }
        if self.config.distortion_loss_mult > 0:
            scale = 1 / self.config.far_plane
            outputs["distortion"] = distortion(
                made.weights, samples.t_start * scale, samples.t_end * scale, samples.offsets
            )
        return outputs

    def _training_samples(self, origins: Tensor, directions: Tensor) -> Samples:
        """Samples of rays, from a random place within the first step on; those that light reaches."""
        near, far = self.ray_bounds(origins, directions)
        step, longest = self.march.step_min * self.stride, self.march.longest * self.stride
        spec, noise = replace(self.march, step_min=step, step_max=longest), torch.rand_like(near)
        if self.config.training_stop == 0:
            return march(origins, directions, near, far, self.occupancy.occupied, spec, noise)
        start = near + noise * (near * spec.cone_angle).clamp(step, longest)
        rays = (origins, directions, start, far)
        stop = self.config.training_stop
        return march_visible(rays, self.occupancy.occupied, spec, lambda x: self.field.density(x)[0], stop)

    def _training_background(self, like: Tensor) -> Tensor:
        if self.config.background == "random":
            return torch.rand_like(like)
        return torch.full_like(like, COLOURS[self.config.background])

    def render_background(self) -> Tensor:
        """What stands behind rendered pictures, ``[3]``: the dataset's colour, else the one trained with."""
        if self.alpha_background is not None:
            return self.alpha_background.to(self.device)
        return torch.full((3,), COLOURS.get(self.config.background, UNKNOWN_BACKGROUND), device=self.device)

    def _render(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        origins, directions = ray_bundle.origins.contiguous(), ray_bundle.directions.contiguous()
        near, far = self.ray_bounds(origins, directions)
        made = render_rays(self, origins, directions, near, far)
        opacity = made.opacity[:, None]
        return {
            "rgb": made.rgb + (1 - opacity) * self.render_background(),
            "accumulation": opacity,
            "depth": mean_depth(made.depth[:, None], opacity, self.config.far_plane),
        }

    def _truth(self, outputs: Any, batch: Any) -> Tensor:
        background = outputs["background"] if "background" in outputs else self.render_background()
        return blend(batch["image"].to(self.device), background)

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """Colour loss against the pictures blended over the step's background, and the distortion loss."""
        truth = self._truth(outputs, batch)
        made = outputs["rgb"]
        error = F.huber_loss(made, truth, delta=0.1) if self.config.loss == "huber" else F.mse_loss(made, truth)
        losses = {"rgb_loss": error}
        if "distortion" in outputs:
            losses["distortion_loss"] = self.config.distortion_loss_mult * outputs["distortion"].mean()
        return losses

    def get_metrics_dict(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """``psnr`` of the batch, ``num_samples`` of its rays."""
        if "num_samples" not in outputs:
            return {}
        with torch.no_grad():
            error = F.mse_loss(outputs["rgb"], self._truth(outputs, batch))
        return {"psnr": -10 * torch.log10(error), "num_samples": outputs["num_samples"]}

    def get_image_metrics_and_images(self, outputs: Any, batch: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR of a whole picture, and truth and prediction side by side, for nerfstudio's own tools."""
        truth = blend(batch["image"].to(self.device), self.render_background())
        psnr = Psnr()(outputs["rgb"], truth)
        return {"psnr": float(psnr)}, {"img": torch.cat([truth, outputs["rgb"]], dim=1)}

    def get_rgba_image(self, outputs: Any, output_name: str = "rgb") -> Tensor:
        """A rendered picture with straight alpha in place of the background, ``[..., 4]``, for nerfstudio's exports."""
        opacity = outputs["accumulation"]
        emitted = outputs[output_name] - (1 - opacity) * self.render_background()
        return torch.cat([(emitted / opacity.clamp(min=MET)).clamp(0, 1), opacity], dim=-1)


def mean_depth(depth: Tensor, opacity: Tensor, far: float) -> Tensor:
    """Mean distance of what a ray meets, ``[N, 1]``; ``far`` where it meets next to nothing.

    Args:
        depth: ``[N, 1]``, sum of weight times distance.
        opacity: ``[N, 1]``, sum of the weights.
        far: As far away as anything can be seen.
    """
    return torch.where(opacity > MET, depth / opacity.clamp(min=MET), far)


def blend(picture: Tensor, background: Tensor) -> Tensor:
    """A picture ``[..., 3]`` or, with straight alpha, ``[..., 4]`` over a background ``[..., 3]``."""
    if picture.shape[-1] == 3:
        return picture
    alpha = picture[..., 3:]
    return picture[..., :3] * alpha + background * (1 - alpha)
