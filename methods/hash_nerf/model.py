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
from torch import Tensor
from torch.nn import functional as F

from methods.backgrounds import BackgroundModel, mean_depth
from methods.hash_nerf.config import HashNerfModelConfig
from methods.hash_nerf.field import HashField, Space
from methods.kernels.compositing import CompositeState, composite
from methods.kernels.distortion import distortion
from methods.kernels.marching import March, Samples, march, ray_aabb
from methods.kernels.occupancy_grid import OccupancyGrid
from methods.kernels.ray_points import ray_points
from methods.kernels.rendering import render_rays
from methods.kernels.visibility import march_visible


class HashNerfModel(BackgroundModel):
    """Hash grid marched through an occupancy grid."""

    config: HashNerfModelConfig
    centre: Tensor

    def populate_modules(self) -> None:
        """Build box, march, field and occupancy grid from the scene box."""
        super().populate_modules()
        self.stride = 1.0  # how much longer the steps are while training; the pipeline's business
        config, low, high = self.config, *self.scene_box.aabb.float()
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
        background = self.training_background(made.rgb)
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

    @torch.no_grad()
    def composited(self, origins: Tensor, directions: Tensor) -> CompositeState:
        """Colour without background, opacity and depth of rays ``[N, 3]``, without gradients."""
        features = self.field.ray_features(directions, None)

        def evaluate(points: Tensor, ray: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            density, raw = self.field.density(points)
            return density, self.field.colour(raw, features, ray)

        rays = (origins, directions, *self.ray_bounds(origins, directions))
        return render_rays(rays, self.occupancy.occupied, self.march, evaluate, early_stop=self.config.early_stop)

    def _render(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        made = self.composited(ray_bundle.origins.contiguous(), ray_bundle.directions.contiguous())
        opacity = made.opacity[:, None]
        return {
            "rgb": made.rgb + (1 - opacity) * self.render_background(),
            "accumulation": opacity,
            "depth": mean_depth(made.depth[:, None], opacity, self.config.far_plane),
        }

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """Colour loss against the pictures blended over the step's background, and the distortion loss."""
        truth = self.truth(outputs, batch)
        made = outputs["rgb"]
        error = F.huber_loss(made, truth, delta=0.1) if self.config.loss == "huber" else F.mse_loss(made, truth)
        losses = {"rgb_loss": error}
        if "distortion" in outputs:
            losses["distortion_loss"] = self.config.distortion_loss_mult * outputs["distortion"].mean()
        return losses
