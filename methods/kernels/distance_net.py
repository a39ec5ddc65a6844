"""Networks of a signed distance: softplus layers, and the distance's gradient in closed form, in one pass.

M samples, I inputs, O outputs, the first of which is the distance d; W_l, b_l are layer l's matrix and bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.mlp import LONGEST_ROW
from methods.kernels.ops import Op


def distance_net(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Linear layers with a softplus ``log(1 + exp(beta h)) / beta`` between them, and the gradient of d in z.

    With one hidden layer, ``h = W_0 z + b_0`` and s the logistic function of ``beta h``, the gradient is
    ``W_0^T (s * W_1[0])`` (Gropp et al. 2020 use it for their equation 2); more layers repeat it. Losses may be on both
    outputs. On a CPU the compiled form keeps the activations of a panel of samples in the cache and computes them again
    in the backward pass; on a GPU this is torch's own products.

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
    if not _runs_compiled(z, weights, biases, beta):
        return reference.distance_net(z, weights, biases, beta)
    features, gradient = _net(z, *_flat(weights, biases), float(beta), True)
    return features, gradient


def distance_only(z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0) -> Tensor:
    """The distance ``[M]`` alone: ``distance_net(...)[0][:, 0]`` in half the time; arguments as there.

    Raises:
        TypeError: A wrong type.
        ValueError: As ``distance_net``.
    """
    if not _runs_compiled(z, weights, biases, beta):
        return reference.distance_only(z, weights, biases, beta)
    one = ([*weights[:-1], weights[-1][:1]], [*biases[:-1], biases[-1][:1]])
    return _net(z, *_flat(*one), float(beta), False)[0][:, 0]


def _runs_compiled(z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float) -> bool:
    """Whether the kernel takes these arguments, which are checked."""
    if len(weights) < 2 or len(weights) != len(biases):
        raise ValueError(f"give two or more matrices and a bias for each, got {len(weights)} and {len(biases)}")
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be above 0 and finite, got {beta}")
    check_tensor("z", z, ("M", "I"), torch.float32)
    inputs = z.shape[1]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        check_tensor(f"weights[{number}]", weight, ("outputs", inputs), torch.float32)
        inputs = weight.shape[0]
        check_tensor(f"biases[{number}]", bias, (inputs,), torch.float32)
    if inputs == 0:
        raise ValueError(f"weights[{len(weights) - 1}] must have a first row, which gives the distance")
    named = {f"{name}[{k}]": v for name, each in (("weights", weights), ("biases", biases)) for k, v in enumerate(each)}
    check_device(z=z, **named)
    return z.is_cpu and max(max(w.shape) for w in weights) <= LONGEST_ROW and has_kernels("cpu")


def _flat(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """All numbers as the kernel takes them, and the layers' widths."""
    parts = [part for pair in zip(weights, biases, strict=True) for part in (pair[0].reshape(-1), pair[1])]
    return torch.cat(parts), [weights[0].shape[1], *(w.shape[0] for w in weights)]


def _sizes(widths: list[int]) -> Tensor:
    return torch.tensor(widths, dtype=torch.int64, device="cpu")


def _launch(z: Tensor, flat: Tensor, widths: list[int], beta: float, with_gradient: bool) -> tuple[Tensor, Tensor]:
    features, gradient = _empty(z, flat, widths, beta, with_gradient)
    wanted = gradient if with_gradient else None
    compiled("cpu").distance_net_forward(z.contiguous(), _sizes(widths), flat.contiguous(), beta, features, wanted)
    return features, gradient


def _empty(z, flat, widths, beta, with_gradient):
    return z.new_empty(z.shape[0], widths[-1]), z.new_empty(z.shape[0] if with_gradient else 0, widths[0])


def _launch_backward(
    z: Tensor, flat: Tensor, widths: list[int], beta: float, to_features: Tensor | None, to_gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    grad_z, grad_flat = _empty_gradients(z, flat, widths, beta, to_features, to_gradient)
    if to_features is None:
        to_features = z.new_zeros(z.shape[0], widths[-1])
    along = None if to_gradient is None else to_gradient.contiguous()
    numbers = (z.contiguous(), _sizes(widths), flat.contiguous(), beta)
    compiled("cpu").distance_net_backward(*numbers, to_features.contiguous(), along, grad_z, grad_flat)
    return grad_z, grad_flat


def _empty_gradients(z, flat, *_):
    return z.new_empty(z.shape), flat.new_empty(flat.shape)


def _setup_context(ctx, inputs, output) -> None:
    z, flat, ctx.widths, ctx.beta, ctx.with_gradient = inputs
    ctx.save_for_backward(z, flat)
    ctx.set_materialize_grads(False)


def _gradient(ctx, to_features: Tensor | None, to_gradient: Tensor | None):
    to_gradient = to_gradient if ctx.with_gradient else None
    grad_z, grad_flat = _net_backward(*ctx.saved_tensors, ctx.widths, ctx.beta, to_features, to_gradient)
    return grad_z, grad_flat, None, None, None


_net = Op("distance_net", _launch, _empty, (_gradient, _setup_context))
_net_backward = Op("distance_net_backward", _launch_backward, _empty_gradients)
