"""hash-nerf's presets, as dotted overrides; plain values, read without torch."""

from __future__ import annotations

from typing import Any

_MODEL = "pipeline.model."


def steps(number: int, samples: int) -> dict[str, Any]:
    """So many steps of so many samples; the learning rates fall to a thirtieth over them."""
    schedules = {"grids": {"lr_final": 1e-3, "max_steps": number}, "fields": {"lr_final": 3e-4, "max_steps": number}}
    return {
        "max_num_iterations": number,
        "pipeline.target_samples": samples,
        "optimizers.grids.optimizer.lr": 3e-2,
        **{f"optimizers.{group}.scheduler": schedule for group, schedule in schedules.items()},
    }


# Half the levels with twice the features read half as many cache lines; a table of 2^17 rows x 4 floats is 2 MB.
_SMALL = {
    f"{_MODEL}num_levels": 8,
    f"{_MODEL}features_per_level": 4,
    f"{_MODEL}max_res": 2048,
    f"{_MODEL}log2_hashmap_size": 17,
    f"{_MODEL}occupancy_res": 64,
    f"{_MODEL}occupancy_warmup": 17,  # one look at all cells
    f"{_MODEL}occupancy_fraction": 0.125,
    f"{_MODEL}occupancy_threshold": 0.05,  # what is never seen stays at 0.013 to 0.03, and is not worth marching
    f"{_MODEL}occupancy_decay": 0.85,  # slower than a thin part is missed by the one point looked at per cell
    f"{_MODEL}initial_density": 1.0,
    f"{_MODEL}distortion_loss_mult": 0.03,
    f"{_MODEL}loss": "mse",
    "pipeline.min_rays": 512,
    f"{_MODEL}num_layers_color": 1,
    f"{_MODEL}march_steps": 256,
    f"{_MODEL}max_samples_per_ray": 256,
    f"{_MODEL}early_stop": 1e-3,  # a quarter of a grey level in 8 bits
}

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        **_SMALL,
        **steps(300, 1 << 13),
        f"{_MODEL}log2_hashmap_size": 12,
        f"{_MODEL}max_res": 128,
        f"{_MODEL}hidden_dim": 16,
        f"{_MODEL}num_layers_color": 1,
        f"{_MODEL}occupancy_res": 32,
        f"{_MODEL}march_steps": 128,
    },
    "laptop": {**_SMALL, **steps(3000, 1 << 14)},
    "paper": {},
}
