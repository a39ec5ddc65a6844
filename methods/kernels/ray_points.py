"""Points of samples on their rays.

N rays, M samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.marching import Samples
from methods.kernels.ops import Op
from methods.kernels.packed import check_packed


def ray_points(origins: Tensor, directions: Tensor, samples: Samples, t: Tensor | None = None) -> Tensor:
    """``origins + t * directions`` of each sample's ray.

    Args:
        origins: ``[N, 3]`` float32.
        directions: ``[N, 3]`` float32.
        samples: Of these rays, from ``march`` or ``march_alive``.
        t: ``[M]`` float32; None: the samples' midpoints.

    Returns:
        ``[M, 3]``, with gradients to origins, directions and t.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, samples of other rays, or, where origins or directions have a gradient,
            samples that are not packed.
    """
    check_packed(samples.t_start, samples.t_end, samples.offsets)
    check_tensor("ray_index", samples.ray_index, (samples.t_start.shape[0],), torch.int64)
    t = samples.midpoints if t is None else t
    check_tensor("origins", origins, ("N", 3), torch.float32)
    check_tensor("directions", directions, (origins.shape[0], 3), torch.float32)
    check_tensor("t", t, (samples.ray_index.shape[0],), torch.float32)
    check_device(origins=origins, directions=directions, ray_index=samples.ray_index, t=t)
    _check_rays_exist(samples.ray_index, origins.shape[0])
    if torch.is_grad_enabled() and (origins.requires_grad or directions.requires_grad):
        _check_rows(samples)
    if not has_kernels(origins.device.type):
        return reference.ray_points(origins, directions, samples, t)
    return _ray_points(origins, directions, t, samples.ray_index, samples.offsets)


def _check_rays_exist(index: Tensor, rays: int) -> None:
    if index.is_cuda or torch.compiler.is_compiling() or index.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0 or high >= rays:
        raise ValueError(f"samples must be of these {rays} rays; ray_index goes from {low} to {high}")


def _check_rows(samples: Samples) -> None:
    """A row of the offsets is one ray's, and no ray has two: a row's gradient is written, not added."""
    index, offsets = samples.ray_index, samples.offsets
    if index.is_cuda or torch.compiler.is_compiling() or index.numel() == 0:
        return
    lengths = offsets.diff()
    owners = index[offsets[:-1][lengths > 0]]
    if not torch.equal(index, owners.repeat_interleave(lengths[lengths > 0])) or len(owners.unique()) < len(owners):
        raise ValueError("samples must be packed: ray_index does not say what the offsets say")


def _launch(origins: Tensor, directions: Tensor, t: Tensor, ray_index: Tensor, offsets: Tensor) -> Tensor:
    points = _empty(origins, directions, t)
    ops = compiled(t.device.type)
    ops.ray_points(origins.contiguous(), directions.contiguous(), t.contiguous(), ray_index.contiguous(), points)
    return points


def _empty(origins, directions, t, *_):
    return t.new_empty(t.shape[0], 3)


def _launch_backward(grad: Tensor, t: Tensor, ray_index: Tensor, offsets: Tensor, rays: int) -> tuple[Tensor, Tensor]:
    origins, directions = _zeros(grad, t, ray_index, offsets, rays)
    ops = compiled(grad.device.type)
    packed = (t.contiguous(), ray_index.contiguous(), offsets.contiguous())
    ops.ray_points_backward(grad.contiguous(), *packed, origins, directions)
    return origins, directions


def _zeros(grad, t, ray_index, offsets, rays):
    return grad.new_zeros(rays, 3), grad.new_zeros(rays, 3)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[1:])


def _gradient(ctx, grad: Tensor):
    directions, t, ray_index, offsets = ctx.saved_tensors
    needs_origins, needs_directions, needs_t = ctx.needs_input_grad[:3]
    grad_origins = grad_directions = grad_t = None
    if needs_origins or needs_directions:
        grad_origins, grad_directions = _ray_points_backward(grad, t, ray_index, offsets, directions.shape[0])
    if needs_t:
        grad_t = (grad * directions[ray_index]).sum(dim=-1)
    return grad_origins, grad_directions, grad_t, None, None


_ray_points = Op("ray_points", _launch, _empty, (_gradient, _setup_context))
_ray_points_backward = Op("ray_points_backward", _launch_backward, _zeros)
