"""Multiresolution grid encoding (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3).

N points, D dimensions (2 or 3), L levels, F features per level (1, 2, 4 or 8), R rows of all levels' tables together.
"""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from methods.kernels import grid_ops, reference
from methods.kernels.checks import check_device, check_finite, check_tensor
from methods.kernels.library import has_kernels

MAX_LEVELS = 32
MAX_RESOLUTION = 2**22
"""Points per axis; with more, float32 hardly says where in its cell a position lies."""
FEATURES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Level:
    """One level: ``position = x * scale + shift``; a dense index has ``stride`` per axis; ``rows`` start at
    ``offset``; ``hashed`` rows are found by hash."""  # noqa: D205, D209

    scale: float
    shift: float
    stride: int
    rows: int
    offset: int
    hashed: bool


@dataclass(frozen=True)
class Grid:
    """The shape of a multiresolution grid.

    Attributes:
        dims: D, 2 or 3.
        levels: L, up to 32.
        features: F, of 1, 2, 4, 8.
        base: Resolution of the coarsest level.
        growth: Ratio of the resolutions of neighbouring levels.
        log2_size: A level's table has at most 2 to this power rows.
        kind: ``hash``; ``tiled`` (modulo of the dense index); ``dense`` (no level is cut).
        dialect: Whose indices: ``tcnn`` (tiny-cuda-nn), ``torch-ngp``, or ``nerfstudio`` (its torch fallback). Weights
            trained with one mean nothing to another; inputs outside [0, 1] wrap in ``tcnn`` and ``nerfstudio`` and give
            exact zeros in ``torch-ngp``.
        interpolation: ``linear``, or ``smoothstep`` (continuous gradient, zero at the grid's points).
        align_corners: ``torch-ngp`` only: grid points at the ends of [0, 1], no half-cell shift.
    """

    dims: int = 3
    levels: int = 16
    features: int = 2
    base: int = 16
    growth: float = 1.381912879967776
    log2_size: int = 19
    kind: Literal["hash", "tiled", "dense"] = "hash"
    dialect: Literal["tcnn", "torch-ngp", "nerfstudio"] = "tcnn"
    interpolation: Literal["linear", "smoothstep"] = "linear"
    align_corners: bool = False

    def __post_init__(self):
        allowed = {
            "dims": (2, 3),
            "features": FEATURES,
            "kind": ("hash", "tiled", "dense"),
            "dialect": ("tcnn", "torch-ngp", "nerfstudio"),
            "interpolation": ("linear", "smoothstep"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"grid {name} must be one of {values}, got {getattr(self, name)!r}")
        if not all(isinstance(v, Integral) for v in (self.levels, self.base, self.log2_size)):
            raise TypeError(f"grid: levels, base and log2_size are whole numbers; got {self}")
        if not (1 <= self.levels <= MAX_LEVELS and self.base >= 1 and self.growth >= 1 and 3 <= self.log2_size <= 30):
            raise ValueError(f"grid: levels 1..{MAX_LEVELS}, base >= 1, growth >= 1, log2_size 3..30; got {self}")
        if self.align_corners and self.dialect != "torch-ngp":
            raise ValueError("grid align_corners belongs to the dialect torch-ngp")
        if self.dialect == "nerfstudio" and self.kind != "hash":
            raise ValueError("grid dialect nerfstudio has hashed levels only")
        if not math.log(self.base) + (self.levels - 1) * math.log(self.growth) <= math.log(MAX_RESOLUTION):
            raise ValueError(f"grid: the finest level has at most {MAX_RESOLUTION} points per axis; got {self}")
        if self.rows > 2**31 - 1:
            raise ValueError(f"grid has {self.rows} rows; a table holds at most 2^31 - 1")
        _ = self.packed  # made now, because torch.compile cannot trace how

    @classmethod
    def between(cls, base: int, finest: int, levels: int, **more) -> Grid:
        """A grid whose levels grow geometrically from ``base`` to ``finest``."""
        growth = math.exp((math.log(finest) - math.log(base)) / (levels - 1)) if levels > 1 else 1.0
        return cls(base=base, growth=growth, levels=levels, **more)

    @functools.cached_property
    def table(self) -> tuple[Level, ...]:
        """The levels, coarsest first."""
        made, offset = [], 0
        for index in range(self.levels):
            level = self._level(index, offset)
            made.append(level)
            offset += level.rows
        return tuple(made)

    def _level(self, index: int, offset: int) -> Level:
        if self.dialect == "nerfstudio":
            # In float32, as nerfstudio computes it: 16 to 2048 ends at 2047.
            scale = math.floor(np.float32(self.base) * np.float32(self.growth) ** np.float32(index))
            return Level(float(scale), 0.0, 1, 2**self.log2_size, offset, True)
        # Rounded to float32 first: 2048 in exact arithmetic must not become 2049 by the last bit of a double.
        scale = float(np.float32(self.base * self.growth**index - 1))
        resolution = math.ceil(scale) + 1
        side = resolution + 1 if self.dialect == "torch-ngp" and not self.align_corners else resolution
        stride = resolution if self.dialect == "tcnn" else side
        full = -(-(side**self.dims) // 8) * 8
        rows = full if self.kind == "dense" else min(full, 2**self.log2_size)
        hashed = self.kind == "hash" and stride**self.dims > rows
        return Level(scale, 0.0 if self.align_corners else 0.5, stride, rows, offset, hashed)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Grid points per axis and level."""
        return tuple(math.ceil(level.scale) + 1 for level in self.table)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level, then R: ``[L + 1]``."""
        return (*(level.offset for level in self.table), self.rows)

    @property
    def rows(self) -> int:
        """R: rows of all levels."""
        last = self.table[-1]
        return last.offset + last.rows

    @property
    def width(self) -> int:
        """L * F: features of a point."""
        return self.levels * self.features

    @functools.cached_property
    def packed(self) -> Tensor:
        """``[L, 6]`` int64 on the CPU, as the compiled kernels read it."""

        def bits(value: float) -> int:
            return struct.unpack("<I", struct.pack("<f", value))[0]

        rows = [(bits(v.scale), bits(v.shift), v.stride, v.rows, v.offset, int(v.hashed)) for v in self.table]
        return torch.tensor(rows, dtype=torch.int64, device="cpu")


def grid_encode(
    x: Tensor, table: Tensor, grid: Grid, level_mask: int | None = None, sink: Tensor | None = None
) -> Tensor:
    """Interpolated features of every level at every point.

    Args:
        x: ``[N, D]`` float32, positions in [0, 1].
        table: ``[R, F]`` float32 or float16, the levels' rows one after the other.
        grid: The grid's shape.
        level_mask: Bit l switches level l on; a level that is off costs nothing, gives zeros and gets no gradient. None
            switches all on.
        sink: ``[R, F]`` float32. If given, the backward pass adds the table's gradient to it in place and autograd sees
            none: a buffer that is kept between steps saves allocating and clearing one as large as the table. Every
            backward pass through here adds to it, also one that asks for x's gradient alone. Eager mode only.

    Returns:
        ``[N, L * F]`` float32, level by level.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, or positions that are NaN or infinite.
    """
    mask = checked_mask(x, table, grid, level_mask, sink)
    if not has_kernels(x.device.type):
        return reference.grid_encode(x, table if sink is None else sunk(table, sink), grid, mask)
    return grid_ops.encode(x, table, grid.packed, sink, options_of(grid, mask))


def grid_input_gradient(
    x: Tensor, table: Tensor, grid: Grid, grad: Tensor, level_mask: int | None = None, sink: Tensor | None = None
) -> Tensor:
    """Gradient of ``sum(grid_encode(x) * grad)`` with respect to the positions, which has gradients itself.

    Surface models need it: a signed distance's gradient is its normal, and a loss on it reaches the table through here.
    It is what ``torch.autograd.grad(features, x, grad, create_graph=True)`` gives, without running the rest of a graph,
    and with a sink. Neither stores the Jacobian ``[N, L F, D]``: corners are gathered again.

    Args:
        x: ``[N, D]`` float32, positions in [0, 1].
        table: ``[R, F]`` float32 or float16.
        grid: The grid's shape.
        grad: ``[N, L * F]`` float32, gradient with respect to the features.
        level_mask: As in ``grid_encode``.
        sink: As in ``grid_encode``.

    Returns:
        ``[N, D]`` float32; differentiable once, with respect to x, table and grad. Where x lies between the grid's
        points, all of it exists but linear interpolation's pure second derivatives, which are zero.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, or positions that are NaN or infinite.
    """
    mask = checked_mask(x, table, grid, level_mask, sink)
    check_tensor("grad", grad, (x.shape[0], grid.width), torch.float32)
    check_device(x=x, grad=grad)
    if not has_kernels(x.device.type):
        return reference.grid_input_gradient(x, table if sink is None else sunk(table, sink), grid, grad, mask)
    return grid_ops.input_gradient(x, table, grid.packed, sink, grad, options_of(grid, mask))


def checked_mask(x: Tensor, table: Tensor, grid: Grid, level_mask: int | None, sink: Tensor | None) -> int:
    """The level mask in numbers, once the arguments of an encoding have been checked."""
    check_tensor("x", x, ("N", grid.dims), torch.float32)
    check_tensor("table", table, (grid.rows, grid.features), (torch.float32, torch.float16))
    if sink is not None:
        check_tensor("sink", sink, (grid.rows, grid.features), torch.float32)
        if not sink.is_contiguous():
            raise ValueError("sink must be contiguous")
        if sink.data_ptr() % (4 * min(grid.features, 4)):  # a GPU adds to it by vectors
            raise ValueError("sink must start where a row may: it is a slice at an odd place")
    check_device(x=x, table=table, sink=sink)
    check_finite("x", x)
    mask = (1 << grid.levels) - 1 if level_mask is None else level_mask
    if not isinstance(mask, int) or not -(1 << 31) <= mask < 1 << MAX_LEVELS:  # -1: every bit
        raise ValueError(f"level_mask is a whole number of {MAX_LEVELS} bits, got {mask!r}")
    return mask


def options_of(grid: Grid, mask: int) -> list[int]:
    """Options of the ops in ``grid_ops``."""
    return [grid.features, grid.interpolation == "smoothstep", grid.dialect == "torch-ngp", mask]


class _Sunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, sink: Tensor) -> Tensor:
        ctx.sink = sink
        return table.view_as(table)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        ctx.sink.add_(grads[0])
        return None, None


def sunk(table: Tensor, sink: Tensor) -> Tensor:
    """The table for the twin, whose gradient goes to the sink too."""
    return _Sunk.apply(table, sink)  # pyright: ignore[reportReturnType]
