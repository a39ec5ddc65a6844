"""hash-nerf's pipeline: as many rays per step as give the wanted number of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

FIRST_RAYS = 256


@dataclass(frozen=True)
class BatchSize:
    """What a batch should be like: samples wanted, rays at least (by longer steps) and at most, longest steps."""

    target_samples: int
    min_rays: int
    max_rays: int
    max_stride: float


class HashNerfPipeline(VanillaPipeline):
    """Follows the occupancy grid: the more space it finds empty, the more rays a step can afford."""

    def __init__(self, config: Any, device: str, **kwargs: Any):
        super().__init__(config, device, **kwargs)
        self.rays = FIRST_RAYS
        self._set(self.rays, 1.0)

    def get_train_loss_dict(self, step: int):
        """One step's loss; then the next step's number of rays and length of steps."""
        outputs, losses, metrics = super().get_train_loss_dict(step)
        model: Any = self.model
        per_ray = int(outputs["num_samples"]) / self.rays * model.stride
        c: Any = self.config
        wanted = BatchSize(c.target_samples, c.min_rays, c.max_rays, c.max_stride)
        self._set(*next_batch(per_ray, self.rays, wanted))
        return outputs, losses, metrics

    def _set(self, rays: int, stride: float) -> None:
        model: Any = self.model
        self.rays, model.stride = rays, stride
        sampler: Any = getattr(self.datamanager, "train_pixel_sampler", None)
        if sampler is not None:
            sampler.set_num_rays_per_batch(rays)


def next_batch(per_ray: float, rays: int, wanted: BatchSize) -> tuple[int, float]:
    """Rays of the next step, and how much longer than the shortest the steps along them are.

    Args:
        per_ray: Samples a ray of the last step would have had at the shortest step length.
        rays: Rays of the last step; the next has at most twice as many.
        wanted: What the batch should be like.
    """
    per_ray = max(per_ray, 1.0)
    stride = min(max(wanted.min_rays * per_ray / wanted.target_samples, 1.0), wanted.max_stride)
    number = int(min(wanted.target_samples * stride / per_ray, 2 * rays))
    return max(1, min(number, wanted.max_rays)), stride
