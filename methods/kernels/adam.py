"""Adam for grid tables: skips what has no gradient, and keeps the gradient's buffer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_tensor
from methods.kernels.library import compiled, has_kernels


@dataclass(frozen=True)
class AdamNumbers:
    """One step's numbers: learning rate, moments' decay, epsilon, and the step's number from 1."""

    lr: float
    beta1: float
    beta2: float
    epsilon: float
    step: int

    def __post_init__(self):
        decays = 0 <= self.beta1 < 1 and 0 <= self.beta2 < 1
        if not (decays and 0 <= self.lr < math.inf and 0 <= self.epsilon < math.inf and self.step >= 1):
            raise ValueError(f"Adam: lr and epsilon >= 0, betas in [0, 1), step >= 1; got {self}")


def adam_step_(param: Tensor, grad: Tensor, mean: Tensor, square: Tensor, numbers: AdamNumbers) -> None:
    """One step of Adam in place; where the gradient is exactly zero nothing changes, and ``grad`` is zero afterwards.

    Kingma & Ba 2015, algorithm 1, with the lazy rule of Müller et al. 2022 (section 4: entries of a hash table that no
    sample touched are not updated). The bias correction counts steps, not touches.

    Args:
        param: Parameters, float32, contiguous, of any shape.
        grad: Their gradient, same shape.
        mean: First moment, same shape.
        square: Second moment, same shape.
        numbers: The step's numbers.

    Raises:
        TypeError: A wrong type.
        ValueError: Shapes or devices differ, or a tensor is not contiguous.
    """
    tensors = {"param": param, "grad": grad, "mean": mean, "square": square}
    for name, value in tensors.items():
        check_tensor(name, value, tuple(param.shape), torch.float32)
        if not value.is_contiguous():
            raise ValueError(f"{name} must be contiguous")
    check_device(**tensors)
    if not has_kernels(param.device.type):
        reference.adam_step_(param, grad, mean, square, numbers)
        return
    n = numbers
    rate, correction = n.lr / (1 - n.beta1**n.step), (1 - n.beta2**n.step) ** -0.5
    given = [rate, n.beta1, 1 - n.beta1, n.beta2, 1 - n.beta2, correction, n.epsilon]
    if torch.compiler.is_compiling():
        _step_op(param, grad, mean, square, given)
        return
    _launch(param.detach(), grad, mean, square, given)
    # As torch's own in-place operations do, so that autograd refuses a graph that saved the old values.
    torch.autograd.graph.increment_version(list(tensors.values()))


def _launch(param: Tensor, grad: Tensor, mean: Tensor, square: Tensor, numbers: list[float]) -> None:
    packed = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    compiled(param.device.type).adam_step(param, grad, mean, square, packed)


_step_op = torch.library.custom_op("fieldbook::adam_step_", _launch, mutates_args=("param", "grad", "mean", "square"))


class GridAdam(torch.optim.Optimizer):
    """Adam by ``adam_step_``.

    Its ``step`` clears the gradients it has used; ``zero_grad`` keeps their buffers.

    Args:
        params: Grid tables.
        lr: Learning rate.
        betas: Decay of the moments.
        eps: Small, because gradients of rarely seen entries are.
        weight_decay: Decoupled (Loshchilov & Hutter 2019, algorithm 2): every step takes ``lr * weight_decay`` of each
            entry away, of those without a gradient too. 0 saves a pass over the table.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-15,
        weight_decay: float = 0.0,
    ):
        beta1, beta2 = betas
        AdamNumbers(lr, beta1, beta2, eps, step=1)  # refuses what the steps would refuse
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"Adam: weight_decay >= 0; got {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._cleared: dict[Tensor, tuple[Tensor, int]] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._cleared = {}  # of no use to a copy, or with another state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """Update every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._update(param, group)
        return loss

    def _update(self, param: Tensor, group: dict) -> None:
        state = self.state[param]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        if group["weight_decay"]:
            param.mul_(1 - group["lr"] * group["weight_decay"])
        beta1, beta2 = group["betas"]
        numbers = AdamNumbers(group["lr"], beta1, beta2, group["eps"], state["step"])
        adam_step_(param, param.grad, state["exp_avg"], state["exp_avg_sq"], numbers)  # pyright: ignore
        self._cleared[param] = (param.grad, param.grad._version)  # pyright: ignore

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Clear gradients written since the last step; their buffers stay, whatever ``set_to_none`` says."""
        for group in self.param_groups:
            for param in group["params"]:
                grad, version = self._cleared.get(param, (None, 0))
                if param.grad is not None and not (param.grad is grad and param.grad._version == version):
                    param.grad.zero_()
