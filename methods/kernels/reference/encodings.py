"""Twin of ``methods.kernels.encodings``."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics up to l = degree - 1; also takes float64.

    Args:
        directions: ``[N, 3]``, unit vectors.
        degree: At least 1.

    Returns:
        ``[N, degree^2]``.
    """
    x, y, z = directions.unbind(-1)
    made = [torch.empty(0)] * degree**2
    re, im = 1 + 0 * x, 0 * x  # (x + iy)^m; written with x, so that degree 1 too has a gradient, zero
    for m in range(degree):
        legendre = _legendre(z, m, degree)
        for l in range(m, degree):  # noqa: E741
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m))
            norm *= (-1) ** m * (math.sqrt(2) if m else 1)
            made[l * l + l + m] = norm * legendre[l - m] * re
            if m:
                made[l * l + l - m] = norm * legendre[l - m] * im
        re, im = x * re - y * im, x * im + y * re
    return torch.stack(made, dim=-1)


def _legendre(z: Tensor, m: int, degree: int) -> list[Tensor]:
    """P_lm(z) / (1 - z^2)^(m/2), without the factor (-1)^m, for l = m to degree - 1."""
    below, last = torch.zeros_like(z), torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))
    made = []
    for l in range(m, degree):  # noqa: E741
        made.append(last)
        below, last = last, ((2 * l + 1) * z * last - (l + m) * below) / (l - m + 1)
    return made


def frequency_encode(
    x: Tensor,
    octaves: int,
    include_input: bool = True,
    order: Literal["sin-cos-per-octave", "all-sines-first"] = "sin-cos-per-octave",
    scale: float = 1.0,
) -> Tensor:
    """Sines and cosines of ``2^k scale x``; also takes float64. See ``methods.kernels.encodings.frequency_encode``."""
    phases = [x * (scale * 2**k) for k in range(octaves)]
    sines, cosines = [p.sin() for p in phases], [p.cos() for p in phases]
    if order == "all-sines-first":
        waves = sines + cosines
    else:
        waves = [wave for pair in zip(sines, cosines, strict=True) for wave in pair]
    return torch.cat([x, *waves] if include_input else waves, dim=-1)
