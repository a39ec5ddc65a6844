"""What every kernel checks of its arguments, in Python, before anything runs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch


def check_tensor(
    name: str, value: torch.Tensor, shape: Sequence[int | str], dtype: torch.dtype | tuple[torch.dtype, ...]
) -> None:
    """Check rank, sizes and type of an argument.

    Args:
        name: As the caller knows it.
        value: The tensor.
        shape: One entry per axis: a size, or a letter for any size.
        dtype: What is allowed.

    Raises:
        TypeError: Not a tensor, or another type, or sparse.
        ValueError: Another shape.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    allowed = dtype if isinstance(dtype, tuple) else (dtype,)
    if value.dtype not in allowed:
        raise TypeError(f"{name} must be {' or '.join(map(str, allowed))}, got {value.dtype}")
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {value.layout}")
    fits = value.dim() == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, value.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name} must be [{', '.join(map(str, shape))}], got {list(value.shape)}")


def check_device(**tensors: torch.Tensor | None) -> None:
    """Check that all tensors lie on one device.

    Raises:
        ValueError: They do not; names two that differ.
    """
    given = {k: v for k, v in tensors.items() if v is not None}
    first, *others = given
    for name in others:
        if given[name].device != given[first].device:
            raise ValueError(f"{first} is on {given[first].device} and {name} on {given[name].device}; move one")


def check_finite(name: str, value: torch.Tensor) -> None:
    """Refuse NaN and infinity.

    On a GPU this waits for the device, so there it runs only with ``FIELDBOOK_KERNEL_CHECKS=1``; the kernels stay
    inside their tables whatever the values. Inside ``torch.compile`` nothing is checked.

    Raises:
        ValueError: Some value is not finite.
    """
    if torch.compiler.is_compiling() or (value.is_cuda and os.environ.get("FIELDBOOK_KERNEL_CHECKS") != "1"):
        return
    # One pass without a mask: a sum is finite unless a term is not, or it overflows; only then look at each value.
    if value.numel() and not math.isfinite(value.detach().sum().item()) and not torch.isfinite(value).all():
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name} has {bad} values that are NaN or infinite, of {value.numel()}")


def check_range(name: str, value: torch.Tensor, limit: int) -> None:
    """Refuse integers that are not 0 to ``limit - 1``; on the CPU and in eager mode only, as ``check_finite``.

    Raises:
        ValueError: Some value is outside.
    """
    if value.is_cuda or torch.compiler.is_compiling() or value.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(value))
    if low < 0 or high >= limit:
        raise ValueError(f"{name} must be 0..{limit - 1}, got {low}..{high}")
