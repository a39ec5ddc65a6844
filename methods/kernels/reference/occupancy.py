"""Twin of ``methods.kernels.occupancy`` and ``methods.kernels.morton``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.kernels.marching import March


def morton3d(coords: Tensor) -> Tensor:
    """Z-order index: bit b of x, y, z becomes bit 3b, 3b + 1, 3b + 2: ``[N, 3]`` -> ``[N]`` int64."""
    index = torch.zeros_like(coords[:, 0], dtype=torch.int64)
    for bit in range(10):
        for axis in range(3):
            index |= (coords[:, axis].long() >> bit & 1) << (3 * bit + axis)
    return index


def morton3d_inverse(index: Tensor) -> Tensor:
    """Cell of a Z-order index: ``[N]`` -> ``[N, 3]`` int64."""
    coords = torch.zeros(index.shape[0], 3, dtype=torch.int64, device=index.device)
    for bit in range(10):
        for axis in range(3):
            coords[:, axis] |= (index.long() >> (3 * bit + axis) & 1) << bit
    return coords


def pack_bits(density: Tensor, threshold: float) -> Tensor:
    """One bit per cell, set where ``density > threshold``, the lowest first: ``[numel / 8]`` uint8."""
    weights = 2 ** torch.arange(8, device=density.device)
    return ((density.reshape(-1, 8) > threshold) * weights).sum(dim=-1).to(torch.uint8)


def occupancy_update_(density: Tensor, cells: Tensor | None, values: Tensor, decay: float = 0.95) -> None:
    """``max(decay * density, value)`` in place where density >= 0."""
    flat = density.view(-1)
    cells = torch.arange(flat.numel(), device=flat.device) if cells is None else cells
    old = flat[cells]
    flat[cells] = torch.where(old >= 0, torch.maximum(decay * old, values), old)


def mark_unseen_(
    density: Tensor, spec: March, camera_to_world: Tensor, intrinsics: Tensor, min_distance: float = 0.0
) -> None:
    """Set the cells whose ball lies outside every camera's view to -1, in place."""
    axis = torch.arange(spec.resolution, device=density.device, dtype=density.dtype) + 0.5 - spec.resolution / 2
    centre = torch.tensor(spec.centre, device=density.device, dtype=density.dtype)
    index = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    for cascade in range(spec.cascades):
        size = 2 * spec.half * 2**cascade / spec.resolution
        points, radius = centre + index * size, 3**0.5 / 2 * size
        seen = torch.zeros(points.shape[:3], dtype=torch.bool, device=density.device)
        for pose, camera in zip(camera_to_world, intrinsics, strict=True):
            seen |= _in_view(points, pose, camera, radius, min_distance)
        density[cascade][~seen] = -1


def _in_view(points: Tensor, pose: Tensor, camera: Tensor, radius: float, min_distance: float) -> Tensor:
    """Whether a ball meets the camera's pyramid; generous at its edges."""
    fx, fy, cx, cy, width, height = camera
    x, up, back = ((points - pose[:3, 3]) @ pose[:3, :3]).unbind(dim=-1)
    z, y = -back, -up
    inside = z > min_distance - radius
    # Pixel 0 <= fx x / z + cx <= width, each side as the distance from its plane.
    for focal, across, first, last in ((fx, x, cx, width - cx), (fy, y, cy, height - cy)):
        inside &= (focal * across + first * z) / torch.hypot(focal, first) > -radius
        inside &= (-focal * across + last * z) / torch.hypot(focal, last) > -radius
    return inside
