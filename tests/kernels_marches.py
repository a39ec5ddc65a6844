"""Rays, occupancy grids and marches that the tests of the march share."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels.marching import March, Samples, march, ray_aabb
from methods.kernels.morton import morton3d

SMALL = March(half=0.7, resolution=16, step_min=0.03, centre=(0.1, 0.2, -0.3), max_samples=50)
DOWN = (torch.tensor([[0.0, 0, 2]]), torch.tensor([[0.0, 0, -1]]))


def rays(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Origins about the grid, half of them outside; some rays run along an axis plane or an axis."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(number, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(number, 3, generator=generator) - origins, dim=-1)
    directions[::7, 0] = 0.0
    directions[::11, 1:] = 0.0
    return origins, torch.where((directions == 0).all(-1, keepdim=True), torch.ones(3), directions)


def grid(spec: March, filled: float, seed: int = 0) -> Tensor:
    """Occupancy with a share of the cells filled, in lumps, so that blocks are empty too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.cascades, *(spec.resolution,) * 3)
    cells = torch.rand(shape, generator=generator) < filled
    lumps = torch.rand(spec.cascades, *(-(-spec.resolution // 8),) * 3, generator=generator) < 0.5
    for axis in (1, 2, 3):
        lumps = lumps.repeat_interleave(8, axis)
    cells &= lumps[tuple(slice(n) for n in shape)]
    return cells if spec.layout == "linear" else bits(cells)


def bits(cells: Tensor) -> Tensor:
    """The same cells as bits in Morton order: cell k is bit k % 8 of byte k // 8."""
    level, *index = cells.nonzero().unbind(-1)
    flat = torch.zeros(cells.numel(), dtype=torch.uint8)
    flat[level * cells[0].numel() + morton3d(torch.stack(index, dim=-1))] = 1
    return (flat.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(-1).to(torch.uint8)


def marched(
    spec: March, number: int = 64, filled: float = 0.3, seed: int = 0, **more
) -> tuple[dict[str, Any], Samples]:
    """Arguments of a march through a random grid, and its samples."""
    origins, directions = rays(number, seed)
    near, far = ray_aabb(origins, directions, spec.aabb, 0.05)
    noise = torch.rand(number, generator=torch.Generator().manual_seed(seed))
    given = {"origins": origins, "directions": directions, "near": near, "far": far}
    given |= {"occupied": grid(spec, filled, seed), "spec": spec, "noise": noise}
    return given, march(**given, **more)


def on(given: dict[str, Any], device: str) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}


def assert_same(made: Samples, want: Samples) -> None:
    for name, value in vars(made).items():
        assert torch.equal(value.cpu(), getattr(want, name)), name


@st.composite
def marches(draw) -> March:
    cascades = draw(st.integers(1, 4))
    layout = draw(st.sampled_from(["linear", "morton"]))
    sides = [4, 8, 16] if layout == "morton" else [4, 12, 16, 20, 32] if cascades > 1 else [1, 2, 3, 5, 8, 10, 16]
    return March(
        half=draw(st.sampled_from([0.5, 0.7, 1.0, 3.0])),
        resolution=draw(st.sampled_from(sides)),
        step_min=draw(st.sampled_from([0.01, 0.03, 0.25])),
        step_max=draw(st.sampled_from([0.25, 1.0])),
        centre=draw(st.sampled_from([(0.0, 0.0, 0.0), (0.1, 0.2, -0.3)])),
        cascades=cascades,
        cone_angle=draw(st.sampled_from([0.0, 0.004, 0.03, 0.5])),
        max_samples=draw(st.sampled_from([1, 7, 200])),
        sample_at=draw(st.sampled_from(["midpoint", "start"])),
        layout=layout,
    )
