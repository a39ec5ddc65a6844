"""Cells of an occupancy grid (Müller et al. 2022, "Instant Neural Graphics Primitives", appendix C).

C cascades of H^3 cells, the geometry of ``march_spec``. ``density`` is float32 [C, H, H, H]: what a step in the cell
adds, or any other measure of it; -1 marks a cell that no camera sees. K cells are named by their flat index.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_finite, check_range, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.march_spec import March


def occupancy_update_(density: Tensor, cells: Tensor | None, values: Tensor, decay: float = 0.95) -> None:
    """Let cells fade and rise, in place: ``max(decay * density, value)`` where density >= 0; other cells stay.

    Args:
        density: ``[C, H, H, H]`` float32, contiguous.
        cells: ``[K]`` int64, different flat indices; None: all cells in order.
        values: ``[K]`` float32.
        decay: Of what was there.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, cells that do not exist, or values that are NaN or infinite.
    """
    check_tensor("density", density, ("C", "H", "H", "H"), torch.float32)
    number = density.numel() if cells is None else cells.numel()
    check_tensor("values", values, (number,), torch.float32)
    if cells is not None:
        check_tensor("cells", cells, ("K",), torch.int64)
        check_range("cells", cells, density.numel())
    check_device(density=density, cells=cells, values=values)
    check_finite("values", values)
    if not density.is_contiguous():
        raise ValueError("density is changed in place and must be contiguous")
    if not has_kernels(density.device.type):
        return reference.occupancy_update_(density, cells, values, decay)
    _update(density, cells, values.detach(), decay)


@torch.library.custom_op("fieldbook::occupancy_update_", mutates_args=("density",))
def _update(density: Tensor, cells: Tensor | None, values: Tensor, decay: float) -> None:
    given = values.new_empty(0, dtype=torch.int64) if cells is None else cells.contiguous()
    compiled(density.device.type).occupancy_update(density, given, cells is None, values.contiguous(), decay)


def occupancy_threshold(density: Tensor, threshold: float, include_unseen: bool = False) -> Tensor:
    """Cells with ``density > min(mean, threshold)``: ``[C, H, H, H]`` bool.

    Args:
        density: ``[C, H, H, H]`` float32.
        threshold: What is occupied whatever the mean.
        include_unseen: The mean is over ``max(density, 0)`` of all cells, not over those with density >= 0.
    """
    check_tensor("density", density, ("C", "H", "H", "H"), torch.float32)
    known = torch.ones_like(density, dtype=torch.bool) if include_unseen else density >= 0
    # Summed slice by slice, so that the number of threads does not change the order of the additions.
    slices = density.clamp(min=0).flatten(2).sum(dim=2, dtype=torch.float64)
    mean = slices.sum() / known.sum().clamp(min=1)
    return density > mean.clamp(max=threshold).float()


def mark_unseen_(
    density: Tensor, spec: March, camera_to_world: Tensor, intrinsics: Tensor, min_distance: float = 0.0
) -> None:
    """Set the cells that no camera sees to -1, in place.

    A cell counts as the ball around it, so one that any camera sees a corner of is kept, and so are a few neighbours.

    Args:
        density: ``[C, H, H, H]`` float32, contiguous.
        spec: Geometry.
        camera_to_world: ``[K, 3, 4]`` or ``[K, 4, 4]`` float32, OpenGL: x right, y up, looking along -z.
        intrinsics: ``[K, 6]`` float32: fx, fy, cx, cy, width, height in pixels.
        min_distance: Nearer than this, along the camera's axis, nothing is seen.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, or values that are NaN or infinite.
    """
    check_tensor("density", density, (spec.cascades, *(spec.resolution,) * 3), torch.float32)
    rows = 4 if camera_to_world.dim() == 3 and camera_to_world.shape[1] == 4 else 3
    check_tensor("camera_to_world", camera_to_world, ("K", rows, 4), torch.float32)
    check_tensor("intrinsics", intrinsics, (camera_to_world.shape[0], 6), torch.float32)
    check_device(density=density, camera_to_world=camera_to_world, intrinsics=intrinsics)
    check_finite("camera_to_world", camera_to_world)
    check_finite("intrinsics", intrinsics)
    if not density.is_contiguous():
        raise ValueError("density is changed in place and must be contiguous")
    if not has_kernels(density.device.type):
        return reference.mark_unseen_(density, spec, camera_to_world, intrinsics, min_distance)
    numbers = [*spec.centre, spec.half, min_distance, spec.resolution]
    geometry = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    _mark_unseen(density, _viewers(camera_to_world, intrinsics), geometry)


def _viewers(camera_to_world: Tensor, intrinsics: Tensor) -> Tensor:
    """``[K, 20]``: axes right, down and forward, the position, and the side planes' normals."""
    right, up, back, position = camera_to_world[:, :3].unbind(dim=-1)
    fx, fy, cx, cy, width, height = intrinsics.unbind(dim=-1)
    planes = []
    for a, b in ((fx, cx), (-fx, width - cx), (fy, cy), (-fy, height - cy)):
        planes += [a / torch.hypot(a, b), b / torch.hypot(a, b)]
    return torch.cat([right, -up, -back, position, torch.stack(planes, dim=-1)], dim=-1).contiguous()


@torch.library.custom_op("fieldbook::mark_unseen_", mutates_args=("density",))
def _mark_unseen(density: Tensor, viewers: Tensor, geometry: Tensor) -> None:
    compiled(density.device.type).mark_unseen(density, viewers, geometry)
