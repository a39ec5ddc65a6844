"""neus-hash's distance, gradient and Laplacian by differences (Li et al. 2023, Neuralangelo, section 3.1).

M samples, K taps. All that these need is ordinary first-order derivatives of the grid: eikonal and curvature reach the
table through the taps' features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.kernels.distance_net import distance_net, distance_only
from methods.kernels.taps import gradient_and_laplacian, tap_offsets
from methods.neus_hash.schedules import active_levels

if TYPE_CHECKING:
    from methods.neus_hash.field import SurfaceField

BETA = 100.0
"""Of the softplus between the distance network's layers (Gropp et al. 2020)."""


def step_length(field: SurfaceField) -> float:
    """A cell of the finest level in use, over the box's side."""
    c = field.config
    level = active_levels(field.step, c.num_levels, c.start_levels, c.level_every) - 1
    return 1 / (c.base_res * field.encoding.grid.growth**level)


def by_differences(field: SurfaceField, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``[M, F]``, gradient ``[M, 3]`` and Laplacian ``[M]`` at positions ``[M, 3]`` in the model's units.

    Taps outside the box are moved to its faces, as instant-nsr-pl does.
    """
    c, side = field.config, step_length(field)
    x = positions / c.radius
    unit = (x * 0.5 + 0.5).clamp(0.0, 1.0)
    offsets = tap_offsets(side, c.taps, unit.device)
    encoded = field.encoding.taps(unit, offsets, field.level_mask, clamped=True)
    places = torch.cat([unit[:, None], (unit[:, None] + offsets).clamp(0.0, 1.0)], dim=1) * 2 - 1
    inputs = torch.cat([places, encoded], dim=-1)
    network = field.network
    features, _ = distance_net(inputs[:, 0], *network, BETA)
    around = distance_only(inputs[:, 1:].flatten(0, 1), *network, BETA).view(len(x), len(offsets))
    return features, *gradient_and_laplacian(features[:, 0], around, 2 * c.radius * side, c.taps)
