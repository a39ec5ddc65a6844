"""Gradient and Laplacian of a field from its values at a point and at taps around it, by differences.

Li et al. 2023 ("Neuralangelo", sections 3.1 and 3.2) take them so that neighbouring grid cells learn together.

N points.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Taps = Literal["axes", "tetrahedron"]
DIRECTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "axes": ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)),
    "tetrahedron": ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)),
}
"""Of the taps, in their order; each is scaled to the length eps."""


def tap_offsets(eps: float, kind: Taps = "tetrahedron", device: torch.device | str | None = None) -> Tensor:
    """From a point to its taps, ``[K, 3]`` float32: K = 4 (``tetrahedron``) or 6 (``axes``), each of length ``eps``.

    Raises:
        ValueError: An eps that is not above zero and finite, or another kind.
    """
    return torch.tensor(_directions(eps, kind), dtype=torch.float32, device=device) * _step(eps, kind)


def gradient_and_laplacian(
    centre: Tensor, taps: Tensor, eps: float, kind: Taps = "tetrahedron"
) -> tuple[Tensor, Tensor]:
    """Derivatives from values ``f(x)`` and ``f(x + offsets)``, the offsets those of ``tap_offsets``.

    Both are exact for linear fields, the Laplacian also for quadratic ones. Of the gradient's error, ``axes`` have
    ``eps^2 / 6`` times the third derivatives. The ``tetrahedron`` has ``eps / sqrt(3)`` times ``f_yz`` in x, and so on
    in turn, but takes 4 values for 6. Taps that were clamped into a box are nearer than eps, which nobody corrects.

    Args:
        centre: ``[N]`` float32 or float64. In float32 the Laplacian's rounding error is about ``1e-6 |f| / eps^2``.
        taps: ``[N, K]`` of the same type, in ``tap_offsets``' order.
        eps: Distance of a tap from its point, in the unit that derivatives shall be in.
        kind: Where the taps lie.

    Returns:
        The gradient ``[N, 3]`` and the Laplacian ``[N]``, differentiable.

    Raises:
        TypeError: A type of less than 32 bits: it leaves nothing of such differences.
        ValueError: A wrong shape, eps or kind.
    """
    directions, step = _directions(eps, kind), _step(eps, kind)
    if centre.dtype not in (torch.float32, torch.float64) or taps.dtype != centre.dtype:
        raise TypeError(f"centre and taps must both be float32 or float64, got {centre.dtype} and {taps.dtype}")
    if centre.dim() != 1 or taps.shape != (len(centre), len(directions)):
        raise ValueError(
            f"centre must be [N] and taps [N, {len(directions)}], got {list(centre.shape)} and {list(taps.shape)}"
        )
    along = torch.tensor(directions, dtype=taps.dtype, device=taps.device)
    square = along.square().sum(dim=0)[0]  # of all taps' parts along an axis, the same for each: 2 or 4
    change = taps - centre[:, None]  # first, because they are small: sums of the values themselves would round more
    return change @ along / (square * step), 2 * change.sum(dim=-1) / (square * step**2)


def _directions(eps: float, kind: str) -> tuple[tuple[int, int, int], ...]:
    if kind not in DIRECTIONS:
        raise ValueError(f"taps must be one of {tuple(DIRECTIONS)}, got {kind!r}")
    if not (0 < eps < math.inf):
        raise ValueError(f"eps must be above 0 and finite, got {eps}")
    return DIRECTIONS[kind]


def _step(eps: float, kind: str) -> float:
    """A tap's part along an axis that its direction has."""
    return eps if kind == "axes" else eps / math.sqrt(3)
