"""Twin of ``methods.kernels.marching``: every step of every ray is looked up, one step of all rays at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from methods.kernels.marching import March, Samples

MISS = torch.finfo(torch.float32).max


def ray_aabb(
    origins: Tensor, directions: Tensor, aabb: Tensor | Sequence[float], min_near: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave a box: near and far ``[N]``, both ``MISS`` where the ray's line misses it."""
    low, high = torch.as_tensor(aabb, dtype=origins.dtype, device=origins.device).reshape(2, 3)
    entry, leave = _slabs(origins, directions, low, high, still=0.0)
    hit = entry <= leave
    near = torch.where(hit, entry.clamp(min=min_near), MISS)
    return near, torch.where(hit, leave, MISS)


def _slabs(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor, still: float) -> tuple[Tensor, Tensor]:
    """Entry and exit of the box; entry > exit where the line misses it."""
    rests = directions.abs() <= still
    safe = torch.where(rests, 1.0, directions)
    t0, t1 = (low - origins) / safe, (high - origins) / safe
    # Along an axis without motion a ray is inside for ever, or never.
    inside = (origins >= low) & (origins <= high)
    entry = torch.where(rests, torch.where(inside, -MISS, MISS), torch.minimum(t0, t1))
    leave = torch.where(rests, torch.where(inside, MISS, -MISS), torch.maximum(t0, t1))
    return entry.amax(dim=-1), leave.amin(dim=-1)


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
    """The steps of each ray whose point lies in an occupied cell; arguments as the kernel's, also in float64."""
    start = near if noise is None else _fma(_length(spec, near), noise, near)
    found = _all_steps(origins, directions, start, far, occupied, spec, spec.max_samples)
    rays = torch.arange(origins.shape[0], device=origins.device)
    return _packed(rays, *found[:3], capacity)


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
    """The next steps of the rays that are still alive; moves ``t`` on in place."""
    found = _all_steps(origins[alive], directions[alive], t[alive], far[alive], occupied, spec, n_samples)
    t[alive] = found[3]
    return _packed(alive, *found[:3], None)


def ray_points(origins: Tensor, directions: Tensor, samples: Samples, t: Tensor | None = None) -> Tensor:
    """``origins + t * directions`` of each sample's ray: ``[M, 3]``."""
    t = samples.midpoints if t is None else t
    return origins[samples.ray_index] + t[:, None] * directions[samples.ray_index]


def _all_steps(
    origins: Tensor, directions: Tensor, start: Tensor, far: Tensor, occupied: Tensor, spec: March, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row, start and end of each emitted step in no order of rows; and where each ray would go on."""
    centre = torch.tensor(spec.centre, dtype=origins.dtype, device=origins.device)
    inverse = torch.tensor(1 / spec.half, dtype=origins.dtype, device=origins.device)
    o, d = (origins - centre) * inverse, directions * inverse
    edge = torch.full_like(centre, 2 ** (spec.cascades - 1)) * 1.000001
    entry, leave = _slabs(o, d, -edge, edge, still=1e-20)
    end = torch.minimum(far, leave)
    lost = torch.maximum(end, -start) * 6e-8 >= spec.step_min  # a step, in t's rounding
    end = torch.where((entry <= leave) & ~lost, end, -MISS)
    shift = 0.5 if spec.sample_at == "midpoint" else 0.0

    rows, starts, ends, count = [], [], [], torch.zeros_like(start, dtype=torch.int64)
    t, resume = start, torch.maximum(far, start)
    for step in itertools.count(1):
        length = _length(spec, t)
        if spec.cone_angle == 0:
            point, following = _fma(step - 1 + shift, length, start), _fma(step, length, start)
        else:
            point, following = _fma(length, shift, t), t + length
        looks = (point < end) & (count < most)
        if not looks.any():
            break
        hit = looks & (point >= entry) & _lookup(_fma(point[:, None], d, o), length, occupied, spec)
        rows.append(hit.nonzero()[:, 0])
        starts.append(t[hit])
        ends.append(following[hit])
        count += hit
        t = torch.where(looks, following, t)
    last_point = _fma(_length(spec, t), shift, t)
    resume = torch.where((count == most) & (last_point < end), t, resume)
    return torch.cat([rows[0][:0], *rows]) if rows else count[:0], _cat(starts, t), _cat(ends, t), resume


def _cat(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts) if parts else like[:0]


def _fma(a: Tensor | float, b: Tensor | float, c: Tensor) -> Tensor:
    """A * b + c with a single rounding, as the kernels compute it."""
    if c.dtype == torch.float64:
        return a * b + c
    a, b = (v.double() if isinstance(v, Tensor) else v for v in (a, b))
    return (a * b + c.double()).to(c.dtype)


def _length(spec: March, t: Tensor) -> Tensor:
    low, high = (torch.tensor(v, dtype=t.dtype, device=t.device) for v in (spec.step_min, spec.longest))
    return (t * spec.cone_angle).clamp(low, high)


def _lookup(point: Tensor, length: Tensor, occupied: Tensor, spec: March) -> Tensor:
    """Whether the cell of each point is occupied; points in units of half about the centre."""
    bound, half_resolution = 2.0 ** (spec.cascades - 1), spec.resolution / 2
    point = point.clamp(-bound, bound)
    inverse = torch.tensor(1 / spec.half, dtype=point.dtype, device=point.device)
    cells = length * (half_resolution * inverse)
    level = torch.maximum(torch.frexp(point.abs().amax(dim=-1)).exponent, torch.frexp(cells).exponent)
    level = level.clamp(0, spec.cascades - 1).long()
    scale = half_resolution * torch.exp2(-level.to(point.dtype))
    index = _fma(point, scale[:, None], torch.full_like(point, half_resolution)).long().clamp(0, spec.resolution - 1)
    if spec.layout == "linear":
        return occupied[level, index[:, 0], index[:, 1], index[:, 2]]
    from methods.kernels.reference.occupancy import morton3d

    bit = level * spec.resolution**3 + morton3d(index)
    return (occupied[bit >> 3] >> (bit & 7)) & 1 == 1


def _packed(rays: Tensor, rows: Tensor, starts: Tensor, ends: Tensor, capacity: int | None) -> Samples:
    from methods.kernels.marching import Samples

    order = torch.argsort(rows, stable=True)
    counts = torch.bincount(rows, minlength=rays.shape[0])
    fits = counts.cumsum(0) <= (counts.sum() if capacity is None else capacity)
    offsets = torch.cat([counts.new_zeros(1), (counts * fits).cumsum(0)])
    dropped = (counts[~fits] > 0).sum()
    order = order[: int(offsets[-1])]
    return Samples(offsets, rays[rows[order]], starts[order], ends[order], dropped)
