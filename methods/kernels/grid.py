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

from methods.kernels import reference
from methods.kernels.checks import check_device, check_finite, check_tensor
from methods.kernels.library import compiled, has_kernels

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
    if not has_kernels(x.device.type):
        return reference.grid_encode(x, table if sink is None else _sunk(table, sink), grid, mask)
    smooth, bounded = grid.interpolation == "smoothstep", grid.dialect == "torch-ngp"
    return _encode(x, table, grid.packed, sink, [grid.features, smooth, bounded, mask])


class _Sunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table: Tensor, sink: Tensor) -> Tensor:
        ctx.sink = sink
        return table.view_as(table)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        ctx.sink.add_(grads[0])
        return None, None


def _sunk(table: Tensor, sink: Tensor) -> Tensor:
    """The table for the twin, whose gradient goes to the sink too."""
    return _Sunk.apply(table, sink)  # pyright: ignore[reportReturnType]


def _options(table: Tensor, options: list[int]) -> Tensor:
    features, smooth, bounded, mask = options
    numbers = [features, smooth, table.dtype == torch.float16, bounded, mask]
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")


@torch.library.custom_op("fieldbook::grid_encode", mutates_args=())
def _encode(x: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, options: list[int]) -> Tensor:
    out = x.new_empty(x.shape[0], levels.shape[0] * options[0])
    ops = compiled(x.device.type)
    ops.grid_forward(x.contiguous(), table.contiguous(), levels, _options(table, options), out)
    return out


@_encode.register_fake
def _(x: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, options: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], levels.shape[0] * options[0])


@torch.library.custom_op("fieldbook::grid_backward_table", mutates_args=())
def _backward_table(x: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    out = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    _accumulate(x, table, levels, grad, out, options)
    return out.to(table.dtype)


@_backward_table.register_fake
def _(x: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(table)


@torch.library.custom_op("fieldbook::grid_backward_table_into", mutates_args=("sink",))
def _accumulate(x: Tensor, table: Tensor, levels: Tensor, grad: Tensor, sink: Tensor, options: list[int]) -> None:
    ops = compiled(x.device.type)
    ops.grid_backward_table(x.contiguous(), grad.contiguous(), levels, _options(table, options), sink)


@torch.library.custom_op("fieldbook::grid_backward_x", mutates_args=())
def _backward_x(x: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    ops = compiled(x.device.type)
    ops.grid_backward_x(x.contiguous(), table.contiguous(), grad.contiguous(), levels, _options(table, options), out)
    return out


@_backward_x.register_fake
def _(x: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:
    x, table, levels, sink, ctx.options = inputs
    ctx.save_for_backward(x, table, levels)
    ctx.sink = sink  # written by the backward pass, so not saved as an input that must stay as it was


def _backward(ctx, grad: Tensor):
    x, table, levels = ctx.saved_tensors
    needs_x, needs_table = ctx.needs_input_grad[:2]
    grad_x = _backward_x(x, table, levels, grad, ctx.options) if needs_x else None
    grad_table = None
    if needs_table and ctx.sink is not None:
        _accumulate(x, table, levels, grad, ctx.sink, ctx.options)
    elif needs_table:
        grad_table = _backward_table(x, table, levels, grad, ctx.options)
    return grad_x, grad_table, None, None, None


_encode.register_autograd(_backward, setup_context=_setup_context)
