"""neus-hash's pipeline: as many rays per step as give the wanted number of samples."""

from __future__ import annotations

from typing import Any

from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from methods.hash_nerf.pipeline import BatchSize, next_batch
from methods.neus_hash.schedules import next_rays


class NeusHashPipeline(VanillaPipeline):
    """Follows the occupancy grid: the more space it finds empty, the more rays a step can afford."""

    def __init__(self, config: Any, device: str, **kwargs: Any):
        config.check()
        super().__init__(config, device, **kwargs)
        model: Any = self.model
        longest = model.config.march_steps
        if model.background is not None:
            longest += model.config.background_samples
        self.target = config.target_samples or config.first_rays * longest
        self._set(config.first_rays, 1.0)

    def get_train_loss_dict(self, step: int):
        """One step's loss; then the next step's number of rays and length of steps."""
        outputs, losses, metrics = super().get_train_loss_dict(step)
        self._set(*self._next(int(outputs["num_samples"])))
        return outputs, losses, metrics

    def _next(self, samples: int) -> tuple[int, float]:
        config: Any = self.config
        model: Any = self.model
        if config.min_rays == 0:
            return next_rays(self.rays, samples, self.target, config.max_rays), 1.0
        wanted = BatchSize(self.target, config.min_rays, config.max_rays, config.max_stride)
        return next_batch(samples / self.rays * model.stride, self.rays, wanted)

    def _set(self, rays: int, stride: float) -> None:
        model: Any = self.model
        self.rays, model.stride = rays, stride
        sampler: Any = getattr(self.datamanager, "train_pixel_sampler", None)
        if sampler is not None:
            sampler.set_num_rays_per_batch(rays)
