"""What each method needs and gives, and its presets, as tables of dotted overrides of nerfstudio's configs.

Import-light on purpose: the study, the command line's help and Snakemake read these tables without torch.

nerfstudio's camera optimiser and appearance embedding are not in these tables: the runner turns them off for every
method, whether it has an entry or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fieldbook.errors import UserError, nearest
from methods.external.template import runs_commands
from methods.hash_nerf.presets import PRESETS as HASH_NERF
from methods.neus_hash.presets import PRESETS as NEUS_HASH

Overrides = Mapping[str, Any]

PRESETS = ("smoke", "laptop", "paper")
_MODEL = "pipeline.model."
_RAYS = "pipeline.datamanager.train_num_rays_per_batch"


SCENE_NEEDS = {
    "poses": "a pose for every picture",
    "masks": "masks",
    "depth": "depth maps",
    "semantics": "semantic label maps",
    "time": "a time for every picture of a moving scene",
    "prompt": "a text prompt and a diffusion model in place of pictures",
    "photo-collection": "a collection of photographs by many cameras, in nerfstudio's phototourism form",
}
"""What a method may need of a scene, in words for the reason of an infeasible cell."""


@dataclass(frozen=True)
class Method:
    """One method of nerfstudio's registry.

    Attributes:
        needs: What the scene must have, of ``SCENE_NEEDS``, and the machine: ``gpu``, ``tinycudann``, ``nerfacc`` and
            ``gsplat`` (their compiled CUDA parts).
        gives: What can be rendered or exported: ``rgb``, ``depth``, ``opacity``, ``normals``, ``mesh``, ``video``.
        presets: Dotted overrides by preset; ``paper`` is what nerfstudio or the publication trains with.
        base: Overrides under every preset.
        depth_is_z: Depth is measured along the optical axis, not along the ray.
    """

    needs: tuple[str, ...] = ("poses",)
    gives: tuple[str, ...] = ("rgb", "depth", "opacity")
    presets: Mapping[str, Overrides] = field(default_factory=dict)
    base: Overrides = field(default_factory=dict)
    depth_is_z: bool = False


def _schedule(group: str, lr: float, lr_final: float, steps: int, **more: Any) -> dict[str, Any]:
    """Adam's learning rate for ``group``: exponential from ``lr`` to ``lr_final`` over ``steps``."""
    return {
        f"optimizers.{group}.optimizer.lr": lr,
        f"optimizers.{group}.scheduler": {"lr_final": lr_final, "max_steps": steps, **more},
    }


def _proposal(levels: int, max_res: int, log2_size: int) -> dict[str, Any]:
    """One proposal network: a hash grid read by a linear layer."""
    grid = {"num_levels": levels, "max_res": max_res, "log2_hashmap_size": log2_size}
    return {"hidden_dim": 16, "use_linear": True, **grid}


_TORCH = {f"{_MODEL}implementation": "torch"}
# On a CPU every gather's gradient is as large as the table, so small tables, small batches and more steps win: at 40 s
# of one core, 256 rays and 2^15 entries reach 23 dB where 1024 rays and 2^17 reach 18 (a ball on a floor, 160 x 120).
_NERFACTO_SMALL = {
    f"{_MODEL}num_levels": 6,
    f"{_MODEL}features_per_level": 4,
    f"{_MODEL}max_res": 512,
    f"{_MODEL}log2_hashmap_size": 15,
    f"{_MODEL}hidden_dim": 32,
    f"{_MODEL}hidden_dim_color": 32,
    f"{_MODEL}num_proposal_iterations": 1,
    f"{_MODEL}num_proposal_samples_per_ray": (48,),
    f"{_MODEL}num_nerf_samples_per_ray": 16,
    f"{_MODEL}proposal_net_args_list": [_proposal(4, 128, 15)],
    f"{_MODEL}proposal_warmup": 100,
    f"{_MODEL}proposal_weights_anneal_max_num_iters": 200,
    f"{_MODEL}eval_num_rays_per_chunk": 4096,
}


def _nerfacto_steps(steps: int, rays: int, lr: float) -> dict[str, Any]:
    groups = ("fields", "proposal_networks")
    rates = {k: v for g in groups for k, v in _schedule(g, lr, 1e-3, steps).items()}
    return {"max_num_iterations": steps, _RAYS: rays, **rates}


_NERFACTO = Method(
    base=_TORCH,
    presets={
        "smoke": {
            **_NERFACTO_SMALL,
            **_nerfacto_steps(200, 128, 1e-2),
            f"{_MODEL}num_levels": 4,
            f"{_MODEL}max_res": 64,
            f"{_MODEL}log2_hashmap_size": 12,
            f"{_MODEL}proposal_net_args_list": [_proposal(3, 32, 12)],
        },
        # So few steps leave small saturated things grey. On the default study a colour head of 64 instead of 32 gains
        # 1.8 dB with six frames, a rate of 2e-2 instead of 1e-2 another 0.6 dB with all; neither takes longer.
        "laptop": {**_NERFACTO_SMALL, **_nerfacto_steps(1800, 256, 2e-2), f"{_MODEL}hidden_dim_color": 64},
        "paper": {},
    },
)

_NERF_SMOKE = {
    "max_num_iterations": 40,
    _RAYS: 64,
    "optimizers.fields.optimizer.lr": 2e-3,
    f"{_MODEL}num_coarse_samples": 16,
    f"{_MODEL}num_importance_samples": 16,
}
_NERF_LAPTOP = {
    "max_num_iterations": 1000,
    _RAYS: 256,
    f"{_MODEL}num_coarse_samples": 24,
    f"{_MODEL}num_importance_samples": 24,
    **_schedule("fields", 1e-3, 1e-4, 1000),
}

# Mip-NeRF (Barron et al. 2021): 4096 rays, 1 M steps, 5e-4 -> 5e-6 with a 2500-step warm-up.
_MIPNERF = Method(
    presets={
        "smoke": _NERF_SMOKE,
        "laptop": _NERF_LAPTOP,
        "paper": {
            "max_num_iterations": 1_000_000,
            _RAYS: 4096,
            **_schedule("fields", 5e-4, 5e-6, 1_000_000, warmup_steps=2500, lr_pre_warmup=5e-6),
        },
    }
)

# NeRF (Mildenhall et al. 2020), section 5.3: 4096 rays, 64 + 128 samples, 5e-4 -> 5e-5; 100 k to 300 k steps.
_NERF = Method(
    presets={
        "smoke": _NERF_SMOKE,
        "laptop": _NERF_LAPTOP,
        "paper": {
            "max_num_iterations": 200_000,
            _RAYS: 4096,
            **_schedule("fields", 5e-4, 5e-5, 200_000),
        },
    }
)

_TENSORF_SMALL = {
    f"{_MODEL}num_den_components": 8,
    f"{_MODEL}num_color_components": 16,
    f"{_MODEL}num_uniform_samples": 64,
    f"{_MODEL}num_samples": 24,
}
_TENSORF = Method(
    presets={
        "smoke": {
            **_TENSORF_SMALL,
            "max_num_iterations": 20,
            _RAYS: 128,
            f"{_MODEL}init_resolution": 32,
            f"{_MODEL}final_resolution": 48,
            f"{_MODEL}upsampling_iters": (10, 15),
        },
        "laptop": {
            **_TENSORF_SMALL,
            "max_num_iterations": 1500,
            _RAYS: 1024,
            f"{_MODEL}init_resolution": 64,
            f"{_MODEL}final_resolution": 128,
            f"{_MODEL}upsampling_iters": (300, 600, 900),
            **_schedule("fields", 1e-3, 1e-4, 1500),
            **_schedule("encodings", 2e-2, 2e-3, 1500),
        },
        "paper": {},
    },
)

_STEPS_ONLY = {"smoke": {"max_num_iterations": 20}, "laptop": {"max_num_iterations": 2000}, "paper": {}}
_NGP = Method(
    needs=("poses", "gpu", "nerfacc"),
    presets=_STEPS_ONLY,
)
_SPLAT = Method(
    needs=("poses", "gpu", "gsplat"),
    presets=_STEPS_ONLY,
    depth_is_z=True,
)
_NEUS = Method(
    needs=("poses", "tinycudann", "gpu"),
    gives=("rgb", "depth", "opacity", "normals", "mesh"),
    presets=_STEPS_ONLY,
)

# Its own model blends pictures that have an alpha channel, over another colour at every ray.
_HASH_NERF = Method(base={"pipeline.datamanager.dataparser.keep_alpha": True}, presets=HASH_NERF)
_NEUS_HASH = Method(
    gives=("rgb", "depth", "opacity", "normals", "mesh"),
    base={"pipeline.datamanager.dataparser.keep_alpha": True},
    presets=NEUS_HASH,
)

METHODS: dict[str, Method] = {
    "hash-nerf": _HASH_NERF,
    "neus-hash": _NEUS_HASH,
    "nerfacto": _NERFACTO,
    "nerfacto-big": Method(base=_TORCH, presets={"paper": {}}),
    "nerfacto-huge": Method(base=_TORCH, presets={"paper": {}}),
    "mipnerf": _MIPNERF,
    "vanilla-nerf": _NERF,
    "tensorf": _TENSORF,
    "instant-ngp": _NGP,
    "instant-ngp-bounded": _NGP,
    "splatfacto": _SPLAT,
    "splatfacto-big": _SPLAT,
    "neus": _NEUS,
    "neus-facto": _NEUS,
    "depth-nerfacto": Method(needs=("poses", "depth"), base=_TORCH, presets=_STEPS_ONLY),
    "dnerf": Method(needs=("poses", "time"), presets=_STEPS_ONLY),
    "generfacto": Method(needs=("prompt", "gpu"), presets=_STEPS_ONLY),
    "phototourism": Method(needs=("poses", "photo-collection"), base=_TORCH, presets=_STEPS_ONLY),
    "semantic-nerfw": Method(needs=("poses", "semantics"), presets=_STEPS_ONLY),
}
"""Fieldbook's methods and nerfstudio's own."""


def method_entry(method: str) -> Method:
    """The table's entry; a method that another package registers with nerfstudio gets one with ``paper`` alone."""
    return METHODS.get(method) or Method(presets={"paper": {}})


def gives_mesh(run: Mapping[str, Any]) -> bool:
    """Whether a mesh is taken of a run, given its spec: its method is in the table with a surface."""
    return not runs_commands(run) and "mesh" in method_entry(str(run.get("method"))).gives


def preset_overrides(method: str, preset: str) -> dict[str, Any]:
    """Dotted overrides of ``method`` under ``preset``, on top of nerfstudio's defaults.

    Raises:
        UserError: The method has no such preset.
    """
    entry = method_entry(method)
    if preset not in entry.presets:
        raise UserError(f"method {method!r} has no preset {preset!r}; {nearest(preset, entry.presets)}")
    return {**entry.base, **entry.presets[preset]}
