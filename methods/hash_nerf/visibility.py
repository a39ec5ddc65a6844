"""Leaving out samples that no light reaches, before the expensive part of a training step."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels.compositing import composite
from methods.kernels.marching import Samples


@torch.no_grad()
def visible(samples: Samples, density: Tensor, passed: float) -> Samples:
    """The samples that more than ``passed`` of the light reaches.

    In a capture without a background most of the samples of a ray lie behind the surface that it sees. One look at
    their density costs a tenth of a training step through them.

    Args:
        samples: Packed, M of them.
        density: ``[M]``.
        passed: Transmittance at which a ray ends, in (0, 1).

    Returns:
        Every ray's samples up to and with the one that takes the transmittance below ``passed``.
    """
    blank = density.new_zeros(len(density), 1)
    made = composite(density, blank, samples.t_start, samples.t_end, samples.offsets, early_stop=passed)
    return select(samples, made.weights > 0)


def select(samples: Samples, keep: Tensor) -> Samples:
    """The samples where ``keep`` ``[M]`` is true."""
    before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
    chosen = keep.nonzero()[:, 0]
    parts = (samples.ray_index[chosen], samples.t_start[chosen], samples.t_end[chosen])
    return Samples(before[samples.offsets], *parts, samples.dropped)
