"""Networks of a signed distance: softplus layers, and the distance's gradient in closed form, in one pass.

M samples, I inputs, O outputs, the first of which is the distance d; W_l, b_l are layer l's matrix and bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.mlp import LONGEST_ROW
from methods.kernels.ops import Op


class SplitDistance(NamedTuple):
    """What ``split_distance_net`` gives.

    Attributes:
        distance: ``[M]``, the first output.
        features: ``[M, O]``, all outputs, the distance among them.
        to_x: ``[M, P]``, the distance's gradient in x.
        to_encoded: ``[M, I - P]``, and in the other inputs.
    """

    distance: Tensor
    features: Tensor
    to_x: Tensor
    to_encoded: Tensor


def distance_net(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Linear layers with a softplus ``log(1 + exp(beta h)) / beta`` between them, and the gradient of d in z.

    With one hidden layer, ``h = W_0 z + b_0`` and s the logistic function of ``beta h``, the gradient is
    ``W_0^T (s * W_1[0])``, which the eikonal loss looks at (Gropp et al. 2020, equation 2); more layers repeat it.
    Losses may be on both outputs. On a CPU the compiled form keeps the activations of a panel of samples in the cache
    and computes them again in the backward pass; on a GPU this is torch's own products.

    Args:
        z: ``[M, I]`` float32.
        weights: Two or more matrices ``[outputs, inputs]``, float32; the first takes I inputs, the last gives O.
        biases: ``[outputs]`` of each.
        beta: Above 0; the larger, the nearer to a ReLU.

    Returns:
        Outputs ``[M, O]``, and ``[M, I]``, the gradient of the first of them in z. Both are once differentiable in z,
        weights and biases; in torch's form as often as one likes.

    Raises:
        TypeError: A wrong type.
        ValueError: Sizes that do not fit, or a beta that is not above 0.
    """
    if not _runs_compiled({"z": z}, weights, biases, beta):
        return reference.distance_net(z, weights, biases, beta)
    _, features, gradient, _ = _net(z, _no_columns(z), *_flat(weights, biases), float(beta), True)
    return features, gradient


def split_distance_net(
    x: Tensor, encoded: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0
) -> SplitDistance:
    """``distance_net`` of inputs in two tensors, with what its callers want of it one by one, without copies.

    Args:
        x: ``[M, P]`` float32, the first inputs.
        encoded: ``[M, I - P]`` float32, those behind them.
        weights: As in ``distance_net``, like the others.
        biases: ``[outputs]`` of each.
        beta: Above 0.

    Raises:
        TypeError: A wrong type.
        ValueError: As ``distance_net``.
    """
    if not _runs_compiled({"x": x, "encoded": encoded}, weights, biases, beta):
        return SplitDistance(*reference.split_distance_net(x, encoded, weights, biases, beta))
    return SplitDistance(*_net(x, encoded, *_flat(weights, biases), float(beta), True))


def distance_only(z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0) -> Tensor:
    """The distance ``[M]`` alone: ``distance_net(...)[0][:, 0]`` in half the time; arguments as there.

    Raises:
        TypeError: A wrong type.
        ValueError: As ``distance_net``.
    """
    if not _runs_compiled({"z": z}, weights, biases, beta):
        return reference.distance_only(z, weights, biases, beta)
    one = ([*weights[:-1], weights[-1][:1]], [*biases[:-1], biases[-1][:1]])
    return _net(z, _no_columns(z), *_flat(*one), float(beta), False)[0]


def _runs_compiled(inputs: dict[str, Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float) -> bool:
    """Whether the kernel takes these arguments, which are checked."""
    if len(weights) < 2 or len(weights) != len(biases):
        raise ValueError(f"give two or more matrices and a bias for each, got {len(weights)} and {len(biases)}")
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be above 0 and finite, got {beta}")
    samples, width = "M", 0
    for name, value in inputs.items():
        check_tensor(name, value, (samples, "I"), torch.float32)
        samples, width = value.shape[0], width + value.shape[1]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        check_tensor(f"weights[{number}]", weight, ("outputs", width), torch.float32)
        width = weight.shape[0]
        check_tensor(f"biases[{number}]", bias, (width,), torch.float32)
    if width == 0:
        raise ValueError(f"weights[{len(weights) - 1}] must have a first row, which gives the distance")
    named = {f"{name}[{k}]": v for name, each in (("weights", weights), ("biases", biases)) for k, v in enumerate(each)}
    check_device(**inputs, **named)
    on_cpu = weights[0].is_cpu and max(max(w.shape) for w in weights) <= LONGEST_ROW
    return on_cpu and has_kernels("cpu")


def _no_columns(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], 0)


def _flat(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """All numbers as the kernel takes them, and the layers' widths."""
    parts = [part for pair in zip(weights, biases, strict=True) for part in (pair[0].reshape(-1), pair[1])]
    return torch.cat(parts), [weights[0].shape[1], *(w.shape[0] for w in weights)]


def _sizes(widths: list[int]) -> Tensor:
    return torch.tensor(widths, dtype=torch.int64, device="cpu")


def _launch(
    x: Tensor, more: Tensor, flat: Tensor, widths: list[int], beta: float, whole: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    made = _empty(x, more, flat, widths, beta, whole)
    inputs = (x.contiguous(), more.contiguous(), _sizes(widths), flat.contiguous(), beta)
    compiled("cpu").distance_net_forward(*inputs, made[0], *(made[1:] if whole else (None, None, None)))
    return made


def _empty(x, more, flat, widths, beta, whole):
    rows = x.shape[0] if whole else 0
    outputs, to_x, to_more = (x.new_empty(rows, n) for n in (widths[-1], x.shape[1], more.shape[1]))
    return x.new_empty(x.shape[0]), outputs, to_x, to_more


def _launch_backward(
    inputs: list[Tensor], flat: Tensor, widths: list[int], beta: float, grads: list[Tensor | None], wants: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    made = _empty_gradients(inputs, flat, widths, beta, grads, wants)
    numbers = (_sizes(widths), flat.contiguous(), beta)
    given = (v if v is None else v.contiguous() for v in grads)
    asked = (v if want else None for v, want in zip(made[:2], wants, strict=True))
    compiled("cpu").distance_net_backward(*(v.contiguous() for v in inputs), *numbers, *given, *asked, made[2])
    return made


def _empty_gradients(inputs, flat, widths, beta, grads, wants):
    x, more = (v.new_empty(v.shape[0] if want else 0, v.shape[1]) for v, want in zip(inputs, wants, strict=True))
    return x, more, flat.new_empty(flat.shape)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.widths, ctx.beta, ctx.whole = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _gradient(ctx, *grads: Tensor | None):
    *inputs, flat = ctx.saved_tensors
    used, wants = (list(grads) if ctx.whole else [grads[0], None, None, None]), list(ctx.needs_input_grad[:2])
    made = _net_backward(inputs, flat, ctx.widths, ctx.beta, used, wants)
    return *(v if want else None for v, want in zip(made[:2], wants, strict=True)), made[2], None, None, None


_net = Op("distance_net", _launch, _empty, (_gradient, _setup_context))
_net_backward = Op("distance_net_backward", _launch_backward, _empty_gradients)
