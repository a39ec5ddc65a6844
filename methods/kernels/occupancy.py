"""Upkeep of an occupancy grid (Müller et al. 2022, "Instant Neural Graphics Primitives", appendix C).

C cascades of H^3 cells, the geometry of ``march_spec``. ``density`` is float32 [C, H, H, H]: what a step in the cell
adds, or any other measure of it; -1 marks a cell that no camera sees. K cells are named by their flat index.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.kernels import reference
from methods.kernels.checks import check_device, check_finite, check_range, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.marching import March

CHUNK = 2**17
"""Points that a density function is asked for at a time, at most."""


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


def pack_bits(density: Tensor, threshold: float) -> Tensor:
    """One bit per cell, set where ``density > threshold``: cell k is bit k % 8 of byte k // 8, the lowest first.

    Args:
        density: ``[n]`` or ``[C, n]`` float32, with a multiple of 8 cells; in Morton order for the layout ``morton``.
        threshold: Of the strict comparison.

    Returns:
        ``[numel / 8]`` uint8.
    """
    flat = density.reshape(-1)
    check_tensor("density", flat, ("n",), torch.float32)
    if flat.numel() % 8:
        raise ValueError(f"density must have a multiple of 8 cells, got {flat.numel()}")
    if not has_kernels(density.device.type):
        return reference.pack_bits(flat, threshold)
    return _pack_bits(flat.detach(), threshold)


@torch.library.custom_op("fieldbook::pack_bits", mutates_args=())
def _pack_bits(density: Tensor, threshold: float) -> Tensor:
    bits = torch.empty(density.numel() // 8, dtype=torch.uint8, device=density.device)
    compiled(density.device.type).pack_bits(density.contiguous(), threshold, bits)
    return bits


@_pack_bits.register_fake
def _(density: Tensor, threshold: float) -> Tensor:
    return density.new_empty(density.numel() // 8, dtype=torch.uint8)


def morton3d(coords: Tensor) -> Tensor:
    """Z-order index: bit b of x, y, z becomes bit 3b, 3b + 1, 3b + 2.

    Args:
        coords: ``[N, 3]`` int32 or int64, 0..1023.

    Returns:
        ``[N]`` int64.
    """
    check_tensor("coords", coords, ("N", 3), (torch.int32, torch.int64))
    check_range("coords", coords, 2**10)
    return _morton3d(coords.long()) if has_kernels(coords.device.type) else reference.morton3d(coords)


def morton3d_inverse(index: Tensor) -> Tensor:
    """Cell of a Z-order index: ``[N]`` int32 or int64, 0..2^30 - 1, to ``[N, 3]`` int64."""
    check_tensor("index", index, ("N",), (torch.int32, torch.int64))
    check_range("index", index, 2**30)
    return _morton3d_inverse(index.long()) if has_kernels(index.device.type) else reference.morton3d_inverse(index)


@torch.library.custom_op("fieldbook::morton3d", mutates_args=())
def _morton3d(coords: Tensor) -> Tensor:
    index = coords.new_empty(coords.shape[0])
    compiled(coords.device.type).morton3d(coords.contiguous(), index)
    return index


@_morton3d.register_fake
def _(coords: Tensor) -> Tensor:
    return coords.new_empty(coords.shape[0])


@torch.library.custom_op("fieldbook::morton3d_inverse", mutates_args=())
def _morton3d_inverse(index: Tensor) -> Tensor:
    coords = index.new_empty(index.shape[0], 3)
    compiled(index.device.type).morton3d_inverse(index.contiguous(), coords)
    return coords


@_morton3d_inverse.register_fake
def _(index: Tensor) -> Tensor:
    return index.new_empty(index.shape[0], 3)


class OccupancyGrid(nn.Module):
    """An occupancy grid that follows a changing field.

    Before the first update every cell counts as occupied. The part of an outer cascade that a finer one covers is not
    evaluated: there a cell is occupied if any of the finer cells in it is.

    Attributes:
        density: ``[C, H, H, H]`` float32 buffer; -1: covered by a finer cascade, or seen by no camera.
        occupied: ``[C, H, H, H]`` bool buffer, for ``march``.
        march_spec: Geometry and steps.
    """

    density: Tensor
    occupied: Tensor

    def __init__(
        self,
        spec: March,
        threshold: float = 0.01,
        decay: float = 0.95,
        every: int = 16,
        warm_up: int = 256,
        fraction: float = 0.25,
        seed: int = 0,
    ):
        """Make a grid of which nothing is known yet.

        Args:
            spec: Geometry and steps; layout ``linear``.
            threshold: A cell is occupied above min(mean, threshold).
            decay: Factor on a cell's value per update.
            every: Steps between updates.
            warm_up: Before this step an update evaluates all cells.
            fraction: After it, this share of the cells chosen evenly, and at most as many of the occupied ones.
            seed: Of the choice and of the points in the cells; with the step's number it decides both, so a resumed
                run goes on as if it had not stopped.
        """
        super().__init__()
        if spec.layout != "linear":
            raise ValueError("an OccupancyGrid has the layout linear")
        if not (0 < fraction <= 1 and every >= 1 and 0 <= decay <= 1):
            raise ValueError(f"fraction in (0, 1], every >= 1, decay in [0, 1]; got {fraction}, {every}, {decay}")
        self.march_spec = spec
        self.threshold, self.decay, self.every, self.warm_up = threshold, decay, every, warm_up
        self.fraction, self.seed = fraction, seed
        density = torch.zeros(spec.shape)
        density[1:][_middle(spec)] = -1
        self.register_buffer("density", density)
        self.register_buffer("occupied", torch.ones(spec.shape, dtype=torch.bool))

    def every_step(self, step: int, density_fn: Callable[[Tensor, float], Tensor]) -> bool:
        """Update the grid if the step is due.

        Args:
            step: Of training, from 0.
            density_fn: Takes world positions ``[K, 3]`` float32, at most ``CHUNK``, and the side of their cells;
                returns ``[K]``, what the cells' density is compared with ``threshold`` by.

        Returns:
            Whether there was an update.
        """
        if step % self.every:
            return False
        generator = torch.Generator(self.density.device)
        generator.manual_seed((self.seed * 2654435761 + step) % 2**32)
        for cascade in range(self.march_spec.cascades):
            cells = self._all(cascade) if step < self.warm_up else self._some(cascade, generator)
            for part in cells.split(CHUNK):
                self._evaluate(cascade, part, density_fn, generator)
        self._threshold()
        return True

    def mark_unseen(self, camera_to_world: Tensor, intrinsics: Tensor, min_distance: float = 0.0) -> None:
        """Exclude for good the cells that no camera sees; arguments as ``mark_unseen_``."""
        mark_unseen_(self.density, self.march_spec, camera_to_world, intrinsics, min_distance)
        self.occupied &= self.density >= 0
        self._pool()

    def _all(self, cascade: int) -> Tensor:
        return (self.density[cascade].view(-1) >= 0).nonzero()[:, 0]

    def _some(self, cascade: int, generator: torch.Generator) -> Tensor:
        """Cells chosen evenly, one from each of equal runs of neighbours, and likewise of the occupied ones."""
        density = self.density[cascade].view(-1)
        number = max(1, int(self.fraction * density.numel()))
        occupied = ((density >= 0) & self.occupied[cascade].view(-1)).nonzero()[:, 0]
        chosen = torch.zeros_like(density, dtype=torch.bool)
        chosen[_one_of_each(density.numel(), number, generator)] = True
        if occupied.numel() > number:
            occupied = occupied[_one_of_each(occupied.numel(), number, generator)]
        chosen[occupied] = True
        return (chosen & (density >= 0)).nonzero()[:, 0]

    def _evaluate(
        self,
        cascade: int,
        cells: Tensor,
        density_fn: Callable[[Tensor, float], Tensor],
        generator: torch.Generator,
    ) -> None:
        spec, h = self.march_spec, self.march_spec.resolution
        size = 2 * spec.half * 2**cascade / h
        corner = torch.stack([cells // (h * h), cells // h % h, cells % h], dim=-1)
        jitter = torch.rand(corner.shape, generator=generator, device=cells.device)
        centre = torch.tensor(spec.centre, device=cells.device)
        with torch.no_grad():
            values = density_fn(centre + (corner + jitter - h / 2) * size, size)
        occupancy_update_(self.density, cells + cascade * h**3, values.reshape(-1).float(), self.decay)

    def _threshold(self) -> None:
        self.occupied.copy_(occupancy_threshold(self.density, self.threshold))
        self._pool()

    def _pool(self) -> None:
        """A covered cell is occupied if any finer cell in it is."""
        h = self.march_spec.resolution
        for cascade in range(1, self.march_spec.cascades):
            fine = self.occupied[cascade - 1].view(h // 2, 2, h // 2, 2, h // 2, 2)
            self.occupied[cascade][_middle(self.march_spec)[1:]] = fine.any(5).any(3).any(1)


def _middle(spec: March) -> tuple[slice, ...]:
    """Index of the covered cells of outer cascades ``[C - 1, H, H, H]``."""
    quarter = spec.resolution // 4
    return (slice(None), *(slice(quarter, spec.resolution - quarter),) * 3)


def _one_of_each(total: int, number: int, generator: torch.Generator) -> Tensor:
    """``number`` of ``total`` indices, one at random from each of equal parts: ``[number]``."""
    where = torch.rand(number, generator=generator, device=generator.device, dtype=torch.float64)
    places = torch.arange(number, device=generator.device)
    return ((places + where) * (total / number)).long().clamp(max=total - 1)
