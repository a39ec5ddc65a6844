"""nerfstudio's entry point for ``neus-hash``; imports no model code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import OptimizerConfig
from nerfstudio.engine.schedulers import Scheduler, SchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from methods.hash_nerf.config import GridAdamConfig, HashNerfDataManagerConfig
from methods.neus_hash.checks import check_model, check_pipeline
from methods.neus_hash.datamanager import NeusHashDataManager
from methods.neus_hash.schedules import Weight, learning_rate_factor


def build_model(config: NeusHashModelConfig, **kwargs: Any) -> Any:
    """The model; imported when it is built."""
    from methods.neus_hash.model import NeusHashModel

    return NeusHashModel(config, **kwargs)


def build_pipeline(config: NeusHashPipelineConfig, **kwargs: Any) -> Any:
    """The pipeline; imported when it is built."""
    from methods.neus_hash.pipeline import NeusHashPipeline

    return NeusHashPipeline(config, **kwargs)


def build_adamw(params: Any, **kwargs: Any) -> Any:
    """torch's AdamW; imported when it is built."""
    import torch

    return torch.optim.AdamW(params, **kwargs)


class WarmUpThenDecay(Scheduler):
    """The learning rate's factor over the steps, see ``methods.neus_hash.schedules.learning_rate_factor``."""

    config: WarmUpThenDecayConfig

    def get_scheduler(self, optimizer: Any, lr_init: float) -> Any:
        """torch's scheduler; plain numbers in, plain numbers out."""
        from torch.optim.lr_scheduler import LambdaLR

        c = self.config
        return LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(step, c.warm_up, c.warm_up_from, c.constant, c.max_steps, c.final),
        )


@dataclass
class WarmUpThenDecayConfig(SchedulerConfig):
    """Linear warm-up, a constant stretch, exponential decay; factors of the optimiser's rate."""

    _target: type = field(default_factory=lambda: WarmUpThenDecay)
    warm_up: int = 500
    """Steps over which the factor rises to 1."""
    warm_up_from: float = 0.01
    """Factor at step 0, where there is a warm-up."""
    constant: int = 0
    """Steps at factor 1 behind the warm-up."""
    max_steps: int = 20_000
    """Step at which the decay ends."""
    final: float = 0.1
    """Factor there, and from there on."""


@dataclass
class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    _target: Any = build_adamw
    lr: float = 1e-2
    eps: float = 1e-15
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01


@dataclass
class NeusHashModelConfig(ModelConfig):
    """neus-hash's model: NeuS (Wang et al. 2021) on a hash grid, in the form of instant-nsr-pl.

    Lengths without another unit are in the model's own units, in which half the side of the object's box is ``radius``.
    """

    _target: Any = field(default_factory=lambda: build_model)
    enable_collider: bool = False
    """The rays' ends come from the object's box, not from a collider."""
    collider_params: dict[str, float] | None = None
    eval_num_rays_per_chunk: int = 32768
    """Rays rendered at a time."""

    radius: float = 1.0
    """Half the side of the object's box, in the model's own units."""
    object_share: float = 0.6
    """Half the side of the object's box over the distance of the nearest camera from the point of interest; only where
    the capture does not say itself which box holds the object."""
    inside_out: bool = False
    """Whether the cameras stand inside the surface, as in a room."""

    num_levels: int = 16
    features_per_level: int = 2
    base_res: int = 32
    max_res: int = 2048
    """Resolutions of the coarsest and the finest level over the box."""
    log2_hashmap_size: int = 19
    start_levels: int | None = None
    """Levels in use at the start; None: all."""
    level_every: int = 1000
    """Steps until one more level is in use, where they start with fewer."""

    hidden_dim: int = 64
    """Width of the hidden layers."""
    num_layers: int = 1
    """Hidden layers of the distance network."""
    geo_feat_dim: int = 13
    """Outputs of the distance network, all handed to the colour network; the first is the distance."""
    sphere_radius: float = 0.5
    """Radius of the sphere that the distance starts as, over ``radius``."""
    num_layers_color: int = 2
    """Hidden layers of the colour network."""
    sh_degree: int = 4
    """Degree of the direction's spherical harmonics; degree^2 numbers."""
    gradient: Literal["analytic", "numerical"] = "analytic"
    """Normals from the grid's own derivative, or from differences over a cell of the finest level in use (Li et al.
    2023, Neuralangelo); the curvature loss needs the latter."""
    taps: Literal["axes", "tetrahedron"] = "axes"
    """Where a difference looks: one step to and fro along each axis, or at a tetrahedron's four corners."""

    init_variance: float = 0.3
    """v of the sharpness exp(10 v)."""
    cos_anneal_end: int = 20_000
    """Step from which only surfaces that face the ray count; 0: from the start."""
    alpha_epsilon: float = 1e-5
    """Added to the numerator of alpha: deep inside it makes samples opaque rather than empty. 0: as Neuralangelo."""

    learned_background: bool | None = None
    """Whether a second field shows what lies outside the box. None: yes unless the pictures have masks or alpha."""
    background_samples: int = 64
    """Steps from 1 to 1000 of the march through it; each is longer than the one before by the same factor."""
    background_near: float = 0.1
    """Where the march starts for rays that miss the box."""
    background_far: float = 1000.0
    background_min_step: float = 0.01
    background_occupancy_res: int = 256
    """Cells per axis of the contracted space."""
    background_features: int = 8
    """Outputs of its density network."""
    background: Literal["random", "white", "black"] = "random"
    """What lies behind everything while training; pictures with masks or alpha are blended over the same colour."""

    occupancy_res: int = 128
    """Cells per axis of the box."""
    occupancy_threshold: float = 0.001
    """A cell whose opacity over a step straight on stays below this is skipped."""
    background_occupancy_threshold: float = 0.01
    occupancy_every: int = 16
    """Steps between updates of the occupancy grids."""
    occupancy_warmup: int = 256
    """Steps in which every update looks at all cells."""
    occupancy_fraction: float = 0.25
    """After that, the share of the cells looked at, chosen evenly, and at most as many of the occupied ones."""
    occupancy_decay: float = 0.95
    """Factor on what a cell is remembered for, each time it is looked at."""
    march_steps: int = 1024
    """Steps along the diagonal of the box."""
    near_plane: float = 0.05
    """Nearest that anything is seen, in scene units."""
    early_stop: float = 1e-4
    """A rendered ray ends where less than this passes on."""
    training_depth: float = 0.0
    """A training ray ends where a first look at the distance says it is so many times 1/s inside: e to minus this is
    what light is left. 0: as published, it goes through to the box's far side."""

    # Weights of the losses: a number, or (start, from, to, end): linear between two steps.
    rgb_l1_mult: Weight = 0.0
    rgb_mse_mult: Weight = 10.0
    eikonal_loss_mult: Weight = 0.1
    """Of the squared difference of the gradient's length from 1 (Gropp et al. 2020), over all samples."""
    mask_loss_mult: Weight = 0.1
    """Of the binary cross-entropy of opacity and mask, where pictures have masks or alpha."""
    opaque_loss_mult: Weight = 0.0
    """Of the entropy of the opacity."""
    sparsity_loss_mult: Weight = 0.0
    """Of the mean of exp(-``sparsity_scale`` |distance|) over all samples."""
    sparsity_scale: float = 1.0
    distortion_loss_mult: Weight = 0.0
    """Of the distortion loss (Barron et al. 2022, equation 15) of the foreground's weights."""
    curvature_loss_mult: Weight = 0.0
    """Of the mean absolute Laplacian of the distance (Li et al. 2023, equation 9)."""

    def check(self) -> None:
        """Refuse numbers that no training can use.

        Raises:
            UserError: Names the field, what it is and what is allowed.
        """
        check_model(self)


@dataclass
class NeusHashDataManagerConfig(HashNerfDataManagerConfig):
    """nerfstudio's data manager; masks become the pictures' alpha channel, and rays are drawn everywhere."""

    _target: Any = field(default_factory=lambda: NeusHashDataManager)  # ns-render looks for a class


@dataclass
class NeusHashPipelineConfig(VanillaPipelineConfig):
    """Keeps the number of samples of a batch near a target by the number of rays."""

    _target: Any = field(default_factory=lambda: build_pipeline)
    first_rays: int = 256
    """Rays of the first batch."""
    max_rays: int = 8192
    """Rays of a batch at most."""
    target_samples: int | None = None
    """Samples of a batch; None: as many as ``first_rays`` rays would have if nothing were empty."""
    min_rays: int = 0
    """Rays of a batch aimed at: where they would be fewer, because the surface is still soft and little is empty, the
    march takes longer steps instead, up to ``max_stride``. 0: as published, whatever number of rays it takes."""
    max_stride: float = 8.0
    """Steps are lengthened by this factor at most."""

    def check(self) -> None:
        """Refuse numbers that no training can use.

        Raises:
            UserError: Names the field, what it is and what is allowed.
        """
        check_pipeline(self)


def neus_hash_config() -> TrainerConfig:
    """neus-hash with the hyper-parameters that instant-nsr-pl publishes for Blender scenes; the card has the others."""
    return TrainerConfig(
        method_name="neus-hash",
        steps_per_eval_batch=0,
        steps_per_save=2000,
        max_num_iterations=20_000,
        mixed_precision=False,
        pipeline=NeusHashPipelineConfig(
            datamanager=NeusHashDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=256, eval_num_rays_per_batch=4096
            ),
            model=NeusHashModelConfig(),
        ),
        optimizers={
            "grids": {"optimizer": GridAdamConfig(lr=1e-2, weight_decay=0.01), "scheduler": WarmUpThenDecayConfig()},
            "fields": {"optimizer": AdamWConfig(lr=1e-2), "scheduler": WarmUpThenDecayConfig()},
            "variance": {"optimizer": AdamWConfig(lr=1e-3), "scheduler": WarmUpThenDecayConfig()},
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )


neus_hash = MethodSpecification(
    config=neus_hash_config(),
    description="NeuS on a hash grid with Fieldbook's kernels: surfaces, normals and meshes, for CPU and GPU",
)
