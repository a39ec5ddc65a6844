"""Twin of ``methods.kernels.distortion``: all pairs of each ray's samples."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def distortion(weights: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor) -> Tensor:
    """How far each ray's weights lie from one another; also takes float64.

    Args:
        weights: ``[M]``.
        t_start: ``[M]``.
        t_end: ``[M]``.
        offsets: ``[N + 1]`` int64.

    Returns:
        ``[N]``.
    """
    middle, length = (0.5 * (t_start + t_end)).detach(), (t_end - t_start).detach()
    bounds = offsets.tolist()
    losses = [_one_ray(weights[a:b], middle[a:b], length[a:b]) for a, b in itertools.pairwise(bounds)]
    return torch.stack(losses) if losses else weights[:0]


def _one_ray(weights: Tensor, middle: Tensor, length: Tensor) -> Tensor:
    between = (weights[:, None] * weights * (middle[:, None] - middle).abs()).sum()
    return between + (weights.square() * length).sum() / 3
