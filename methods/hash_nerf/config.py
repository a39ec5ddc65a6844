"""nerfstudio's entry point for ``hash-nerf``; imports no model code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig, OptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import ModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from methods.hash_nerf.datamanager import HashNerfDataManager


def build_model(config: HashNerfModelConfig, **kwargs: Any) -> Any:
    """The model; imported when it is built."""
    from methods.hash_nerf.model import HashNerfModel

    return HashNerfModel(config, **kwargs)


def build_pipeline(config: HashNerfPipelineConfig, **kwargs: Any) -> Any:
    """The pipeline; imported when it is built."""
    from methods.hash_nerf.pipeline import HashNerfPipeline

    return HashNerfPipeline(config, **kwargs)


def build_grid_adam(params: Any, **kwargs: Any) -> Any:
    """The grid's optimiser; imported when it is built."""
    from methods.kernels.adam import GridAdam

    return GridAdam(params, **kwargs)


class PlainDecay(ExponentialDecayScheduler):
    """nerfstudio's decay in Python's floats: those of NumPy are why torch 2.6 refuses what ``ns-train`` saves."""

    def get_scheduler(self, optimizer: Any, lr_init: float) -> Any:
        """The schedule; every rate after the first step is a plain number."""
        scheduler: Any = super().get_scheduler(optimizer, lr_init)
        scheduler.lr_lambdas = [lambda step, rate=rate: float(rate(step)) for rate in scheduler.lr_lambdas]
        return scheduler


@dataclass
class GridAdamConfig(OptimizerConfig):
    """Adam that skips grid entries without a gradient."""

    _target: Any = build_grid_adam
    lr: float = 1e-2
    eps: float = 1e-15
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    """Decoupled, of all entries."""


@dataclass
class HashNerfModelConfig(ModelConfig):
    """hash-nerf's model (Müller et al. 2022, section 5.4 and appendix E)."""

    _target: Any = field(default_factory=lambda: build_model)
    enable_collider: bool = False
    """The rays' ends come from the boxes below, not from a collider."""
    collider_params: dict[str, float] | None = None
    eval_num_rays_per_chunk: int = 32768
    """Rays rendered at a time."""

    num_levels: int = 16
    features_per_level: int = 2
    base_res: int = 16
    max_res: int = 2048
    """Resolutions of the coarsest and the finest level over the whole encoded space."""
    log2_hashmap_size: int = 19
    hidden_dim: int = 64
    """Width of the hidden layers."""
    geo_feat_dim: int = 15
    """Features handed from the density network to the colour network."""
    num_layers_color: int = 2
    """Hidden layers of the colour network; the density network has one."""
    initial_density: float = 0.05
    """Density everywhere at the start, per half side of the scene box. Thin at first, emptiness is recognised as such
    after a few hundred steps; a fog has to be cleared sample by sample."""
    sh_degree: int = 4
    """Degree of the direction's spherical harmonics; degree^2 numbers."""
    appearance_embedding_dim: int = 0
    """Numbers learnt per training picture and fed to the colour network; 0 = none. Renders use their mean."""

    unbounded: bool | None = None
    """Whether the scene goes on beyond the scene box: nested boxes for the march, contracted positions for the grid.
    None: yes unless the pictures have an alpha channel."""
    max_cascades: int = 5
    """Nested boxes at most, each twice as large as the one before."""
    occupancy_res: int = 128
    """Cells per axis of each box."""
    occupancy_threshold: float = 0.01
    """A cell whose opacity over one step of its box stays below this is skipped."""
    occupancy_every: int = 16
    """Steps between updates of the occupancy grid."""
    occupancy_warmup: int = 256
    """Steps in which every update looks at all cells."""
    occupancy_fraction: float = 0.25
    """After that, the share of a box's cells looked at, chosen evenly, and at most as many of the occupied ones."""

    occupancy_decay: float = 0.95
    """Factor on what a cell is remembered for, each time it is looked at."""

    skip_unseen: bool = True
    """Whether to leave out cells that no training camera sees, as instant-ngp does. Only where all cameras are pinholes
    without distortion; they are taken to stay where they are at the start."""

    march_steps: int = 1024
    """Steps along the diagonal of the smallest box."""
    cone_angle: float = 0.00390625
    """Growth of the step with distance, unbounded scenes only."""
    max_samples_per_ray: int = 1024
    """Of a ray in training: what lies behind them does not learn from it. Rendering has no limit."""
    near_plane: float = 0.05
    far_plane: float = 1000.0
    early_stop: float = 1e-4
    """A ray ends where less than this passes on."""

    training_stop: float = 1e-3
    """The same while training, found by a first look at the density alone: samples behind it are left out. 0: none."""

    background: Literal["random", "white", "black"] = "random"
    """What lies behind everything while training. Random keeps emptiness from being painted; pictures with an alpha
    channel are blended over the same colour."""
    loss: Literal["mse", "huber"] = "huber"
    distortion_loss_mult: float = 0.0
    """Weight of the distortion loss (Barron et al. 2022, equation 15), over distances in far planes."""


@dataclass
class HashNerfDataManagerConfig(VanillaDataManagerConfig):
    """nerfstudio's data manager, which keeps the alpha channel of pictures."""

    _target: Any = field(default_factory=lambda: HashNerfDataManager)  # ns-render looks for a class


@dataclass
class HashNerfPipelineConfig(VanillaPipelineConfig):
    """Keeps the number of samples of a batch near a target by the number of rays."""

    _target: Any = field(default_factory=lambda: build_pipeline)
    target_samples: int = 1 << 18
    """Samples per batch."""
    min_rays: int = 1024
    """Rays per batch aimed at: where they would be fewer, because little is known to be empty yet, the march takes
    longer steps instead, up to ``max_stride``. The first batch has 256, and each at most twice the one before."""
    max_rays: int = 1 << 15
    """Rays per batch at most."""
    max_stride: float = 8.0
    """Steps are lengthened by this factor at most."""


def hash_nerf_config() -> TrainerConfig:
    """hash-nerf as published: 2^18 samples a step, 16 levels of 2 features, tables of 2^19 rows."""
    steps = 20_000
    decay = ExponentialDecaySchedulerConfig(_target=PlainDecay, lr_final=1e-4, max_steps=steps)
    return TrainerConfig(
        method_name="hash-nerf",
        steps_per_eval_batch=0,
        steps_per_save=2000,
        max_num_iterations=steps,
        mixed_precision=False,
        pipeline=HashNerfPipelineConfig(
            datamanager=HashNerfDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=4096, eval_num_rays_per_batch=4096
            ),
            model=HashNerfModelConfig(),
        ),
        optimizers={
            "grids": {"optimizer": GridAdamConfig(lr=1e-2), "scheduler": decay},
            "fields": {"optimizer": AdamOptimizerConfig(lr=1e-2, eps=1e-15, weight_decay=1e-6), "scheduler": decay},
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    )


hash_nerf = MethodSpecification(
    config=hash_nerf_config(), description="Hash grid and occupancy marching on Fieldbook's kernels, for CPU and GPU"
)
