"""neus-hash's losses; all are zero, not NaN, where a batch has no samples.

N rays, M samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from methods.kernels.distortion import distortion
from methods.neus_hash.config import NeusHashModelConfig
from methods.neus_hash.schedules import weight_at

CERTAIN = 1e-3
"""Opacities nearer than this to 0 and 1 count as that, so that no logarithm grows without bound."""


def losses(
    config: NeusHashModelConfig, step: int, outputs: dict[str, Any], truth: Tensor, mask: Tensor | None
) -> dict[str, Tensor]:
    """The weighted losses of a batch, those whose weight is not zero.

    Args:
        config: The weights.
        step: At which they stand.
        outputs: The model's, of a training step.
        truth: ``[N, 3]``, before the step's background.
        mask: ``[N]`` in [0, 1]; None without masks or alpha.
    """
    made: dict[str, Tensor] = {}
    for name, multiplier, compute in _terms(config, outputs, truth, mask):
        weight = weight_at(multiplier, step)
        if weight != 0:
            made[name] = weight * compute()
    return made


def _terms(
    config: NeusHashModelConfig, outputs: dict[str, Any], truth: Tensor, mask: Tensor | None
) -> Iterator[tuple[str, Any, Callable[[], Tensor]]]:
    surface, opacity = outputs["surface"], outputs["accumulation"][:, 0]
    hit = outputs["hit"][:, None]
    error = (outputs["rgb"] - truth) * hit
    yield "rgb_l1_loss", config.rgb_l1_mult, lambda: _share(error.abs(), hit)
    yield "rgb_mse_loss", config.rgb_mse_mult, lambda: _share(error.square(), hit)
    yield "eikonal_loss", config.eikonal_loss_mult, lambda: eikonal(surface.gradient)
    if mask is not None:
        yield "mask_loss", config.mask_loss_mult, lambda: cross_entropy(opacity, mask)
    yield "opaque_loss", config.opaque_loss_mult, lambda: cross_entropy(opacity, opacity)
    scale = config.sparsity_scale
    yield "sparsity_loss", config.sparsity_loss_mult, lambda: mean(torch.exp(-scale * surface.sdf.abs()))
    yield "distortion_loss", config.distortion_loss_mult, lambda: _distortion(config, outputs)
    if surface.laplacian is not None:
        yield "curvature_loss", config.curvature_loss_mult, lambda: mean(surface.laplacian.abs())


def _share(error: Tensor, hit: Tensor) -> Tensor:
    """Mean over the channels of the rays that met anything."""
    return error.sum() / (3 * hit.sum()).clamp(min=1)


def mean(value: Tensor) -> Tensor:
    """Mean of ``[M]``; zero, with a gradient of zero, of nothing."""
    return value.sum() / max(value.numel(), 1)


def eikonal(gradient: Tensor) -> Tensor:
    """Mean of ``(|g| - 1)^2`` over ``[M, 3]`` (Gropp et al. 2020, equation 2); finite derivatives also at g = 0."""
    length = gradient.square().sum(dim=-1).clamp(min=1e-12).sqrt()
    return mean((length - 1).square())


def cross_entropy(opacity: Tensor, target: Tensor) -> Tensor:
    """Mean binary cross-entropy of ``[N]`` against ``[N]``, both in [0, 1]."""
    certain, target = opacity.clamp(CERTAIN, 1 - CERTAIN), target.clamp(CERTAIN, 1 - CERTAIN)
    return mean(-(target * certain.log() + (1 - target) * (1 - certain).log()))


def _distortion(config: NeusHashModelConfig, outputs: dict[str, Any]) -> Tensor:
    samples, scale = outputs["samples"], 1 / (2 * config.radius)
    return mean(distortion(outputs["weights"], samples.t_start * scale, samples.t_end * scale, samples.offsets))
