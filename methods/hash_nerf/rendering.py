"""Rendering without gradients: rays march together, and those that ended fall out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.kernels.compositing import CompositeState, composite_alive_
from methods.kernels.marching import march_alive

if TYPE_CHECKING:
    from methods.hash_nerf.model import HashNerfModel

FIRST_SAMPLES = 4  # per ray and round; most rays need a handful, the last ones as many as there are steps
MOST_SAMPLES = 64
CHUNK = 8192  # samples per evaluation on a CPU: activations stay in the cache


@torch.no_grad()
def render_rays(model: HashNerfModel, origins: Tensor, directions: Tensor, near: Tensor, far: Tensor) -> CompositeState:
    """Composited colour, opacity and depth of rays.

    Args:
        model: Field, march and occupancy grid.
        origins: ``[N, 3]``.
        directions: ``[N, 3]``, unit.
        near: ``[N]``, where to start.
        far: ``[N]``, where to end.

    Returns:
        ``rgb`` ``[N, 3]`` without background, ``opacity`` ``[N]``, ``depth`` ``[N]`` (sum of weight times distance).
    """
    state = CompositeState(origins.new_zeros(len(origins), 3), near.new_zeros(len(near)), near.new_zeros(len(near)))
    features = model.field.ray_features(directions, None)
    t, count = near.clone(), FIRST_SAMPLES
    alive = torch.nonzero(near < far)[:, 0]
    while len(alive):
        samples = march_alive(origins, directions, t, far, alive, model.occupancy.occupied, model.march, count)
        density, colour = _evaluate(model, origins, directions, features, samples)
        alive = composite_alive_(
            samples.offsets,
            alive,
            density,
            colour,
            samples.t_start,
            samples.t_end,
            state,
            count,
            model.config.early_stop,
        )
        count = min(2 * count, MOST_SAMPLES)
    return state


def _evaluate(model: HashNerfModel, origins: Tensor, directions: Tensor, features: Tensor, samples) -> tuple:
    """Density ``[M]`` and colour ``[M, 3]`` at the samples."""
    ray, middle = samples.ray_index, samples.midpoints
    size = CHUNK if origins.device.type == "cpu" else max(len(ray), 1)
    densities, colours = [], []
    for r, t in zip(ray.split(size), middle.split(size), strict=True):
        density, raw = model.field.density(origins[r] + directions[r] * t[:, None])
        densities.append(density)
        colours.append(model.field.colour(raw, features, r))
    return torch.cat(densities), torch.cat(colours)
