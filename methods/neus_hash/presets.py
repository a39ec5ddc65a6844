"""neus-hash's presets, as dotted overrides; plain values, read without torch."""

from __future__ import annotations

from typing import Any

_MODEL = "pipeline.model."


def steps(number: int, samples: int, rays: int) -> dict[str, Any]:
    """So many steps of about so many samples; all schedules over them."""
    schedules = {"warm_up": number // 20, "max_steps": number, "final": 0.05}
    rates = {
        f"optimizers.{group}.scheduler.{key}": value
        for group in ("grids", "fields", "variance")
        for key, value in schedules.items()
    }
    return {
        "max_num_iterations": number,
        "pipeline.target_samples": samples,
        "pipeline.max_rays": rays,
        f"{_MODEL}cos_anneal_end": number // 4,
        **rates,
    }


# Half the levels with twice the features read half as many cache lines; a table of 2^16 rows x 4 floats is 1 MB.
_SMALL = {
    f"{_MODEL}num_levels": 8,
    f"{_MODEL}features_per_level": 4,
    f"{_MODEL}base_res": 16,
    f"{_MODEL}max_res": 512,
    f"{_MODEL}log2_hashmap_size": 16,
    f"{_MODEL}num_layers_color": 1,
    f"{_MODEL}march_steps": 256,
    f"{_MODEL}occupancy_res": 64,
    f"{_MODEL}occupancy_warmup": 17,  # one look at all cells
    f"{_MODEL}occupancy_fraction": 0.125,
    f"{_MODEL}background_occupancy_res": 64,
    f"{_MODEL}background_samples": 32,
    f"{_MODEL}alpha_epsilon": 0.0,  # the inside then counts as empty, and is not marched through
    f"{_MODEL}early_stop": 1e-3,
    f"{_MODEL}training_depth": 8.0,
    # Of steps four times as long as published: cells in which a published step would have 0.0025.
    f"{_MODEL}occupancy_threshold": 0.01,
    "pipeline.min_rays": 512,
    "optimizers.fields.optimizer.lr": 5e-3,
    "optimizers.variance.optimizer.lr": 2e-3,
    "optimizers.grids.optimizer.weight_decay": 0.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        **_SMALL,
        **steps(300, 1 << 12, 1024),
        f"{_MODEL}num_levels": 4,
        f"{_MODEL}max_res": 64,
        f"{_MODEL}log2_hashmap_size": 12,
        f"{_MODEL}hidden_dim": 32,
        f"{_MODEL}occupancy_res": 32,
        f"{_MODEL}background_occupancy_res": 32,
        f"{_MODEL}march_steps": 128,
    },
    "laptop": {**_SMALL, **steps(3000, 1 << 14, 4096)},
    "paper": {},
}
