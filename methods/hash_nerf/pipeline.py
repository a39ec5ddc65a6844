"""hash-nerf's pipeline: as many rays per step as give the wanted number of samples."""

from __future__ import annotations

from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

FIRST_RAYS = 256


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
        self._set(*next_batch(per_ray, self.rays, self.config))
        return outputs, losses, metrics

    def _set(self, rays: int, stride: float) -> None:
        model: Any = self.model
        self.rays, model.stride = rays, stride
        sampler: Any = getattr(self.datamanager, "train_pixel_sampler", None)
        if sampler is not None:
            sampler.set_num_rays_per_batch(rays)


def next_batch(per_ray: float, rays: int, config: Any) -> tuple[int, float]:
    """Rays of the next step, and how much longer than the shortest the steps along them are.

    Args:
        per_ray: Samples a ray of the last step would have had at the shortest step length.
        rays: Rays of the last step; the next has at most twice as many.
        config: ``target_samples``, ``min_rays``, ``max_rays``, ``max_stride``.
    """
    per_ray = max(per_ray, 1.0)
    stride = min(max(config.min_rays * per_ray / config.target_samples, 1.0), config.max_stride)
    wanted = int(min(config.target_samples * stride / per_ray, 2 * rays))
    return max(1, min(wanted, config.max_rays)), stride
