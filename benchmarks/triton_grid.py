"""Hash grid in Triton, as its users would write it: a peer for ``methods.kernels.grid``.

Three dimensions, the dialect ``nerfstudio``: every level hashed, as many rows each, no shift. N points, L levels, F
features, R rows of all levels together.
"""

# pyright: reportGeneralTypeIssues=false
# (Triton's decorator hides that a kernel's helper returns anything.)
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from methods.kernels.grid import Grid

BLOCK = 256
"""Points of a program; its level is the second axis, so that one level's rows are hot at a time."""

Y_PRIME = tl.constexpr(2654435761)
Z_PRIME = tl.constexpr(805459861)


@triton.jit
def _axis(x, d: tl.constexpr, i, live, scale):
    """Cell and position within it along one axis, ``[BLOCK]`` each."""
    position = tl.load(x + i * 3 + d, mask=live, other=0.0) * scale
    cell = tl.floor(position)
    return cell.to(tl.int32), position - cell


@triton.jit
def _corner(corner: tl.constexpr, cell_x, cell_y, cell_z, x, y, z, rows: tl.constexpr):
    """Row and weight of one of a cell's eight corners, ``[BLOCK]`` each."""
    cx = (cell_x + (corner & 1)).to(tl.uint32)
    cy = (cell_y + (corner >> 1 & 1)).to(tl.uint32)
    cz = (cell_z + (corner >> 2)).to(tl.uint32)
    row = (cx ^ cy * Y_PRIME ^ cz * Z_PRIME) & (rows - 1)
    weight = x if corner & 1 else 1 - x
    weight *= y if corner >> 1 & 1 else 1 - y
    weight *= z if corner >> 2 else 1 - z
    return row, weight


@triton.jit
def _forward(x, table, scales, out, points, rows: tl.constexpr, F: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    level, f, live = tl.program_id(1), tl.arange(0, F), i < points
    scale = tl.load(scales + level)
    cell_x, tx = _axis(x, 0, i, live, scale)
    cell_y, ty = _axis(x, 1, i, live, scale)
    cell_z, tz = _axis(x, 2, i, live, scale)
    total = tl.zeros([block, F], tl.float32)
    for corner in tl.static_range(8):
        row, weight = _corner(corner, cell_x, cell_y, cell_z, tx, ty, tz, rows)
        at = (level * rows + row.to(tl.int32)) * F
        entry = tl.load(table + at[:, None] + f[None, :], mask=live[:, None], other=0.0)
        total += weight[:, None] * entry
    width = tl.num_programs(1) * F
    tl.store(out + i[:, None] * width + level * F + f[None, :], total, mask=live[:, None])


@triton.jit
def _backward(x, grad, scales, out, points, rows: tl.constexpr, F: tl.constexpr, block: tl.constexpr):
    i = tl.program_id(0) * block + tl.arange(0, block)
    level, f, live = tl.program_id(1), tl.arange(0, F), i < points
    scale = tl.load(scales + level)
    cell_x, tx = _axis(x, 0, i, live, scale)
    cell_y, ty = _axis(x, 1, i, live, scale)
    cell_z, tz = _axis(x, 2, i, live, scale)
    width = tl.num_programs(1) * F
    slope = tl.load(grad + i[:, None] * width + level * F + f[None, :], mask=live[:, None], other=0.0)
    for corner in tl.static_range(8):
        row, weight = _corner(corner, cell_x, cell_y, cell_z, tx, ty, tz, rows)
        at = (level * rows + row.to(tl.int32)) * F
        tl.atomic_add(out + at[:, None] + f[None, :], weight[:, None] * slope, mask=live[:, None], sem="relaxed")


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(x, table, scales)
        out = x.new_empty(x.shape[0], scales.shape[0] * table.shape[1])
        _launch(_forward, x, table, scales, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor):
        x, table, scales = ctx.saved_tensors
        out = torch.zeros_like(table)
        _launch(_backward, x, grads[0].contiguous(), scales, out)
        return None, out, None


def _launch(kernel: Any, x: Tensor, source: Tensor, scales: Tensor, target: Tensor) -> None:
    points, levels = x.shape[0], scales.shape[0]
    table = source if kernel is _forward else target
    kernel[(triton.cdiv(points, BLOCK), levels)](
        x, source, scales, target, points, rows=table.shape[0] // levels, F=table.shape[1], block=BLOCK
    )


class TritonGrid:
    """Encode points: called with x ``[N, 3]`` float32 contiguous, gives ``[N, L * F]``.

    Attributes:
        table: ``[R, F]`` float32, a leaf that gets the gradient.
    """

    def __init__(self, grid: Grid, table: Tensor):
        if grid.dialect != "nerfstudio" or grid.dims != 3 or grid.interpolation != "linear":
            raise ValueError(f"the Triton grid is three-dimensional, linear and of the dialect nerfstudio; got {grid}")
        self.table = table.detach().clone().requires_grad_()
        self._scales = torch.tensor([level.scale for level in grid.table], device=table.device)

    def __call__(self, x: Tensor) -> Tensor:  # noqa: D102
        return _Encode.apply(x, self.table, self._scales)  # pyright: ignore[reportReturnType]
