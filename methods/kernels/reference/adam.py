"""Twin of ``methods.kernels.adam``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.kernels.adam import AdamNumbers


def adam_step_(param: Tensor, grad: Tensor, mean: Tensor, square: Tensor, numbers: AdamNumbers) -> None:
    """One step of Adam in place; where the gradient is exactly zero nothing changes; ``grad`` is zero afterwards."""
    touched, n = grad != 0, numbers
    new_mean = n.beta1 * mean + (1 - n.beta1) * grad
    new_square = n.beta2 * square + (1 - n.beta2) * grad * grad
    rate = n.lr / (1 - n.beta1**n.step)
    correction = (1 - n.beta2**n.step) ** -0.5
    update = rate * new_mean / (new_square.sqrt() * correction + n.epsilon)
    with torch.no_grad():
        param.sub_(torch.where(touched, update, torch.zeros_like(update)))
    mean.copy_(torch.where(touched, new_mean, mean))
    square.copy_(torch.where(touched, new_square, square))
    grad.zero_()
