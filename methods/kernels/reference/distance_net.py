"""Twin of ``methods.kernels.distance_net``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def distance_net(
    z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0
) -> tuple[Tensor, Tensor]:
    """Linear layers with a softplus between them, and the first output's gradient in the input."""
    hidden, slopes = z, []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        before = F.linear(hidden, weight, bias)
        hidden = F.softplus(before, beta=beta)
        slopes.append(torch.sigmoid(beta * before))
    # Back through the layers by hand: autograd would build a graph of its own backward pass.
    gradient = weights[-1][0].expand_as(slopes[-1])
    for weight, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
        gradient = (gradient * slope) @ weight
    return F.linear(hidden, weights[-1], biases[-1]), gradient


def split_distance_net(
    x: Tensor, encoded: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distance, outputs, and the distance's gradient in either input."""
    features, gradient = distance_net(torch.cat([x, encoded], dim=-1), weights, biases, beta)
    return features[:, 0], features, gradient[:, : x.shape[1]], gradient[:, x.shape[1] :]


def distance_only(z: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], beta: float = 100.0) -> Tensor:
    """The first output alone."""
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        z = F.softplus(F.linear(z, weight, bias), beta=beta)
    return z @ weights[-1][0] + biases[-1][0]
