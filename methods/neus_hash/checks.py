"""What neus-hash's config may hold; no torch, because a study's method is checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from fieldbook.errors import UserError
from methods.neus_hash.schedules import is_off

_POSITIVE = (
    *("radius", "object_share", "sphere_radius", "march_steps", "near_plane", "background_samples", "background_near"),
    *("background_far", "background_min_step", "occupancy_res", "background_occupancy_res", "occupancy_every"),
    *("num_levels", "base_res", "hidden_dim", "num_layers", "geo_feat_dim", "background_features", "level_every"),
    *("eval_num_rays_per_chunk", "occupancy_fraction", "num_layers_color", "sh_degree"),
)
_NOT_NEGATIVE = (
    *("cos_anneal_end", "alpha_epsilon", "occupancy_threshold", "background_occupancy_threshold", "occupancy_warmup"),
    *("training_depth", "early_stop", "sparsity_scale", "occupancy_decay"),
)
_SHARES = ("object_share", "occupancy_fraction", "occupancy_decay", "early_stop")
SHARPEST = 1.38
"""v at which exp(10 v) is a million, where NeuS's sharpness is cut."""


def check_model(config: Any) -> None:
    """Check a ``NeusHashModelConfig``.

    Raises:
        UserError: A number is out of its range, a weight is negative or ends before it starts, or the curvature loss
            has no second derivatives to work on.
    """
    _require(config, _POSITIVE, lambda v: v > 0, "above 0")
    _require(config, _NOT_NEGATIVE, lambda v: v >= 0, "0 and more")
    _require(config, _SHARES, lambda v: v <= 1, "at most 1")
    _require(config, ("init_variance",), lambda v: -SHARPEST <= v <= SHARPEST, f"from -{SHARPEST} to {SHARPEST}")
    if config.start_levels is not None:
        _require(config, ("start_levels",), lambda v: 1 <= v <= config.num_levels, "from 1 to num_levels")
    for name in (f.name for f in fields(config) if f.name.endswith("_mult")):
        _check_weight(name, getattr(config, name))
    if config.gradient == "analytic" and not is_off(config.curvature_loss_mult):
        raise UserError("curvature_loss_mult needs second derivatives: set pipeline.model.gradient to numerical")


def check_pipeline(config: Any) -> None:
    """Check a ``NeusHashPipelineConfig``.

    Raises:
        UserError: A number is out of its range.
    """
    _require(config, ("first_rays", "max_rays"), lambda v: v >= 1, "1 and more")
    _require(config, ("min_rays",), lambda v: v >= 0, "0 and more")
    _require(config, ("max_stride",), lambda v: v >= 1, "1 and more")
    if config.target_samples is not None:
        _require(config, ("target_samples",), lambda v: v >= 1, "1 and more")


def _require(config: Any, names: Iterable[str], allowed: Any, words: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and allowed(value)):
            raise UserError(f"neus-hash: {name} is {value}; allowed: {words}")


def _check_weight(name: str, weight: Any) -> None:
    values = (weight,) if isinstance(weight, int | float) else tuple(weight)
    if len(values) == 4 and not values[0] < values[3]:
        raise UserError(f"neus-hash: {name} is {weight}; a ramp is [start, from, to, end] with start before end")
    levels = values if len(values) == 1 else values[1:3]
    if not all(math.isfinite(v) for v in values) or any(v < 0 for v in levels):
        raise UserError(f"neus-hash: {name} is {weight}; a weight is 0 and more, or [start, from, to, end] of such")
