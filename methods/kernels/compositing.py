"""Volume rendering of packed samples (Max 1995, "Optical models for direct volume rendering").

N rays, M samples of them together (``methods.kernels.packed``), C channels, 1 to 16. A sample's weight is
``w_i = T_i alpha_i`` with the transmittance ``T_i``, the product of ``1 - alpha_j`` over the samples before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_finite, check_range, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.ops import Op
from methods.kernels.packed import check_packed, check_used

MAX_CHANNELS = 16


class Composite(NamedTuple):
    """Rays, rendered.

    Attributes:
        rgb: ``[N, C]``, sum of ``w_i rgb_i``; the background is not in it.
        opacity: ``[N]``, sum of ``w_i``.
        depth: ``[N]``, sum of ``w_i t_i`` with ``t_i`` the middle of a sample's interval; divide it by the opacity for
            a mean.
        weights: ``[M]``.
        extra: ``[N]``, plain sum over the samples that were used; None if none was asked for.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor
    extra: Tensor | None


@dataclass(frozen=True)
class CompositeState:
    """What rays have gathered so far, written in place: ``rgb [N, C]``, ``opacity [N]``, ``depth [N]``, as above."""

    rgb: Tensor
    opacity: Tensor
    depth: Tensor


def composite(
    density: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    offsets: Tensor,
    extra: Tensor | None = None,
    early_stop: float = 1e-4,
    depth_gradient: bool = True,
) -> Composite:
    """Render rays from densities: ``alpha_i = 1 - exp(-density_i (t_end_i - t_start_i))``.

    Gradients reach density, rgb and extra, from every output; t_start and t_end get none.

    Args:
        density: ``[M]`` float32, at least 0, per unit of t.
        rgb: ``[M, C]`` float32.
        t_start: ``[M]`` float32.
        t_end: ``[M]`` float32.
        offsets: ``[N + 1]`` int64.
        extra: ``[M]`` float32, or None.
        early_stop: In [0, 1]. A ray stops after the sample that takes T below this; later samples have weight and
            gradient zero. 0 never stops.
        depth_gradient: False gives depth no gradient, as RAD-NeRF trains.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape, device or range, or a sample that was used is NaN or infinite.
    """
    return _render("density", (density, rgb, t_start, t_end, offsets), extra, early_stop, depth_gradient)


def composite_alpha(
    alpha: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    offsets: Tensor,
    extra: Tensor | None = None,
    early_stop: float = 1e-4,
    depth_gradient: bool = True,
) -> Composite:
    """Render rays from opacities, as NeuS has them (Wang et al. 2021, equation 10).

    The gradient is the exact one, also where alpha is 1: what lies behind such a sample still counts for it.

    Args:
        alpha: ``[M]`` float32 in [0, 1].
        rgb: As in ``composite``, like all the others.
        t_start: ``[M]``.
        t_end: ``[M]``.
        offsets: ``[N + 1]``.
        extra: ``[M]``.
        early_stop: In [0, 1].
        depth_gradient: Whether depth has a gradient.

    Raises:
        TypeError: A wrong type.
        ValueError: As in ``composite``.
    """
    return _render("alpha", (alpha, rgb, t_start, t_end, offsets), extra, early_stop, depth_gradient)


def composite_alive_(
    offsets: Tensor,
    alive: Tensor,
    density: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    state: CompositeState,
    n_samples: int,
    early_stop: float = 1e-4,
) -> Tensor:
    """Go on with rays that are still on their way, by a few samples each; no gradients.

    T before the samples is ``1 - opacity`` of the state.

    Args:
        offsets: ``[A + 1]`` int64, of the alive rays' samples.
        alive: ``[A]`` int64, each a row of the state, none twice.
        density: ``[M]`` float32.
        rgb: ``[M, C]`` float32.
        t_start: ``[M]`` float32.
        t_end: ``[M]`` float32.
        state: Of all N rays; added to in place.
        n_samples: How many samples a ray could have had.
        early_stop: As in ``composite``.

    Returns:
        ``[A']`` int64: the rays that had ``n_samples`` samples and did not stop, in their order.

    Raises:
        TypeError: A wrong type.
        ValueError: As in ``composite``; or a ray that the state does not have.
    """
    check_packed(t_start, t_end, offsets)
    _check_samples("density", density, rgb, t_start, early_stop)
    rays = _check_state(state, rgb.shape[1])
    check_tensor("alive", alive, (offsets.shape[0] - 1,), torch.int64)
    check_device(t_start=t_start, density=density, rgb=rgb, alive=alive, state=state.rgb)
    for name, value in (("density", density), ("rgb", rgb), ("t_start", t_start), ("t_end", t_end)):
        check_finite(name, value)
    check_range("alive", alive, rays)
    if n_samples < 1:
        raise ValueError(f"n_samples must be 1 or more, got {n_samples}")
    samples = (density.detach(), rgb.detach(), t_start, t_end)
    gathered = (state.rgb, state.opacity, state.depth)
    if not has_kernels(alive.device.type):
        return reference.composite_alive_(offsets, alive, *samples, gathered, n_samples, early_stop)
    go_on = _alive_op if torch.compiler.is_compiling() else _launch_alive
    return go_on(offsets, alive, *samples, n_samples, early_stop, *gathered)


def _launch_alive(
    offsets: Tensor,
    alive: Tensor,
    density: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    n_samples: int,
    early_stop: float,
    rgb_sum: Tensor,
    opacity: Tensor,
    depth: Tensor,
) -> Tensor:
    samples = [v.contiguous() for v in (density, rgb, t_start, t_end, offsets, alive)]
    keep = torch.empty_like(alive, dtype=torch.uint8, memory_format=torch.contiguous_format)
    ops = compiled(alive.device.type)
    ops.composite_alive(*samples, n_samples, early_stop, rgb_sum, opacity, depth, keep)
    return alive[keep.bool()]


_alive_op = torch.library.custom_op(
    "fieldbook::composite_alive_", _launch_alive, mutates_args=("rgb_sum", "opacity", "depth")
)


@_alive_op.register_fake
def _(offsets, alive, *_):
    return alive.new_empty(torch.library.get_ctx().new_dynamic_size())


def _check_samples(name: str, value: Tensor, rgb: Tensor, t_start: Tensor, early_stop: float) -> None:
    check_tensor(name, value, (t_start.shape[0],), torch.float32)
    check_tensor("rgb", rgb, (t_start.shape[0], "C"), torch.float32)
    if not 1 <= rgb.shape[1] <= MAX_CHANNELS:
        raise ValueError(f"rgb must have 1 to {MAX_CHANNELS} channels, got {rgb.shape[1]}")
    if not 0 <= early_stop <= 1:
        raise ValueError(f"early_stop must be in [0, 1], got {early_stop}")


def _check_state(state: CompositeState, channels: int) -> int:
    """Check the shapes and return how many rays the state has."""
    check_tensor("state.opacity", state.opacity, ("N",), torch.float32)
    rays = state.opacity.shape[0]
    check_tensor("state.depth", state.depth, (rays,), torch.float32)
    check_tensor("state.rgb", state.rgb, (rays, channels), torch.float32)
    if not (state.rgb.is_contiguous() and state.opacity.is_contiguous() and state.depth.is_contiguous()):
        raise ValueError("the state's tensors must be contiguous")
    check_device(rgb=state.rgb, opacity=state.opacity, depth=state.depth)
    return rays


_Samples = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Density or alpha, rgb, t_start, t_end, offsets."""


def _render(name: str, samples: _Samples, extra: Tensor | None, early_stop: float, depth_gradient: bool) -> Composite:
    value, rgb, t_start, t_end, offsets = samples
    check_packed(t_start, t_end, offsets)
    _check_samples(name, value, rgb, t_start, early_stop)
    if extra is not None:
        check_tensor("extra", extra, (t_start.shape[0],), torch.float32)
    check_device(t_start=t_start, value=value, rgb=rgb, extra=extra)
    inputs = {name: value, "rgb": rgb, "t_start": t_start, "t_end": t_end, "extra": extra}
    is_alpha = name == "alpha"
    if has_kernels(value.device.type):
        rgb, opacity, depth, weights, total = _forward(*samples, extra, is_alpha, float(early_stop))
        made = Composite(rgb, opacity, depth, weights, None if extra is None else total)
        check_used([v for v in (made.rgb, made.depth, made.extra) if v is not None], **inputs)
    else:
        check_used([], **inputs)
        twin = reference.composite_alpha if is_alpha else reference.composite
        made = Composite(*twin(*samples, extra, early_stop))
    return made if depth_gradient else made._replace(depth=made.depth.detach())


def _launch_forward(
    value: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    offsets: Tensor,
    extra: Tensor | None,
    is_alpha: bool,
    early_stop: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    made = _empty_outputs(value, rgb, t_start, t_end, offsets, extra)
    inputs = (v if v is None else v.contiguous() for v in (value, rgb, t_start, t_end, offsets, extra))
    ops = compiled(value.device.type)
    ops.composite_forward(*inputs, is_alpha, early_stop, *made[:4], made[4] if extra is not None else None)
    return made


def _empty_outputs(value, rgb, t_start, t_end, offsets, extra, *options):
    rays = offsets.shape[0] - 1
    opacity, depth, total = (
        value.new_empty(rays),
        value.new_empty(rays),
        value.new_empty(rays if extra is not None else 0),
    )
    return rgb.new_empty(rays, rgb.shape[1]), opacity, depth, value.new_empty(value.shape[0]), total


def _launch_backward(
    samples: list[Tensor], grads: list[Tensor | None], is_alpha: bool, early_stop: float, needs_rgb: bool
) -> tuple[Tensor, Tensor, Tensor]:
    made = _empty_gradients(samples, grads, is_alpha, early_stop, needs_rgb)
    given = (v if v is None else v.contiguous() for v in grads)
    outs = (made[0], made[1] if needs_rgb else None, made[2] if grads[4] is not None else None)
    ops = compiled(samples[0].device.type)
    ops.composite_backward(*(v.contiguous() for v in samples), is_alpha, early_stop, *given, *outs)
    return made


def _empty_gradients(samples, grads, is_alpha, early_stop, needs_rgb):
    value, rgb = samples[:2]
    to_rgb = rgb.new_empty(rgb.shape[0] if needs_rgb else 0, rgb.shape[1])
    to_extra = value.new_empty(value.shape[0] if grads[4] is not None else 0)
    return value.new_empty(value.shape[0]), to_rgb, to_extra


def _setup_context(ctx, inputs, output) -> None:
    *samples, extra, is_alpha, early_stop = inputs
    ctx.save_for_backward(*samples)
    ctx.options, ctx.has_extra = (is_alpha, early_stop), extra is not None
    ctx.set_materialize_grads(False)


def _gradient(ctx, *grads: Tensor | None):
    used = [*grads[:4], grads[4] if ctx.has_extra else None]
    needs_rgb = ctx.needs_input_grad[1]
    to_value, to_rgb, to_extra = _backward(list(ctx.saved_tensors), used, *ctx.options, needs_rgb)
    to_extra = to_extra if used[4] is not None else None
    return to_value, to_rgb if needs_rgb else None, None, None, None, to_extra, None, None


_forward = Op("composite", _launch_forward, _empty_outputs, (_gradient, _setup_context))
_backward = Op("composite_backward", _launch_backward, _empty_gradients)
