"""Rendering without gradients: rays march together, and those that ended fall out.

N rays, M samples, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from methods.kernels.compositing import CompositeState, composite_alive_
from methods.kernels.march_spec import March
from methods.kernels.marching import Samples, march_alive

FIRST_SAMPLES = 4  # per ray and round; most rays need a handful, the last ones as many as there are steps
MOST_SAMPLES = 64
CHUNK = 8192  # samples per evaluation on a CPU: activations stay in the cache

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Points ``[M, 3]``, each one's ray ``[M]`` and the length of its sample ``[M]``, to density ``[M]`` and ``[M, C]``."""


@torch.no_grad()
def render_rays(
    rays: tuple[Tensor, Tensor, Tensor, Tensor],
    occupied: Tensor,
    spec: March,
    evaluate: Evaluate,
    channels: int = 3,
    early_stop: float = 1e-4,
) -> CompositeState:
    """Composited channels, opacity and depth of rays.

    Args:
        rays: Origins and unit directions ``[N, 3]``, where to start and where to end ``[N]``.
        occupied: As ``march`` takes it.
        spec: Geometry and steps.
        evaluate: What is there.
        channels: C.
        early_stop: A ray ends where less than this passes on.

    Returns:
        ``rgb`` ``[N, C]`` without background, ``opacity`` ``[N]``, ``depth`` ``[N]`` (sum of weight times distance).
    """
    origins, directions, near, far = rays
    state = CompositeState(origins.new_zeros(len(origins), channels), torch.zeros_like(near), torch.zeros_like(near))
    t, count = near.clone(), FIRST_SAMPLES
    alive = torch.nonzero(near < far)[:, 0]
    while len(alive):
        samples = march_alive(origins, directions, t, far, alive, occupied, spec, count)
        density, values = _evaluate(origins, directions, samples, evaluate, channels)
        ends = (samples.t_start, samples.t_end)
        alive = composite_alive_(samples.offsets, alive, density, values, *ends, state, count, early_stop)
        count = min(2 * count, MOST_SAMPLES)
    return state


def _evaluate(
    origins: Tensor, directions: Tensor, samples: Samples, evaluate: Evaluate, channels: int
) -> tuple[Tensor, Tensor]:
    """Density ``[M]`` and values ``[M, C]`` at the samples."""
    if not len(samples):
        return origins.new_zeros(0), origins.new_zeros(0, channels)
    size = CHUNK if origins.device.type == "cpu" else len(samples)
    parts = (samples.ray_index, samples.midpoints, samples.t_end - samples.t_start)
    made = [
        evaluate(origins[ray] + directions[ray] * t[:, None], ray, length)
        for ray, t, length in zip(*(part.split(size) for part in parts), strict=True)
    ]
    densities, values = zip(*made, strict=True)
    return torch.cat(densities), torch.cat(values)
