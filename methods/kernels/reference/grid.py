"""Twin of ``methods.kernels.grid``: gathers and products that autograd differentiates, twice if asked."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.kernels.grid import Grid, Level

PRIMES = (1, 2654435761, 805459861)
WORD = 2**32


def grid_encode(
    x: Tensor, table: Tensor, grid: Grid, level_mask: int | None = None, sink: Tensor | None = None
) -> Tensor:
    """Interpolated features of every level at every point; also takes float64.

    Args:
        x: ``[N, D]``, positions in [0, 1].
        table: ``[R, F]``.
        grid: The grid's shape.
        level_mask: Bit l switches level l on; None switches all on.
        sink: Not used: autograd keeps the gradient here.

    Returns:
        ``[N, L * F]`` in x's type.
    """
    mask = (1 << grid.levels) - 1 if level_mask is None else level_mask
    made = []
    for index, level in enumerate(grid.table):
        if mask >> index & 1:
            made.append(_level(x, table, grid, level))
        else:
            made.append(x.new_zeros(x.shape[0], grid.features))
    return torch.cat(made, dim=-1)


def grid_encode_taps(
    x: Tensor,
    offsets: Tensor,
    table: Tensor,
    grid: Grid,
    level_mask: int | None = None,
    sink: Tensor | None = None,
    clamped: bool = False,
) -> Tensor:
    """Features at every point and at ``x + offsets``, as ``grid_encode`` gives them; also takes float64.

    Args:
        x: ``[N, D]``, positions in [0, 1].
        offsets: ``[K, D]``.
        table: ``[R, F]``.
        grid: The grid's shape.
        level_mask: As in ``grid_encode``.
        sink: Not used.
        clamped: Clamp taps to [0, 1].

    Returns:
        ``[N, 1 + K, L * F]`` in x's type: the point, then its taps.
    """
    taps = x[:, None] + offsets
    places = torch.cat([x[:, None], taps.clamp(0, 1) if clamped else taps], dim=1)
    features = grid_encode(places.flatten(0, 1), table, grid, level_mask)
    return features.view(x.shape[0], 1 + offsets.shape[0], grid.width)


def grid_input_gradient(
    x: Tensor, table: Tensor, grid: Grid, grad: Tensor, level_mask: int | None = None, sink: Tensor | None = None
) -> Tensor:
    """Gradient of ``sum(grid_encode(x) * grad)`` with respect to x, differentiable as often as asked.

    Args:
        x: ``[N, D]``, positions in [0, 1].
        table: ``[R, F]``.
        grid: The grid's shape.
        grad: ``[N, L * F]``.
        level_mask: As in ``grid_encode``.
        sink: Not used.

    Returns:
        ``[N, D]`` in x's type.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        features = grid_encode(x, table, grid, level_mask)
    if not features.requires_grad:  # every level is off
        return torch.zeros_like(x)
    return torch.autograd.grad(features, x, grad, create_graph=again)[0]


def _level(x: Tensor, table: Tensor, grid: Grid, level: Level) -> Tensor:
    # The cell is found in float32 whatever x's type is, and with one rounding, as the kernel's fused product finds it.
    position = x * level.scale + level.shift
    cell = torch.floor((x.detach().float().double() * level.scale + level.shift).float())
    t = position - cell.to(position.dtype)
    far = t * t * (3 - 2 * t) if grid.interpolation == "smoothstep" else t
    total = x.new_zeros(x.shape[0], grid.features)
    for corner in itertools.product((0, 1), repeat=grid.dims):
        offset = torch.tensor(corner, device=x.device)
        weight = torch.where(offset.bool(), far, 1 - far).prod(dim=-1)
        rows = row_of(cell.long() + offset, level, grid.dims)
        total = total + weight[:, None] * table[rows + level.offset].to(x.dtype)
    if grid.dialect == "torch-ngp":
        inside = ((x >= 0) & (x <= 1)).all(dim=-1, keepdim=True)
        total = torch.where(inside, total, torch.zeros_like(total))
    return total


def row_of(corner: Tensor, level: Level, dims: int) -> Tensor:
    """Row of integer corners ``[N, D]`` within a level's table, in 32-bit unsigned arithmetic: ``[N]`` int64."""
    corner = corner % WORD
    if level.hashed:
        row = torch.zeros_like(corner[:, 0])
        for d in range(dims):
            row = row ^ (corner[:, d] * PRIMES[d] % WORD)
    else:
        row, stride = torch.zeros_like(corner[:, 0]), 1
        for d in range(dims):
            if stride <= level.rows:
                row = row + corner[:, d] * stride
            stride *= level.stride
    return row % WORD % level.rows
