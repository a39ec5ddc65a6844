"""Every op with inputs, for the self-test and the benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from methods.kernels import reference
from methods.kernels.adam import AdamNumbers, adam_step_
from methods.kernels.compositing import CompositeState, composite, composite_alive_, composite_alpha
from methods.kernels.distance_net import distance_net, distance_only, split_distance_net
from methods.kernels.distortion import distortion
from methods.kernels.encodings import frequency_encode, spherical_harmonics
from methods.kernels.grid import Grid, grid_encode, grid_input_gradient
from methods.kernels.grid_taps import grid_encode_taps
from methods.kernels.march_spec import March
from methods.kernels.marching import Samples, march, march_alive, ray_aabb
from methods.kernels.mlp import mlp
from methods.kernels.morton import morton3d, morton3d_inverse, pack_bits
from methods.kernels.occupancy import mark_unseen_, occupancy_update_
from methods.kernels.ray_points import ray_points

GRID = Grid(levels=8, growth=1.3, log2_size=15)
SPEC = March(half=1.0, resolution=32, step_min=0.02)
FEW = 4
"""Samples that ``march_alive`` and ``composite_alive_`` give a ray at a time."""


@dataclass(frozen=True)
class Case:
    """An op with inputs.

    Attributes:
        name: The public function's.
        kernel: The public function.
        twin: The same in plain torch.
        inputs: (size, generator) to the arguments: float32, on the CPU.
        size: For a measurement of some milliseconds: points, samples, rays or cells.
        wants: Positions of the arguments that get a gradient.
        changed: Positions of the arguments that are written in place.
        exact: The twin computes in float32 too, because its results are choices that a rounding decides.
        cpu_only: Only a CPU has a kernel; on a GPU the function is torch's own.
    """

    name: str
    kernel: Callable[..., Any]
    twin: Callable[..., Any]
    inputs: Callable[[int, Generator], tuple]
    size: int
    wants: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()
    exact: bool = False
    cpu_only: bool = False

    def arguments(self, size: int, seed: int = 0) -> tuple:
        """Arguments of this size; the same ones for the same seed."""
        return self.inputs(size, torch.Generator().manual_seed(seed))


def _uniform(make: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(*shape, generator=make) * (high - low) + low


def _directions(make: Generator, n: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 3, generator=make), dim=-1)


def grid_inputs(grid: Grid) -> Callable[[int, Generator], tuple]:
    """Inputs of ``grid_encode`` for a grid: evenly spread points, entries in [-1, 1]."""
    return lambda n, make: (
        _uniform(make, n, grid.dims),
        _uniform(make, grid.rows, grid.features, low=-1.0),
        grid,
    )


def grid_gradient_inputs(grid: Grid) -> Callable[[int, Generator], tuple]:
    """Inputs of ``grid_input_gradient``: those of ``grid_encode``, and a gradient of the features in [-1, 1]."""
    return lambda n, make: (*grid_inputs(grid)(n, make), _uniform(make, n, grid.width, low=-1.0))


def grid_taps_inputs(grid: Grid, taps: int, reach: float) -> Callable[[int, Generator], tuple]:
    """Inputs of ``grid_encode_taps``: those of ``grid_encode``, and offsets of up to ``reach`` along each axis."""

    def inputs(n: int, make: Generator) -> tuple:
        x, table, _ = grid_inputs(grid)(n, make)
        return x, _uniform(make, taps, grid.dims, low=-reach, high=reach), table, grid

    return inputs


def mlp_inputs(*widths: int) -> Callable[[int, Generator], tuple]:
    """Inputs of ``mlp``: whole numbers, so that sums are exact and no rounding decides whether a ReLU is open."""

    def whole(make: Generator, *shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=make).float()

    return lambda n, make: (whole(make, n, widths[0]), [whole(make, b, a) for a, b in itertools.pairwise(widths)])


def distance_net_inputs(*widths: int) -> Callable[[int, Generator], tuple]:
    """Inputs of ``distance_net``: pre-activations of about a tenth, where the softplus bends."""

    def inputs(n: int, make: Generator) -> tuple:
        pairs = list(itertools.pairwise(widths))
        weights = [_uniform(make, b, a, low=-1.0) / a**0.5 for a, b in pairs]
        return 0.2 * torch.randn(n, widths[0], generator=make), weights, [0.1 * _uniform(make, b) for _, b in pairs]

    return inputs


def _split_distance_net(n: int, make: Generator) -> tuple:
    z, *layers = distance_net_inputs(35, 64, 13)(n, make)
    return z[:, :3].contiguous(), z[:, 3:].contiguous(), *layers


def _adam(n: int, make: Generator) -> tuple:
    param, grad, mean, square = (_uniform(make, n, low=-1.0) for _ in range(4))
    touched = _uniform(make, n) < 0.1
    return param, grad * touched, mean, square.square(), AdamNumbers(1e-2, 0.9, 0.99, 1e-15, 10)


def _rays(n: int, make: Generator) -> tuple[Tensor, Tensor]:
    """From a sphere of radius 4 to points within 0.8 of the origin: all hit the box of half 1 well."""
    origins, targets = 4 * _directions(make, n), 0.8 * _directions(make, n) * _uniform(make, n, 1)
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def _march(n: int, make: Generator) -> tuple:
    """Through a grid of which an eighth is occupied, in blocks of 4^3 cells."""
    origins, directions = _rays(n, make)
    near, far = reference.ray_aabb(origins, directions, SPEC.aabb)
    blocks = _uniform(make, 8, 8, 8) < 0.125
    occupied = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1).repeat_interleave(4, 2)[None]
    return origins, directions, near, far, occupied, SPEC, _uniform(make, n)


def _march_alive(n: int, make: Generator) -> tuple:
    origins, directions, near, far, occupied, spec, _ = _march(n, make)
    alive = torch.arange(0, n, 2)
    return origins, directions, near, far, alive, occupied, spec, FEW


def _ray_points(n: int, make: Generator) -> tuple:
    offsets, start, end = _packed(n, make)
    rays = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
    samples = Samples(offsets, rays, start, end, torch.zeros((), dtype=torch.int64))
    return (*_rays(len(offsets) - 1, make), samples, 0.5 * (start + end))


def _packed(n: int, make: Generator, longest: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Offsets, starts and ends of n samples: 0 to ``longest`` for each ray, one behind the other."""
    counts = torch.randint(0, longest + 1, (max(1, n // (longest // 2)),), generator=make)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).clamp(max=n)
    offsets[-1] = n
    step = torch.arange(n) - offsets[:-1].repeat_interleave(offsets.diff())
    start = 1.0 + 0.05 * step
    return offsets, start, start + 0.05


def _composite(most: float) -> Callable[[int, Generator], tuple]:
    def inputs(n: int, make: Generator) -> tuple:
        offsets, start, end = _packed(n, make)
        return _uniform(make, n, high=most), _uniform(make, n, 3), start, end, offsets, _uniform(make, n)

    return inputs


def _composite_alive(n: int, make: Generator) -> tuple:
    rays = n // FEW
    alive = torch.arange(0, 2 * rays, 2)
    offsets = torch.arange(rays + 1) * FEW
    start = torch.arange(FEW).repeat(rays) * 0.05
    gathered = (_uniform(make, 2 * rays, 3), _uniform(make, 2 * rays), _uniform(make, 2 * rays))
    m = rays * FEW
    return offsets, alive, _uniform(make, m, high=20), _uniform(make, m, 3), start, start + 0.05, gathered, FEW


def _composite_alive_kernel(*arguments: Any) -> Tensor:
    """The twin takes the state as a plain tuple."""
    offsets, alive, density, rgb, start, end, gathered, few = arguments
    return composite_alive_(offsets, alive, density, rgb, start, end, CompositeState(*gathered), few)


def _distortion(n: int, make: Generator) -> tuple:
    offsets, start, end = _packed(n, make)
    return _uniform(make, n), start, end, offsets


def _side(n: int) -> int:
    """Of a grid of about n cells: a multiple of 4."""
    return max(4, round(n ** (1 / 3) / 4) * 4)


def _occupancy_update(n: int, make: Generator) -> tuple:
    side = _side(n)
    density = _uniform(make, 1, side, side, side, low=-0.2)
    density[density < 0] = -1
    cells = torch.randperm(density.numel(), generator=make)[: density.numel() // 2]
    return density, cells, _uniform(make, len(cells))


def _mark_unseen(n: int, make: Generator) -> tuple:
    """Three cameras that look past the middle, each at a part of the grid."""
    side = _side(n)
    turned, _ = torch.linalg.qr(torch.randn(3, 3, 3, generator=make))
    back = turned[:, :, 2] * 3 + 0.5 * torch.randn(3, 3, generator=make)
    poses = torch.cat([turned, back[:, :, None]], dim=-1)
    lenses = torch.tensor([[90.0, 80.0, 21.3, 15.7, 40.0, 30.0]]).repeat(3, 1)
    return torch.zeros(1, side, side, side), March(1.0, side, 0.02), poses, lenses


def _cells(n: int, make: Generator) -> tuple:
    return (torch.randint(0, 1024, (n, 3), generator=make),)


def _indices(n: int, make: Generator) -> tuple:
    return (torch.randint(0, 2**30, (n,), generator=make),)


CASES = (
    Case("grid_encode", grid_encode, reference.grid_encode, grid_inputs(GRID), 2**13, wants=(0, 1)),
    Case(
        "grid_input_gradient",
        grid_input_gradient,
        reference.grid_input_gradient,
        grid_gradient_inputs(GRID),
        2**13,
        wants=(0, 1, 3),
    ),
    Case(
        "grid_encode_taps",
        grid_encode_taps,
        reference.grid_encode_taps,
        grid_taps_inputs(GRID, 4, 0.01),
        2**12,
        wants=(0, 2),
    ),
    Case("mlp", mlp, reference.mlp, mlp_inputs(32, 64, 16), 2**14, wants=(0, 1), cpu_only=True),
    Case(
        "distance_net",
        distance_net,
        reference.distance_net,
        distance_net_inputs(35, 64, 13),
        2**14,
        wants=(0, 1, 2),
        cpu_only=True,
    ),
    Case(
        "split_distance_net",
        split_distance_net,
        reference.split_distance_net,
        _split_distance_net,
        2**14,
        wants=(0, 1, 2, 3),
        cpu_only=True,
    ),
    Case(
        "distance_only",
        distance_only,
        reference.distance_only,
        distance_net_inputs(35, 64, 13),
        2**14,
        wants=(0, 1, 2),
        cpu_only=True,
    ),
    Case("adam_step_", adam_step_, reference.adam_step_, _adam, 2**19, changed=(0, 1, 2, 3)),
    Case(
        "ray_aabb",
        ray_aabb,
        reference.ray_aabb,
        lambda n, make: (*_rays(n, make), SPEC.aabb),
        2**16,
    ),
    Case("march", march, reference.march, _march, 2**10, exact=True),
    Case("march_alive", march_alive, reference.march_alive, _march_alive, 2**12, changed=(2,), exact=True),
    Case("ray_points", ray_points, reference.ray_points, _ray_points, 2**16, wants=(0, 1, 3)),
    Case("composite", composite, reference.composite, _composite(40.0), 2**15, wants=(0, 1, 5)),
    Case("composite_alpha", composite_alpha, reference.composite_alpha, _composite(0.5), 2**15, wants=(0, 1, 5)),
    Case(
        "composite_alive_",
        _composite_alive_kernel,
        reference.composite_alive_,
        _composite_alive,
        2**14,
        changed=(6,),
    ),
    Case("distortion", distortion, reference.distortion, _distortion, 2**14, wants=(0,)),
    Case(
        "spherical_harmonics",
        spherical_harmonics,
        reference.spherical_harmonics,
        lambda n, make: (_directions(make, n), 4),
        2**14,
        wants=(0,),
    ),
    Case(
        "frequency_encode",
        frequency_encode,
        reference.frequency_encode,
        lambda n, make: (_uniform(make, n, 3, low=-1.0), 10),
        2**14,
        wants=(0,),
    ),
    Case("occupancy_update_", occupancy_update_, reference.occupancy_update_, _occupancy_update, 2**18, changed=(0,)),
    Case("mark_unseen_", mark_unseen_, reference.mark_unseen_, _mark_unseen, 2**15, changed=(0,), exact=True),
    Case("pack_bits", pack_bits, reference.pack_bits, lambda n, make: (_uniform(make, n // 8 * 8), 0.5), 2**20),
    Case("morton3d", morton3d, reference.morton3d, _cells, 2**16),
    Case("morton3d_inverse", morton3d_inverse, reference.morton3d_inverse, _indices, 2**16),
)
"""One per op."""
