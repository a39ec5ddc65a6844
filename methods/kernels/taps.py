"""Gradient and Laplacian of a scalar from its values at a point and at taps around it.

N points, K taps: 4 corners of a tetrahedron, or 6 points to and fro along the axes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TETRAHEDRON = [[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]]
"""Quílez 2015, "Normals for an SDF", its tetrahedron; over the square root of 3 of length 1."""
AXES = [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]


def tap_directions(number: int, device: torch.device | str = "cpu") -> Tensor:
    """Directions of 4 or 6 taps, ``[K, 3]`` float32, of length 1.

    Raises:
        ValueError: Another number.
    """
    if number not in (4, 6):
        raise ValueError(f"there are 4 or 6 taps, not {number}")
    directions = torch.tensor(TETRAHEDRON if number == 4 else AXES, dtype=torch.float32, device=device)
    return directions / math.sqrt(3) if number == 4 else directions


def gradient_and_laplacian(centre: Tensor, taps: Tensor, length: float) -> tuple[Tensor, Tensor]:
    """Derivatives by differences, from the values at ``x`` and at ``x + length * tap_directions(K)[k]``.

    Six taps: central differences (Li et al. 2023, "Neuralangelo", equations 5 and 8), of second order. Four: exact
    Laplacian of a quadratic, but the gradient errs by ``length / sqrt(3)`` times the mixed second derivatives.

    Args:
        centre: ``[N]``.
        taps: ``[N, K]``.
        length: Of the step, in units of x.

    Returns:
        Gradient ``[N, 3]`` and Laplacian ``[N]``; differentiable.
    """
    directions = tap_directions(taps.shape[1], taps.device).to(taps.dtype)
    gradient = (taps @ directions) * (3 / (taps.shape[1] * length))
    laplacian = (taps - centre[:, None]).sum(dim=1) * (6 / (taps.shape[1] * length**2))
    return gradient, laplacian
