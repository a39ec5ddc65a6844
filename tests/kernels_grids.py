"""Grids, positions and tables that the tests of the grid encoding share."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels.grid import Grid

SMALL = Grid(levels=4, base=4, growth=2.0, log2_size=9)
DIALECTS = [
    {"dialect": "tcnn"},
    {"dialect": "tcnn", "kind": "tiled"},
    {"dialect": "tcnn", "kind": "dense"},
    {"dialect": "torch-ngp"},
    {"dialect": "torch-ngp", "kind": "tiled"},
    {"dialect": "torch-ngp", "kind": "dense", "align_corners": True},
    {"dialect": "torch-ngp", "kind": "tiled", "align_corners": True},
    {"dialect": "nerfstudio"},
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def positions(points: int, dims: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(points, dims, generator=generator(seed))


def entries(grid: Grid, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(grid.rows, grid.features, generator=generator(seed)) * 2 - 1).to(dtype)


def all_of(encode, x: Tensor, table: Tensor, grid: Grid, upstream: Tensor, mask: int | None = None) -> list[Tensor]:
    """Features, gradient to the table, gradient to x; zeros for none, as the twin has it with all levels off."""
    x, table = x.clone().requires_grad_(), table.clone().requires_grad_()
    out = encode(x, table, grid, mask)
    if out.requires_grad:
        out.backward(upstream.to(out.dtype).to(out.device))
    gradients = (torch.zeros_like(v) if v.grad is None else v.grad for v in (table, x))
    return [v.detach().cpu().double() for v in (out, *gradients)]
