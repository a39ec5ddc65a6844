"""Rays through a box and an occupancy grid (Müller et al. 2022, "Instant Neural Graphics Primitives", appendix C).

N rays, A of them alive, M samples; the grid as ``march_spec`` has it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.checks import check_device, check_finite, check_range, check_tensor
from methods.kernels.library import compiled, has_kernels
from methods.kernels.march_spec import March

MISS = torch.finfo(torch.float32).max
"""Near and far of a ray that misses its box."""


@dataclass(frozen=True)
class Samples:
    """Steps of all rays, one ray after the other.

    Attributes:
        offsets: ``[N + 1]`` int64: ray i has the samples offsets[i] .. offsets[i + 1] - 1.
        ray_index: ``[M]`` int64, the ray of each sample.
        t_start: ``[M]`` float32, in order within a ray.
        t_end: ``[M]`` float32.
        dropped: int64 without axes: rays whose samples passed the capacity, so that they have none.
    """

    offsets: Tensor
    ray_index: Tensor
    t_start: Tensor
    t_end: Tensor
    dropped: Tensor

    @property
    def midpoints(self) -> Tensor:
        """``[M]``."""
        return 0.5 * (self.t_start + self.t_end)

    @property
    def counts(self) -> Tensor:
        """``[N]`` int64."""
        return self.offsets.diff()

    def __len__(self) -> int:
        return self.t_start.shape[0]


def ray_aabb(
    origins: Tensor, directions: Tensor, aabb: Tensor | Sequence[float], min_near: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave a box.

    Args:
        origins: ``[N, 3]`` float32.
        directions: ``[N, 3]`` float32; t counts in their length. A component may be zero.
        aabb: Three minima, then three maxima.
        min_near: No near is smaller. Far is left as it is: behind the origin it is negative.

    Returns:
        near ``[N]`` and far ``[N]``; both are ``MISS`` where the ray's line misses the box. Touching it is a hit.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, a box inside out, or values that are NaN or infinite.
    """
    _check_rays(origins, directions)
    if not math.isfinite(min_near):
        raise ValueError(f"min_near must be finite, got {min_near}")
    box = torch.as_tensor(aabb, dtype=torch.float64).detach().cpu().reshape(-1)
    check_tensor("aabb", box, (6,), torch.float64)
    check_finite("aabb", box)
    if not torch.compiler.is_compiling() and (box[:3] > box[3:]).any():
        raise ValueError(f"aabb must be three minima, then three maxima; got {box.tolist()}")
    if not has_kernels(origins.device.type):
        return reference.ray_aabb(origins, directions, box, min_near)
    return _ray_aabb(origins.detach(), directions.detach(), box, min_near)


@torch.library.custom_op("fieldbook::ray_aabb", mutates_args=())
def _ray_aabb(origins: Tensor, directions: Tensor, box: Tensor, min_near: float) -> tuple[Tensor, Tensor]:
    near, far = origins.new_empty(origins.shape[0]), origins.new_empty(origins.shape[0])
    ops = compiled(origins.device.type)
    ops.ray_aabb(origins.contiguous(), directions.contiguous(), box, min_near, near, far)
    return near, far


@_ray_aabb.register_fake
def _(origins: Tensor, directions: Tensor, box: Tensor, min_near: float) -> tuple[Tensor, Tensor]:
    return origins.new_empty(origins.shape[0]), origins.new_empty(origins.shape[0])


def march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupied: Tensor,
    spec: March,
    noise: Tensor | None = None,
    capacity: int | None = None,
) -> Samples:
    """The steps of each ray whose point lies in an occupied cell.

    Steps start at near + noise * (length of a step at near) and follow one another without gaps; a step counts while
    its point (``spec.sample_at``) lies before far. Nothing is occupied outside the last cascade.

    Args:
        origins: ``[N, 3]`` float32, world units.
        directions: ``[N, 3]`` float32; t counts in their length.
        near: ``[N]`` float32.
        far: ``[N]`` float32; a ray with far <= near has no samples.
        occupied: In ``spec.layout``.
        spec: Geometry and steps.
        noise: ``[N]`` float32 in [0, 1); None: zeros.
        capacity: The first ray that would need more samples in all than this, and all after it, get none. None: no
            limit.

    Returns:
        The samples; they carry no gradient. The same bytes for any number of threads.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, values that are NaN or infinite, or a negative capacity.
    """
    _check_march(origins, directions, near, far, occupied, spec)
    if noise is not None:
        check_tensor("noise", noise, (origins.shape[0],), torch.float32)
        check_device(origins=origins, noise=noise)
        check_finite("noise", noise)
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be 0 or more, got {capacity}")
    if not has_kernels(origins.device.type):
        return reference.march(origins, directions, near, far, occupied, spec, noise, capacity)
    rays = [v.detach() for v in (origins, directions, near, far)]
    return Samples(*_march(*rays, occupied, noise, spec.packed, -1 if capacity is None else capacity))


def march_alive(
    origins: Tensor,
    directions: Tensor,
    t: Tensor,
    far: Tensor,
    alive: Tensor,
    occupied: Tensor,
    spec: March,
    n_samples: int,
) -> Samples:
    """The next steps of the rays that are still alive.

    Args:
        origins: ``[N, 3]`` float32.
        directions: ``[N, 3]`` float32.
        t: ``[N]`` float32, contiguous: where each ray's next step starts. Moved on in place for the alive rays; to far
            where nothing is left.
        far: ``[N]`` float32.
        alive: ``[A]`` int64, different rays.
        occupied: In ``spec.layout``.
        spec: Geometry and steps; ``max_samples`` does not matter.
        n_samples: A ray gets at most as many.

    Returns:
        Samples of the A rays: ``offsets`` ``[A + 1]``, ``ray_index`` names rays of the N.

    Raises:
        TypeError: A wrong type.
        ValueError: A wrong shape or device, values that are NaN or infinite, or rays that do not exist.
    """
    _check_march(origins, directions, t, far, occupied, spec)
    check_tensor("alive", alive, ("A",), torch.int64)
    check_device(origins=origins, alive=alive)
    if not t.is_contiguous():
        raise ValueError("t is changed in place and must be contiguous")
    if not 1 <= n_samples < 2**30:
        raise ValueError(f"n_samples must be 1 or more, got {n_samples}")
    check_range("alive", alive, t.shape[0])
    if not has_kernels(origins.device.type):
        return reference.march_alive(origins, directions, t, far, alive, occupied, spec, n_samples)
    packed = spec.packed.clone()
    packed[10] = n_samples
    # Through torch's dispatcher only where it must be: that takes as long as a small march.
    go_on = _march_alive if torch.compiler.is_compiling() else _launch_alive
    return Samples(*go_on(origins.detach(), directions.detach(), t, far.detach(), alive, occupied, packed))


def _check_rays(origins: Tensor, directions: Tensor) -> None:
    check_tensor("origins", origins, ("N", 3), torch.float32)
    check_tensor("directions", directions, (origins.shape[0], 3), torch.float32)
    check_device(origins=origins, directions=directions)
    check_finite("origins", origins)
    check_finite("directions", directions)


def _check_march(origins: Tensor, directions: Tensor, near: Tensor, far: Tensor, occupied: Tensor, spec: March) -> None:
    _check_rays(origins, directions)
    check_tensor("near", near, (origins.shape[0],), torch.float32)
    check_tensor("far", far, (origins.shape[0],), torch.float32)
    check_tensor("occupied", occupied, spec.shape, torch.bool if spec.layout == "linear" else torch.uint8)
    check_device(origins=origins, near=near, far=far, occupied=occupied)
    check_finite("near", near)
    check_finite("far", far)


Packed = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("fieldbook::march", mutates_args=())
def _march(
    origins: Tensor,
    directions: Tensor,
    near: Tensor,
    far: Tensor,
    occupied: Tensor,
    noise: Tensor | None,
    packed: Tensor,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    noise = near.new_empty(0) if noise is None else noise.contiguous()
    alive = torch.empty(0, dtype=torch.int64, device=near.device)
    rays = [origins.contiguous(), directions.contiguous(), near.contiguous(), far.contiguous(), noise, alive, True]
    return _two_passes(rays, occupied, packed, capacity, near.new_empty(0))


def _launch_alive(
    origins: Tensor, directions: Tensor, t: Tensor, far: Tensor, alive: Tensor, occupied: Tensor, packed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    alive, resume = alive.contiguous(), t.new_empty(alive.shape[0])
    noise = t.new_empty(0)
    rays = [origins.contiguous(), directions.contiguous(), t, far.contiguous(), noise, alive, False]
    samples = _two_passes(rays, occupied, packed, -1, resume)
    t.index_copy_(0, alive, resume)
    return samples


_march_alive = torch.library.custom_op("fieldbook::march_alive", _launch_alive, mutates_args=("t",))


def _two_passes(rays: list, occupied: Tensor, packed: Tensor, capacity: int, resume: Tensor) -> Packed:
    """Count, place the rays one after the other, write."""
    ops, device = compiled(occupied.device.type), occupied.device
    grid = [*_bits_and_blocks(occupied, packed), packed]
    number = rays[0].shape[0] if rays[6] else rays[5].shape[0]
    counts = torch.empty(number, dtype=torch.int64, device=device)
    group_offsets = torch.empty(number + 1, dtype=torch.int64, device=device)
    groups = ops.march_count(*rays, *grid, counts, resume, group_offsets)
    offsets, dropped = place(counts, capacity)
    size = int(offsets[-1])
    t_start, t_end = (torch.empty(size, device=device) for _ in range(2))
    ray_index = torch.empty(size, dtype=torch.int64, device=device)
    ops.march_write(*rays, *grid, groups, group_offsets, offsets, t_start, t_end, ray_index)
    return offsets, ray_index, t_start, t_end, dropped


def _bits_and_blocks(occupied: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
    """The grid as the march reads it: one bit per cell, and which blocks of cells hold any."""
    ops, device, occupied = compiled(occupied.device.type), occupied.device, occupied.contiguous().view(torch.uint8)
    if occupied.dim() == 4:
        short = -occupied.numel() % 32
        cells = torch.nn.functional.pad(occupied.view(-1), (0, short)) if short else occupied
        bits = torch.empty(cells.numel() // 32, dtype=torch.int32, device=device)
        ops.march_bits(cells, bits)
    else:
        bits = occupied.clone() if occupied.data_ptr() % 4 else occupied  # read in words of 32 bits
    cascades, resolution, shift = (int(packed[i]) for i in (8, 9, 12))
    blocks = torch.empty(cascades * (resolution >> shift) ** 3 if shift else 0, dtype=torch.uint8, device=device)
    ops.march_blocks(bits, packed, blocks)
    return bits, blocks


def place(counts: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
    """Offsets of rays that follow one another, those past the capacity (none if negative) left empty.

    Args:
        counts: ``[N]`` int64.
        capacity: Samples that there is room for.

    Returns:
        ``[N + 1]`` int64 offsets, and how many rays lost their samples (int64 without axes).
    """
    ends = counts.cumsum(0)
    dropped = ((ends > capacity) & (counts > 0)).sum() if capacity >= 0 else ends.new_zeros(())
    if capacity >= 0:
        ends = torch.where(ends <= capacity, counts, 0).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends]), dropped


@_march.register_fake
def _(origins, directions, near, far, occupied, noise, packed, capacity):
    return _fake(origins.shape[0], near)


@_march_alive.register_fake
def _(origins, directions, t, far, alive, occupied, packed):
    return _fake(alive.shape[0], t)


def _fake(rays: int, like: Tensor) -> Packed:
    size = torch.library.get_ctx().new_dynamic_size()
    offsets, index, dropped = (like.new_empty(shape, dtype=torch.int64) for shape in ((rays + 1,), (size,), ()))
    return offsets, index, like.new_empty(size), like.new_empty(size), dropped
