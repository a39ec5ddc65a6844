"""Packed samples: M samples of N rays in one row; ray i owns the samples ``offsets[i]`` to ``offsets[i + 1] - 1``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from methods.kernels.checks import check_device, check_finite, check_tensor


def check_packed(t_start: Tensor, t_end: Tensor, offsets: Tensor) -> None:
    """Check the samples' intervals and whose they are.

    The offsets' values are looked at on the CPU only, as in ``check_finite``; the kernels stay inside the samples
    whatever they are.

    Args:
        t_start: ``[M]`` float32, where each sample's interval begins.
        t_end: ``[M]`` float32, where it ends.
        offsets: ``[N + 1]`` int64, from 0 to M, never falling.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, or offsets that are not as above.
    """
    check_tensor("t_start", t_start, ("M",), torch.float32)
    check_tensor("t_end", t_end, (t_start.shape[0],), torch.float32)
    check_tensor("offsets", offsets, ("N + 1",), torch.int64)
    check_device(t_start=t_start, t_end=t_end, offsets=offsets)
    if offsets.shape[0] == 0:
        raise ValueError("offsets must be [N + 1], so [1] for no rays; got [0]")
    if _is_blind(offsets):
        return
    values, samples = offsets.cpu().numpy(), t_start.shape[0]
    if values[0] != 0 or values[-1] != samples:
        raise ValueError(
            f"offsets must run from 0 to the number of samples, {samples}; got {values[0]} to {values[-1]}"
        )
    if (values[1:] < values[:-1]).any():
        raise ValueError("offsets must never fall")


def check_used(sums: Sequence[Tensor], **inputs: Tensor | None) -> bool:
    """Refuse NaN and infinity in samples, as ``check_finite`` does, by the rays' sums, which are fewer to look at.

    Args:
        sums: What a kernel made, such that anything that is not finite in a sample it used makes one of them so. None
            of them: look at the inputs.
        inputs: The samples.

    Returns:
        Whether a sum is not finite although all inputs are.

    Raises:
        ValueError: An input is not finite; names it.
    """
    if sums and (_is_blind(sums[0]) or all(math.isfinite(v.sum().item()) for v in sums)):
        return False
    for name, value in inputs.items():
        if value is not None:
            check_finite(name, value)
    return True


def _is_blind(value: Tensor) -> bool:
    return torch.compiler.is_compiling() or (value.is_cuda and os.environ.get("FIELDBOOK_KERNEL_CHECKS") != "1")
