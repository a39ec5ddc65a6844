"""A method whose model is the ball of the runner's tests, exactly: for what comes after a training of a surface."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification
from torch import Tensor

from methods.runner.surface import Surface

NAME = "surface-ball"


@dataclass
class BallConfig(ModelConfig):
    _target: type = field(default_factory=lambda: BallModel)
    radius: float = 0.4
    offset: float = 0.0
    hidden: bool = False


class BallModel(Model):
    """A ball of ``radius``; ``hidden``: its signed distance is positive everywhere."""

    config: BallConfig

    def populate_modules(self) -> None:
        super().populate_modules()
        self.tint = torch.nn.Parameter(torch.zeros(3))

    def get_param_groups(self) -> dict:
        return {"fields": [self.tint]}

    def colour(self, normal: Tensor) -> Tensor:
        base = torch.tensor([0.9, 0.5, 0.1], device=normal.device)
        return (base * (0.6 + 0.4 * torch.sin(4 * normal[..., 2:])) + self.tint).clamp(0, 1)

    def get_outputs(self, ray_bundle) -> dict:
        origin, direction = ray_bundle.origins, ray_bundle.directions
        b = (origin * direction).sum(-1, keepdim=True)
        root = b**2 - ((origin**2).sum(-1, keepdim=True) - self.config.radius**2)
        depth = torch.where(root > 0, -b - root.clamp(min=0).sqrt(), 2.0)
        normal = torch.where(root > 0, (origin + depth * direction) / self.config.radius, 0.0)
        sky = torch.stack(
            [0.5 + 0.4 * direction[..., 2], 0.3 + 0.1 * direction[..., 0], direction[..., 0] * 0 + 0.8], -1
        )
        hit = (root > 0).float()
        foreground = hit * self.colour(normal)
        rgb = foreground + (1 - hit) * sky
        more = {"normal": normal, "rgb_fg": foreground, "rgb_bg": sky}
        return {"rgb": rgb, "depth": depth, "accumulation": hit, **more}

    def get_loss_dict(self, outputs, batch, metrics_dict=None) -> dict:
        return {"rgb": ((outputs["rgb"] - batch["image"][..., :3].to(self.device)) ** 2).mean()}

    def get_metrics_dict(self, outputs, batch) -> dict:
        return {}

    def get_image_metrics_and_images(self, outputs, batch) -> tuple[dict, dict]:
        return {}, {}

    def surface(self) -> Surface:
        def normal(x: Tensor) -> Tensor:
            x = x.requires_grad_()
            return torch.nn.functional.normalize(torch.autograd.grad(x.norm(dim=-1).sum(), x)[0], dim=-1)

        more = 9.0 if self.config.hidden else self.config.offset
        cube = torch.tensor([[-0.7] * 3, [0.7] * 3], device=self.device)
        return Surface(cube, lambda x: x.norm(dim=-1) - self.config.radius + more, normal, lambda x, n: self.colour(n))


specification = MethodSpecification(
    TrainerConfig(
        method_name=NAME,
        max_num_iterations=3,
        pipeline=VanillaPipelineConfig(
            datamanager=VanillaDataManagerConfig(train_num_rays_per_batch=32), model=BallConfig()
        ),
        optimizers={"fields": {"optimizer": AdamOptimizerConfig(lr=1e-4), "scheduler": None}},
        viewer=ViewerConfig(),
    ),
    description="an analytic ball",
)
