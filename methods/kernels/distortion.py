"""Distortion loss of packed samples (Barron et al. 2022, "Mip-NeRF 360", equation 15), in time linear in the samples.

N rays, M samples of them together (``methods.kernels.packed``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.ops import Op
from methods.kernels.packed import check_packed, check_used


def distortion(weights: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor) -> Tensor:
    """How far each ray's weights lie from one another.

    With the intervals' middles ``m`` and lengths ``d``: the sum over samples i and j of ``w_i w_j |m_i - m_j|``, plus
    a third of the sum of ``w_i^2 d_i``. In units of t; t in [0, 1] makes rays comparable. The gradient reaches the
    weights only.

    Args:
        weights: ``[M]`` float32.
        t_start: ``[M]`` float32, rising along a ray.
        t_end: ``[M]`` float32.
        offsets: ``[N + 1]`` int64.

    Returns:
        ``[N]`` float32, zero for a ray without samples.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, values that are NaN or infinite, or middles that fall along a ray.
    """
    check_packed(t_start, t_end, offsets)
    check_tensor("weights", weights, (t_start.shape[0],), torch.float32)
    check_device(t_start=t_start, weights=weights)
    inputs = {"weights": weights, "t_start": t_start, "t_end": t_end}
    if not has_kernels(weights.device.type):
        check_used([], **inputs)
        _refuse_falling(t_start, t_end, offsets)
        return reference.distortion(weights, t_start, t_end, offsets)
    needs_slope = torch.is_grad_enabled() and weights.requires_grad
    loss, _ = _forward(weights, t_start, t_end, offsets, needs_slope)
    if check_used([loss], **inputs):
        _refuse_falling(t_start, t_end, offsets)
    return loss


def _refuse_falling(t_start: Tensor, t_end: Tensor, offsets: Tensor) -> None:
    """Refuse an interval whose middle lies before that of the one before, on the same ray."""
    rise = (t_start + t_end).diff()
    first = offsets[1:-1]
    rise[first[(first > 0) & (first < len(t_start))] - 1] = 0  # from one ray to the next
    if (rise < 0).any():
        raise ValueError("t_start and t_end must rise along a ray; sort the samples")


def _launch_forward(
    weights: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor, needs_slope: bool
) -> tuple[Tensor, Tensor]:
    loss, slope = _empty(weights, t_start, t_end, offsets, needs_slope)
    inputs = (v.contiguous() for v in (weights, t_start, t_end, offsets))
    compiled(weights.device.type).distortion_forward(*inputs, loss, slope if needs_slope else None)
    return loss, slope


def _empty(weights, t_start, t_end, offsets, needs_slope):
    return weights.new_empty(offsets.shape[0] - 1), weights.new_empty(weights.shape[0] if needs_slope else 0)


def _launch_backward(slope: Tensor, offsets: Tensor, grad: Tensor) -> Tensor:
    to_weights = torch.empty_like(slope)
    compiled(slope.device.type).distortion_backward(slope, grad.contiguous(), offsets.contiguous(), to_weights)
    return to_weights


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1], inputs[3])
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx, grad: Tensor, _):
    return _backward(*ctx.saved_tensors, grad), None, None, None, None


_forward = Op("distortion", _launch_forward, _empty, (_gradient, _setup_context))
_backward = Op("distortion_backward", _launch_backward, lambda slope, offsets, grad: torch.empty_like(slope))
