"""Small ReLU networks, all layers in one pass over the samples.

M samples, I inputs of which the last S are shared by all samples of a group (a ray), O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.ops import Op

LONGEST_ROW = 128
"""Of the compiled form's matrices: longer ones no longer fit the cache, and there torch's products are as good."""


def mlp(x: Tensor, weights: Sequence[Tensor], shared: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """Linear layers without biases and a ReLU between them.

    On a CPU the compiled form keeps the activations of a block of samples in the cache, where torch writes every one
    of them to memory and reads it back; on a GPU this is torch's own matrix products.

    Args:
        x: ``[M, I - S]`` float32.
        weights: One matrix ``[outputs, inputs]`` per layer, float32; the first takes I inputs, the last gives O.
        shared: ``[N, S]``, inputs that many samples have in common, appended to x; it gets a gradient only in torch's
            form, which runs if it asks for one.
        index: ``[M]`` int64, the row of ``shared`` for each sample.

    Returns:
        ``[M, O]``.

    Raises:
        TypeError: A wrong type.
        ValueError: Sizes that do not fit, or an index outside ``shared``.
    """
    _check(x, weights, shared, index)
    small = max(max(w.shape) for w in weights) <= LONGEST_ROW
    wants = shared is not None and shared.requires_grad and torch.is_grad_enabled()
    if not x.is_cpu or not small or wants or not has_kernels("cpu"):
        if shared is not None and index is not None and not torch.compiler.is_compiling():
            _check_index(shared, index)
        return reference.mlp(x, weights, shared, index)
    if shared is None or index is None:
        shared, index = x.new_empty(0, 0), torch.empty(0, dtype=torch.int64)
    widths = [weights[0].shape[1], *(w.shape[0] for w in weights)]
    return _mlp(x, shared, index, torch.cat([w.reshape(-1) for w in weights]), widths)


def _check(x: Tensor, weights: Sequence[Tensor], shared: Tensor | None, index: Tensor | None) -> None:
    if not weights:
        raise ValueError("weights must hold at least one matrix")
    if (shared is None) != (index is None):
        raise ValueError("give shared and index together, or neither")
    check_tensor("x", x, ("M", "I"), torch.float32)
    inputs = x.shape[1]
    if shared is not None and index is not None:
        check_tensor("shared", shared, ("N", "S"), torch.float32)
        check_tensor("index", index, (x.shape[0],), torch.int64)
        inputs += shared.shape[1]
    for number, weight in enumerate(weights):
        check_tensor(f"weights[{number}]", weight, ("outputs", inputs), torch.float32)
        inputs = weight.shape[0]
    check_device(x=x, shared=shared, index=index, **{f"weights[{i}]": w for i, w in enumerate(weights)})


def _check_index(shared: Tensor, index: Tensor) -> None:
    if not index.is_cpu or index.numel() == 0:
        return
    low, high = torch.aminmax(index)
    if low < 0 or high >= len(shared):
        raise ValueError(f"index must lie in 0..{len(shared) - 1}, got {int(low)}..{int(high)}")


def _launch(x: Tensor, shared: Tensor, index: Tensor, flat: Tensor, widths: list[int]) -> Tensor:
    _check_index(shared, index)  # here, so that a compiled graph looks too: the kernel trusts it
    out = _empty(x, shared, index, flat, widths)
    sizes = torch.tensor(widths, dtype=torch.int64, device="cpu")
    compiled("cpu").mlp_forward(x.contiguous(), shared.contiguous(), index.contiguous(), sizes, flat.contiguous(), out)
    return out


def _empty(x, shared, index, flat, widths):
    return x.new_empty(x.shape[0], widths[-1])


def _launch_backward(
    x: Tensor, shared: Tensor, index: Tensor, flat: Tensor, widths: list[int], grad: Tensor
) -> tuple[Tensor, Tensor]:
    made = _empty_gradients(x, shared, index, flat)
    sizes = torch.tensor(widths, dtype=torch.int64, device="cpu")
    tensors = [v.contiguous() for v in (x, shared, index)]
    compiled("cpu").mlp_backward(*tensors, sizes, flat.contiguous(), grad.contiguous(), *made)
    return made


def _empty_gradients(x, shared, index, flat, *_):
    return torch.empty_like(x, memory_format=torch.contiguous_format), torch.empty_like(flat)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.widths = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx, grad: Tensor):
    grad_x, grad_flat = _mlp_backward(*ctx.saved_tensors, ctx.widths, grad)
    return grad_x, None, None, grad_flat, None


_mlp = Op("mlp", _launch, _empty, (_gradient, _setup_context))
_mlp_backward = Op("mlp_backward", _launch_backward, _empty_gradients)
