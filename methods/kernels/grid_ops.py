"""The launches of ``methods.kernels.grid`` as ops of torch, with their gradients and the gradients of one of those.

``options``: features per level, smoothstep, zero outside [0, 1], level mask. ``along`` ``[N, D]``: the interpolation
weights are differentiated along it first; ``[0]`` for the weights themselves.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.kernels.library import compiled


@torch.library.custom_op("fieldbook::grid_encode", mutates_args=())
def encode(x: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, options: list[int]) -> Tensor:
    """Features ``[N, L * F]``; once and, towards x, twice differentiable."""
    return _features(x, _none(x), table, levels, options)


@encode.register_fake
def _(x: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, options: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], levels.shape[0] * options[0])


def _encode_context(ctx, inputs, output) -> None:
    x, table, levels, sink, ctx.options = inputs
    ctx.save_for_backward(x, table, levels)
    ctx.sink = sink  # written by the backward pass, so not saved as an input that must stay as it was


def _encode_backward(ctx, grad: Tensor):
    x, table, levels = ctx.saved_tensors
    needs_x, needs_table = ctx.needs_input_grad[:2]
    if ctx.sink is not None and torch.is_grad_enabled():
        raise RuntimeError("a gradient of a gradient would reach the sink too early: use grid_input_gradient")
    grad_x = input_gradient(x, table, levels, None, grad, ctx.options) if needs_x else None
    if not needs_table:
        return grad_x, None, None, None, None
    if ctx.sink is None:
        return grad_x, _to_table(x, _none(x), table, levels, grad, ctx.options), None, None, None
    debt = _DEBTS.pop(_key(ctx.sink, x, levels, ctx.options), None)
    if debt is None:
        _add_to_table(x, _none(x), table, levels, grad, _none(x), ctx.sink, ctx.options)
    else:
        debt.pay(grad)
    return grad_x, None, None, None, None


encode.register_autograd(_encode_backward, setup_context=_encode_context)


@torch.library.custom_op("fieldbook::grid_input_gradient", mutates_args=())
def input_gradient(
    x: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, grad: Tensor, options: list[int]
) -> Tensor:
    """Gradient ``[N, D]`` of ``sum(features * grad)`` with respect to x; once differentiable."""
    return _to_x(x, _none(x), table, levels, grad, options)


@input_gradient.register_fake
def _(x: Tensor, table: Tensor, levels: Tensor, sink: Tensor | None, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _input_gradient_context(ctx, inputs, output) -> None:
    x, table, levels, sink, grad, ctx.options = inputs
    ctx.save_for_backward(x, table, levels, grad)
    ctx.sink = sink


def _input_gradient_backward(ctx, along: Tensor):
    x, table, levels, grad = ctx.saved_tensors
    needs_x, needs_table, _, _, needs_grad, _ = ctx.needs_input_grad
    to_x = _to_x(x, along, table, levels, grad, ctx.options) if needs_x else None
    to_table = None
    if needs_table and ctx.sink is None:
        to_table = _to_table(x, along, table, levels, grad, ctx.options)
    elif needs_table:
        _owe(_Debt(x, along, table, levels, grad, ctx.sink, ctx.options))
    to_grad = _features(x, along, table, levels, ctx.options) if needs_grad else None
    return to_x, to_table, None, None, to_grad, None


input_gradient.register_autograd(_input_gradient_backward, setup_context=_input_gradient_context)


@dataclass(eq=False)
class _Debt:
    """What the backward pass of ``input_gradient`` still has to add to the sink.

    A surface model takes features and their gradient at the same points. The backward pass of the features comes later,
    and then one walk through the table adds both; if none comes, the end of the whole backward pass does.
    """

    x: Tensor
    along: Tensor
    table: Tensor
    levels: Tensor
    grad: Tensor
    sink: Tensor
    options: list[int]
    paid: bool = False

    def pay(self, plain: Tensor | None = None) -> None:
        """Add it to the sink, with ``plain``, the gradient of the features themselves, if it is there; once."""
        if self.paid:
            return
        self.paid = True
        plain = _none(self.x) if plain is None else plain
        with torch.no_grad():
            _add_to_table(self.x, self.along, self.table, self.levels, self.grad, plain, self.sink, self.options)
        del self.along, self.grad  # the end of the backward pass still holds this object


# Weak: what holds a debt is its backward pass, with which it is dropped if that fails.
_DEBTS: weakref.WeakValueDictionary[tuple, _Debt] = weakref.WeakValueDictionary()


def _owe(debt: _Debt) -> None:
    _DEBTS[_key(debt.sink, debt.x, debt.levels, debt.options)] = debt  # one that it displaces is paid at the end
    torch.autograd.Variable._execution_engine.queue_callback(debt.pay)


def _key(sink: Tensor, x: Tensor, levels: Tensor, options: list[int]) -> tuple:
    """The same for calls of one backward pass whose gradients may be added in one walk."""
    positions = (x.data_ptr(), x.shape, x.stride())
    return torch._C._current_graph_task_id(), sink.data_ptr(), positions, levels.data_ptr(), tuple(options)


@torch.library.custom_op("fieldbook::grid_features", mutates_args=())
def _features(x: Tensor, along: Tensor, table: Tensor, levels: Tensor, options: list[int]) -> Tensor:
    out = x.new_empty(x.shape[0], levels.shape[0] * options[0])
    ops = compiled(x.device.type)
    ops.grid_forward(
        x.contiguous(), along.contiguous(), table.contiguous(), levels, packed_options(table, options), out
    )
    return out


@_features.register_fake
def _(x: Tensor, along: Tensor, table: Tensor, levels: Tensor, options: list[int]) -> Tensor:
    return x.new_empty(x.shape[0], levels.shape[0] * options[0])


@torch.library.custom_op("fieldbook::grid_to_table", mutates_args=())
def _to_table(x: Tensor, along: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    out = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    _add_to_table(x, along, table, levels, grad, _none(x), out, options)
    return out.to(table.dtype)


@_to_table.register_fake
def _(x: Tensor, along: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(table)


@torch.library.custom_op("fieldbook::grid_add_to_table", mutates_args=("sink",))
def _add_to_table(
    x: Tensor,
    along: Tensor,
    table: Tensor,
    levels: Tensor,
    grad: Tensor,
    plain: Tensor,
    sink: Tensor,
    options: list[int],
) -> None:
    """``plain`` ``[N, L * F]``, with ``along`` only, is added by the weights themselves; ``[0]`` for none."""
    positions, gradients = (x.contiguous(), along.contiguous()), (grad.contiguous(), plain.contiguous())
    compiled(x.device.type).grid_backward_table(*positions, *gradients, levels, packed_options(table, options), sink)


@torch.library.custom_op("fieldbook::grid_to_x", mutates_args=())
def _to_x(x: Tensor, along: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    out = torch.zeros_like(x, memory_format=torch.contiguous_format)
    ops = compiled(x.device.type)
    ops.grid_backward_x(
        x.contiguous(),
        along.contiguous(),
        table.contiguous(),
        grad.contiguous(),
        levels,
        packed_options(table, options),
        out,
    )
    return out


@_to_x.register_fake
def _(x: Tensor, along: Tensor, table: Tensor, levels: Tensor, grad: Tensor, options: list[int]) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _none(x: Tensor) -> Tensor:
    return x.new_empty(0)


def packed_options(table: Tensor, options: list[int]) -> Tensor:
    """Options as the compiled kernels read them; what follows the first four goes to the end."""
    features, smooth, bounded, mask, *more = options
    numbers = [features, smooth, table.dtype == torch.float16, bounded, mask, *more]
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")
