"""Kernels as modules with parameters, and small functions that several methods share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.kernels.grid import Grid, grid_encode, grid_input_gradient
from methods.kernels.grid_taps import grid_encode_taps
from methods.kernels.mlp import mlp


class GridEncoding(nn.Module):
    """A multiresolution grid with its table; the table's gradient is summed in one kept buffer.

    It reaches ``table.grad`` by any backward pass, whichever optimiser cleared it before; ``torch.autograd.grad`` does
    not see it.

    Args:
        grid: The grid's shape.
        spread: Entries start uniform in +- this (Müller et al. 2022, section 4: 1e-4).
    """

    def __init__(self, grid: Grid, spread: float = 1e-4):
        super().__init__()
        self.grid = grid
        self.table = nn.Parameter(torch.empty(grid.rows, grid.features).uniform_(-spread, spread))
        self._buffer: Tensor | None = None

    @classmethod
    def between(cls, base: int, finest: int, levels: int, **more: Any) -> GridEncoding:
        """A grid whose levels grow geometrically from ``base`` to ``finest``; ``more`` goes to ``Grid``."""
        return cls(Grid.between(base, finest, levels, **more))

    def forward(self, x: Tensor, level_mask: int | None = None) -> Tensor:
        """Features ``[N, L * F]`` of positions ``[N, D]`` in [0, 1]."""
        sink = self._sink()
        return self._adopting(grid_encode(x, self.table, self.grid, level_mask, sink), sink)

    def input_gradient(self, x: Tensor, grad: Tensor, level_mask: int | None = None) -> Tensor:
        """The gradient ``[N, D]`` in x for one ``grad`` ``[N, L * F]`` in the features; differentiable itself."""
        sink = self._sink()
        return self._adopting(grid_input_gradient(x, self.table, self.grid, grad, level_mask, sink), sink)

    def taps(self, x: Tensor, offsets: Tensor, level_mask: int | None = None, clamped: bool = False) -> Tensor:
        """Features ``[N, 1 + K, L * F]`` at positions ``[N, D]`` and at ``offsets`` ``[K, D]`` from them."""
        sink = self._sink()
        return self._adopting(grid_encode_taps(x, offsets, self.table, self.grid, level_mask, sink, clamped), sink)

    def _adopting(self, output: Tensor, sink: Tensor | None) -> Tensor:
        if sink is not None:
            output.register_hook(lambda _: self._adopt(sink))
        return output

    def _sink(self) -> Tensor | None:
        table = self.table
        unfit = not table.requires_grad or table.dtype != torch.float32
        if unfit or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if self._buffer is None or self._buffer.device != table.device:
            self._buffer = torch.zeros_like(table, requires_grad=False)
        return self._buffer

    def _adopt(self, sink: Tensor) -> None:
        """Make the buffer the table's gradient, just before the backward pass adds to it."""
        # By now an optimiser may have dropped the gradient, or a move of the module replaced it.
        grad = self.table.grad
        if grad is not sink:
            sink.zero_() if grad is None else sink.copy_(grad)
            self.table.grad = sink


class ReluNetwork(nn.Module):
    """Linear layers without biases and a ReLU between them, as in Müller et al. 2022, section 4.

    Args:
        widths: Inputs, hidden widths, outputs.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        matrices = [torch.empty(there, here) for here, there in itertools.pairwise(widths)]
        self.weights = nn.ParameterList(nn.init.xavier_uniform_(matrix) for matrix in matrices)

    def forward(self, x: Tensor, shared: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """``[M, outputs]`` of ``x`` ``[M, ...]`` and, appended to it, ``shared[index]``."""
        return mlp(x, list(self.weights), shared, index)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.exp(x)
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * torch.exp(x.clamp(max=15.0))


def truncated_exp(x: Tensor) -> Tensor:
    """``exp(x)`` whose gradient stops growing at ``x = 15``, so that one sample cannot throw the weights away.

    The usual density activation of grid methods (Müller et al. 2022, appendix E; the clamp as in their code).
    """
    return _TruncatedExp.apply(x)  # pyright: ignore[reportReturnType]
