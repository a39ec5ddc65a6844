"""Multiresolution grid encoding at a point and at taps around it, for derivatives by differences.

Numerical gradients (Li et al. 2023, "Neuralangelo", section 3.1) ask for a distance at a point and at a few points near
it. On coarse levels those lie in the point's own cell, so its corners are found and loaded, or added to, once for all.
A CPU does so where it pays: with 1 or 2 features, on levels whose cells few taps leave. Only one order is ever needed.

K taps; N, D, L, F and R as in ``methods.kernels.grid``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_finite, check_tensor
from methods.kernels.grid import Grid, checked_mask, options_of, sunk
from methods.kernels.grid_ops import packed_options
from methods.kernels.library import compiled, has_kernels


def grid_encode_taps(
    x: Tensor,
    offsets: Tensor,
    table: Tensor,
    grid: Grid,
    level_mask: int | None = None,
    sink: Tensor | None = None,
    clamped: bool = False,
) -> Tensor:
    """Features at every point and at its taps: ``grid_encode`` of ``x`` and of ``x + offsets[k]``, in one launch.

    Args:
        x: ``[N, D]`` float32, positions in [0, 1].
        offsets: ``[K, D]`` float32, the same for all points, of any length; they get no gradient.
        table: ``[R, F]`` float32 or float16.
        grid: The grid's shape.
        level_mask: As in ``grid_encode``.
        sink: As in ``grid_encode``.
        clamped: Move taps into [0, 1] first, axis by axis; a coordinate that was moved passes no gradient to x.
            Without, taps outside are what the grid's dialect makes of them.

    Returns:
        ``[N, 1 + K, L * F]`` float32: the point, then its taps. Differentiable once, with respect to x (which all taps
        follow) and the table.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, positions or offsets that are NaN or infinite, or offsets that want a
            gradient.
    """
    mask = checked_mask(x, table, grid, level_mask, sink)
    check_tensor("offsets", offsets, ("K", grid.dims), torch.float32)
    check_device(x=x, offsets=offsets)
    check_finite("offsets", offsets)
    if offsets.requires_grad:
        raise ValueError("offsets get no gradient; detach them")
    if not has_kernels(x.device.type):
        own = table if sink is None else sunk(table, sink)
        return reference.grid_encode_taps(x, offsets, own, grid, mask, None, clamped)
    return _encode(x, offsets, table, grid.packed, sink, [*options_of(grid, mask), clamped])


@torch.library.custom_op("fieldbook::grid_encode_taps", mutates_args=())
def _encode(
    x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, options: list[int]
) -> Tensor:
    out = x.new_empty(x.shape[0], 1 + offsets.shape[0], levels.shape[0] * options[0])
    inputs = (x.contiguous(), offsets.contiguous(), table.contiguous())
    compiled(x.device.type).grid_taps_forward(*inputs, levels, packed_options(table, options), out)
    return out


@_encode.register_fake
def _(x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, options: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], 1 + offsets.shape[0], levels.shape[0] * options[0])


def _context(ctx, inputs, output) -> None:
    x, offsets, table, levels, sink, ctx.options = inputs
    ctx.save_for_backward(x, offsets, table, levels)
    ctx.sink = sink  # written by the backward pass, so not saved as an input that must stay as it was


def _backward(ctx, grad: Tensor):
    needs_x, _, needs_table = ctx.needs_input_grad[:3]
    grad_x = _to_x(*ctx.saved_tensors, grad, ctx.options) if needs_x else None
    grad_table = None
    if needs_table and ctx.sink is None:
        grad_table = _to_table(*ctx.saved_tensors, grad, ctx.options)
    elif needs_table:
        _add_to_table(*ctx.saved_tensors, grad, ctx.sink, ctx.options)
    return grad_x, None, grad_table, None, None, None


_encode.register_autograd(_backward, setup_context=_context)


@torch.library.custom_op("fieldbook::grid_taps_to_table", mutates_args=())
def _to_table(x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    out = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    _add_to_table(x, offsets, table, levels, grad, out, options)
    return out.to(table.dtype)


@_to_table.register_fake
def _(x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(table)


@torch.library.custom_op("fieldbook::grid_taps_add_to_table", mutates_args=("sink",))
def _add_to_table(
    x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, grad: Tensor, sink: Tensor, options: list[int]
) -> None:
    inputs = (x.contiguous(), offsets.contiguous(), grad.contiguous())
    compiled(x.device.type).grid_taps_backward_table(*inputs, levels, packed_options(table, options), sink)


@torch.library.custom_op("fieldbook::grid_taps_to_x", mutates_args=())
def _to_x(x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    inputs = (x.contiguous(), offsets.contiguous(), table.contiguous(), grad.contiguous())
    compiled(x.device.type).grid_taps_backward_x(*inputs, levels, packed_options(table, options), out)
    return out


@_to_x.register_fake
def _(x: Tensor, offsets: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
