"""Grids and cameras that the tests of occupancy share."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from methods.kernels.marching import March

SPEC = March(half=0.8, resolution=16, step_min=0.01, centre=(0.1, -0.2, 0.3))
NESTED = dataclasses.replace(SPEC, cascades=3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cameras(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Turned at random about the centre, with image sides and principal points that differ."""
    turns = torch.linalg.qr(torch.randn(number, 3, 3, generator=generator(seed)))[0]
    turns *= torch.linalg.det(turns)[:, None, None]
    away = 1 + 2 * torch.rand(number, 1, 1, generator=generator(seed))
    poses = torch.cat([turns, turns[:, :, 2:] * away + torch.tensor(SPEC.centre)[:, None]], dim=-1)
    return poses, torch.tensor([[90.0, 120, 30, 25, 50, 60]]).expand(number, 6)
