"""Twin of ``methods.kernels.compositing``: rays padded to rows, and a running product."""

from __future__ import annotations

import torch
from torch import Tensor


def composite(
    density: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    offsets: Tensor,
    extra: Tensor | None = None,
    early_stop: float = 1e-4,
    depth_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Volume rendering from densities; also takes float64. See ``methods.kernels.compositing.composite``."""
    alpha = 1 - torch.exp(-density * (t_end - t_start).detach())
    return composite_alpha(alpha, rgb, t_start, t_end, offsets, extra, early_stop, depth_gradient)


def composite_alpha(
    alpha: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    offsets: Tensor,
    extra: Tensor | None = None,
    early_stop: float = 1e-4,
    depth_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Volume rendering from opacities; also takes float64. See ``methods.kernels.compositing.composite_alpha``."""
    rows = _pad(alpha, offsets, 0.0)
    before = _transmittance(rows)
    used = _used(before.detach(), early_stop)
    weights = torch.where(used, before * rows, torch.zeros_like(rows))
    middle = _pad(0.5 * (t_start + t_end).detach(), offsets, 0.0)
    total_rgb = (weights[..., None] * _pad(rgb, offsets, 0.0)).sum(1)
    depth = (weights * middle).sum(1)
    total_extra = None if extra is None else (_pad(extra, offsets, 0.0) * used).sum(1)
    depth = depth if depth_gradient else depth.detach()
    return total_rgb, weights.sum(1), depth, _unpad(weights, offsets), total_extra


def composite_alive_(
    offsets: Tensor,
    alive: Tensor,
    density: Tensor,
    rgb: Tensor,
    t_start: Tensor,
    t_end: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    n_samples: int,
    early_stop: float = 1e-4,
) -> Tensor:
    """One step of rendering without gradients. See ``methods.kernels.compositing.composite_alive_``."""
    rgb_sum, opacity, depth = state
    rows = _pad(1 - torch.exp(-density * (t_end - t_start)), offsets, 0.0)
    before = _transmittance(rows) * (1 - opacity[alive])[:, None]
    used = _used(before, early_stop)
    weights = before * rows * used
    rgb_sum[alive] += (weights[..., None] * _pad(rgb, offsets, 0.0)).sum(1)
    depth[alive] += (weights * _pad(0.5 * (t_start + t_end), offsets, 0.0)).sum(1)
    opacity[alive] += weights.sum(1)
    full = offsets[1:] - offsets[:-1] == n_samples
    stopped = ((before * (1 - rows) < early_stop) & _pad(torch.ones_like(t_start), offsets, 0.0).bool()).any(1)
    return alive[full & ~stopped]


def _transmittance(alpha: Tensor) -> Tensor:
    """T before each sample of ``[N, S]``."""
    ones = torch.ones_like(alpha[:, :1])
    return torch.cumprod(torch.cat([ones, 1 - alpha], dim=1), dim=1)[:, : alpha.shape[1]]


def _used(before: Tensor, early_stop: float) -> Tensor:
    """Whether T was at no earlier sample below the threshold; the first sample is always used."""
    used = before >= early_stop
    used[:, :1] = True
    return torch.cummin(used.to(torch.uint8), dim=1).values.bool() if used.shape[1] else used


def _pad(values: Tensor, offsets: Tensor, fill: float) -> Tensor:
    """Rays as rows: ``[M, ...]`` to ``[N, S, ...]`` with S the longest ray's samples, ``fill`` behind the others'."""
    counts = offsets[1:] - offsets[:-1]
    longest = int(counts.max()) if counts.numel() else 0
    rows = values.new_full((counts.shape[0], longest, *values.shape[1:]), fill)
    return rows.masked_scatter(_mask(counts, longest).reshape(*rows.shape[:2], *(1,) * (values.dim() - 1)), values)


def _unpad(rows: Tensor, offsets: Tensor) -> Tensor:
    """The inverse of ``_pad``: ``[N, S, ...]`` to ``[M, ...]``."""
    return rows[_mask(offsets[1:] - offsets[:-1], rows.shape[1])]


def _mask(counts: Tensor, longest: int) -> Tensor:
    return torch.arange(longest, device=counts.device) < counts[:, None]
