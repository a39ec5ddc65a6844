"""How far a kernel is from its twin, and how much faster.

``fieldbook doctor`` runs the cases at a small size, the benchmarks at their own.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from methods.kernels.cases import Case
from methods.kernels.marching import Samples

SMALL = 200
TOLERANCE = 1e-4
"""Sums of some hundred terms in float32 stay ten times nearer to float64's; a kernel that is wrong is far beyond it."""


def relative_error(case: Case, device: str, size: int = SMALL, seed: int = 0) -> float:
    """Largest error of a kernel's results and gradients against its twin's in float64 on the CPU.

    Returns:
        The largest difference within a tensor, over that tensor's largest number; infinite where shapes, choices or
        finiteness differ.
    """
    arguments = case.arguments(size, seed)
    made = results(case, case.kernel, placed(case, arguments, device, torch.float32))
    want = results(case, case.twin, placed(case, arguments, "cpu", torch.float32 if case.exact else torch.float64))
    if len(made) != len(want):
        return math.inf
    return max(_difference(a.detach().cpu(), b.detach()) for a, b in zip(made, want, strict=True))


def results(case: Case, function: Callable[..., Any], arguments: tuple) -> list[Tensor]:
    """What a function gives for these arguments: outputs, arguments it changed, gradients."""
    out = tensors(function(*arguments))
    backward(out)
    changed = tensors([arguments[k] for k in case.changed])
    gradients = [v.grad for v in tensors([arguments[k] for k in case.wants])]
    return out + changed + [g for g in gradients if g is not None]


def backward(outputs: list[Tensor]) -> None:
    """Gradients from all outputs that have one, each weighted differently."""
    live = [v for v in outputs if v.requires_grad]
    if live:
        weights = [torch.linspace(-1, 2, v.numel(), dtype=v.dtype, device=v.device).reshape(v.shape) for v in live]
        torch.autograd.backward(live, weights)


def seconds(
    case: Case, function: Callable[..., Any], device: str, size: int | None = None, budget: float = 0.2
) -> float:
    """Median time of a call, forward and backward, after one that does not count.

    Args:
        case: Whose inputs.
        function: The kernel or the twin; both run in float32 on the device.
        device: Where.
        size: Of the inputs; None: the case's.
        budget: Seconds to repeat for; at least one call is timed.
    """
    arguments = case.arguments(case.size if size is None else size)
    times: list[float] = []
    first = True
    while first or not times or sum(times) < budget:
        fresh = placed(case, arguments, device, torch.float32)
        _wait(device)
        start = time.perf_counter()
        backward(tensors(function(*fresh)))
        _wait(device)
        if not first:
            times.append(time.perf_counter() - start)
        first = False
    return statistics.median(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def placed(case: Case, arguments: tuple, device: str, dtype: torch.dtype) -> tuple:
    """Copies of the arguments on a device, ready for one call."""

    def place(value: Tensor) -> Tensor:
        return value.to(device, dtype if value.is_floating_point() else value.dtype, copy=True)

    placed = tuple(_map(place, value) for value in arguments)
    for tensor in tensors([placed[k] for k in case.wants]):
        tensor.requires_grad_()
    return placed


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(function, v) for v in value)
    if isinstance(value, Samples):
        return Samples(*(_map(function, getattr(value, f.name)) for f in dataclasses.fields(value)))
    return value


def tensors(value: Any) -> list[Tensor]:
    """Tensors of arguments or results, in order; None and plain values have none."""
    found: list[Tensor] = []
    if isinstance(value, Samples):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, list | tuple):
        for part in value:
            found += tensors(part)
    elif isinstance(value, Tensor):
        found.append(value)
    return found


def _difference(made: Tensor, want: Tensor) -> float:
    if made.shape != want.shape:
        return math.inf
    if not want.is_floating_point():
        return 0.0 if torch.equal(made, want) else math.inf
    if want.numel() == 0:
        return 0.0
    error, largest = float((made.double() - want.double()).abs().max()), float(want.abs().max())
    return error / max(largest, 1e-30) if math.isfinite(error) else math.inf
