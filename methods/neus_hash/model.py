"""neus-hash (NeuS, Wang et al. 2021, on a hash grid, in the form of instant-nsr-pl) as a nerfstudio model.

N rays, M samples, packed: ray i owns samples ``offsets[i]`` to ``offsets[i + 1]``. The model's own units: the object's
box is ``[-radius, radius]^3`` about its centre, so that one set of hyper-parameters fits every scene.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from torch import Tensor
from torch.nn import functional as F

from methods.backgrounds import BackgroundModel, mean_depth
from methods.kernels.compositing import Composite, CompositeState, composite_alpha
from methods.kernels.marching import March, Samples, march, ray_aabb
from methods.kernels.occupancy_grid import OccupancyGrid
from methods.kernels.ray_points import ray_points
from methods.kernels.rendering import render_rays
from methods.kernels.visibility import march_visible
from methods.neus_hash.background import Background
from methods.neus_hash.box import object_box
from methods.neus_hash.config import NeusHashModelConfig
from methods.neus_hash.field import Network, Surface, SurfaceField, alpha_from, unit_normals
from methods.neus_hash.losses import losses
from methods.neus_hash.schedules import cos_anneal
from methods.neus_hash.surface import surface_of
from methods.runner.surface import Surface as MeshSurface

OPAQUE = 1 - 1e-7  # alpha has no density at 1


class NeusHashModel(BackgroundModel):
    """A signed distance on a hash grid, marched through an occupancy grid, before a learned or a plain background."""

    config: NeusHashModelConfig
    centre: Tensor

    def populate_modules(self) -> None:
        """Build box, march, fields and occupancy grids from the scene."""
        super().populate_modules()
        self.stride = 1.0  # how much longer the steps are while training; the pipeline's business
        config = self.config
        config.check()
        centre, half = object_box(self.scene_box.aabb, self.kwargs.get("metadata") or {}, config.object_share)
        self.register_buffer("centre", centre, persistent=False)
        self.unit = half / config.radius  # scene units per unit of the model's own
        self.march = March(
            half=config.radius,
            resolution=config.occupancy_res,
            step_min=2 * math.sqrt(3) * config.radius / config.march_steps,
            max_samples=2 * config.march_steps,
        )
        self.field = SurfaceField(config)
        learned = self.alpha_background is None if config.learned_background is None else config.learned_background
        self.background = Background(config) if learned else None
        self.occupancy = OccupancyGrid(
            self.march,
            threshold=config.occupancy_threshold,
            decay=config.occupancy_decay,
            every=config.occupancy_every,
            warm_up=config.occupancy_warmup,
            fraction=config.occupancy_fraction,
        )

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """``grids``: the hash tables; ``variance``: the sharpness; ``fields``: everything else."""
        named = dict(self.named_parameters())
        grids = [p for name, p in named.items() if name.endswith("encoding.table")]
        apart = {id(p) for p in (*grids, self.field.variance)}
        return {
            "grids": grids,
            "fields": [p for p in named.values() if id(p) not in apart],
            "variance": [self.field.variance],
        }

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Follow the step; keep the occupancy grids up to date."""
        return [
            TrainingCallback(
                where_to_run=[TrainingCallbackLocation.BEFORE_TRAIN_ITERATION],
                update_every_num_iters=1,
                func=self.before_step,
            )
        ]

    def update_to_step(self, step: int) -> None:
        """Put the schedules where they stand at a step: all are functions of it alone."""
        self.field.step = step

    @torch.no_grad()
    def before_step(self, step: int) -> None:
        """The step's schedules, and a look at some cells if one is due."""
        self.update_to_step(step)
        self.occupancy.every_step(step, lambda x, _: self._opacity_straight_on(x))
        if self.background is not None:
            self.background.update(step)

    def _opacity_straight_on(self, positions: Tensor) -> Tensor:
        sdf = self.field.distance(positions)
        facing = torch.full_like(sdf, -1.0)
        length = torch.full_like(sdf, self.march.step_min)
        return alpha_from(sdf, facing, length, self.field.sharpness, 1.0, self.config.alpha_epsilon)

    def to_own(self, origins: Tensor) -> Tensor:
        """Positions ``[N, 3]`` of the scene in the model's units, contiguous."""
        return ((origins - self.centre) * (1 / self.unit)).contiguous()

    def ray_bounds(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where rays enter and leave the object's box, ``[N]`` each; all in the model's units."""
        return ray_aabb(origins, directions, self.march.aabb, self.config.near_plane / self.unit)

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Any]:
        """Colour, opacity, depth and, when rendering, normals of a bundle of rays.

        Args:
            ray_bundle: N rays.

        Returns:
            ``rgb`` ``[N, 3]``, ``accumulation`` and ``depth`` ``[N, 1]`` (scene units). Rendering, also ``normal``
            ``[N, 3]`` (unit, in the scene frame, or zero), ``rgb_fg`` (the object before the rendered background) and,
            with a learned background, ``rgb_bg``. Training, what the losses need, and ``num_samples``.
        """
        origins, directions = self.to_own(ray_bundle.origins), ray_bundle.directions.contiguous()
        return self._train(origins, directions) if self.training else self._render(origins, directions)

    def _train(self, origins: Tensor, directions: Tensor) -> dict[str, Any]:
        near, far = self.ray_bounds(origins, directions)
        network = self.field.network
        samples = self._training_samples(origins, directions, near, far, network)
        ray = samples.ray_index
        surface = self.field.surface(ray_points(origins, directions, samples), network)
        normals = unit_normals(surface.gradient)
        alpha = self._alpha(surface, normals, directions, ray, samples.t_end - samples.t_start)
        colour = self.field.colour(surface.features, normals, self.field.ray_features(directions), ray)
        made = composite_alpha(alpha, colour, samples.t_start, samples.t_end, samples.offsets, early_stop=0.0)
        behind = self._background(origins, directions, far, torch.rand_like(near))
        background = self.training_background(made.rgb)
        rest = background if behind is None else behind.rgb + (1 - behind.opacity[:, None]) * background
        number = samples.offsets[-1]
        return {
            "rgb": made.rgb + (1 - made.opacity[:, None]) * rest,
            "accumulation": made.opacity[:, None],
            "depth": mean_depth(made.depth[:, None], made.opacity[:, None], self.config.background_far) * self.unit,
            "background": background,
            "hit": made.opacity > 0 if behind is None else (made.opacity > 0) | (behind.opacity > 0),
            "surface": surface,
            "samples": samples,
            "weights": made.weights,
            "num_samples": number if behind is None else number + len(behind.weights),
        }

    def _training_samples(
        self, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, network: Network | None = None
    ) -> Samples:
        """Samples of rays, from a random place within the first step on; all, or those down to a depth inside."""
        step, noise = self.march.step_min * self.stride, torch.rand_like(near)
        spec = replace(self.march, step_min=step, step_max=step)
        if self.config.training_depth == 0:
            return march(origins, directions, near, far, self.occupancy.occupied, spec, noise)
        deep = -self.config.training_depth / self.field.sharpness.detach()
        ends = (near + noise * step, far)

        def density(points: Tensor) -> Tensor:
            wall = self.field.distance(points, network) < deep
            return torch.where(wall, 1e3 / step, 1e-5 / step)  # opaque in one step; and hardly anything in all of them

        return march_visible((origins, directions, *ends), self.occupancy.occupied, spec, density, 0.5)

    def _alpha(self, surface: Surface, normals: Tensor, directions: Tensor, ray: Tensor, length: Tensor) -> Tensor:
        cosine = (directions[ray] * normals).sum(dim=-1)
        anneal = cos_anneal(self.field.step, self.config.cos_anneal_end)
        sharpness = self.field.sharpness
        return alpha_from(surface.sdf, cosine, length, sharpness, anneal, self.config.alpha_epsilon)

    def _background(self, origins: Tensor, directions: Tensor, far: Tensor, noise: Tensor | None) -> Composite | None:
        if self.background is None:
            return None
        r = self.config.radius
        far = torch.where(far < 1e30, far, -1.0)  # a ray that misses the box has no end of it
        return self.background.render(origins / r, directions, far / r, noise)

    @torch.no_grad()
    def composited(self, origins: Tensor, directions: Tensor) -> CompositeState:
        """Colour and normal (``rgb`` ``[N, 6]``), opacity and depth of rays in the model's units."""
        features = self.field.ray_features(directions)

        def evaluate(points: Tensor, ray: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
            surface = self.field.surface(points)
            normals = unit_normals(surface.gradient)
            alpha = self._alpha(surface, normals, directions, ray, length)
            density = -torch.log1p(-alpha.clamp(max=OPAQUE)) / length
            return density, torch.cat([self.field.colour(surface.features, normals, features, ray), normals], dim=-1)

        rays = (origins, directions, *self.ray_bounds(origins, directions))
        return render_rays(rays, self.occupancy.occupied, self.march, evaluate, 6, self.config.early_stop)

    def _render(self, origins: Tensor, directions: Tensor) -> dict[str, Tensor]:
        _, far = self.ray_bounds(origins, directions)
        made = self.composited(origins, directions)
        opacity, plain = made.opacity[:, None], self.render_background()
        behind = self._background(origins, directions, far, None)
        outputs = {"rgb_fg": made.rgb[:, :3] + (1 - opacity) * plain}
        rest, depth, seen = plain, made.depth[:, None], opacity
        if behind is not None:
            outputs["rgb_bg"] = rest = behind.rgb + (1 - behind.opacity[:, None]) * plain
            depth = depth + (1 - opacity) * behind.depth[:, None] * self.config.radius
            seen = opacity + (1 - opacity) * behind.opacity[:, None]
        return {
            "rgb": made.rgb[:, :3] + (1 - opacity) * rest,
            "accumulation": opacity,
            "depth": mean_depth(depth, seen, self.config.background_far) * self.unit,
            "normal": unit_normals(made.rgb[:, 3:]),
            **outputs,
        }

    def surface(self) -> MeshSurface:
        """What ``fieldbook mesh`` takes a mesh of."""
        return surface_of(self)

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """The losses whose weight is not zero, see ``methods.neus_hash.losses``."""
        if "surface" not in outputs:
            return {"rgb_loss": F.mse_loss(outputs["rgb"], self.truth(outputs, batch))}
        image = batch["image"].to(self.device)
        mask = image[..., 3] if image.shape[-1] == 4 else None
        return losses(self.config, self.field.step, outputs, self.truth(outputs, batch), mask)

    def get_metrics_dict(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """``psnr`` and ``num_samples`` of the batch, and the ``sharpness``."""
        return {**super().get_metrics_dict(outputs, batch), "sharpness": self.field.sharpness.detach()}
