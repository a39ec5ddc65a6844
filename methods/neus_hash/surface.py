"""neus-hash's surface for whoever takes its mesh, in the scene frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.neus_hash.field import unit_normals
from methods.runner.surface import Surface

if TYPE_CHECKING:
    from methods.neus_hash.model import NeusHashModel


def surface_of(model: NeusHashModel) -> Surface:
    """The zero level of the model's distance; from the scene frame to the model's units and back."""
    field, half = model.field, model.unit * model.config.radius

    def normal(points: Tensor) -> Tensor:
        return unit_normals(field.surface(model.to_own(points)).gradient)

    def colour(points: Tensor, normals: Tensor) -> Tensor:
        ray = torch.arange(len(points), device=points.device)  # each its own
        features = field.surface(model.to_own(points)).features
        return field.colour(features, normals, field.ray_features(-normals), ray)

    aabb = torch.stack([model.centre - half, model.centre + half])
    return Surface(aabb, lambda points: field.distance(model.to_own(points)) * model.unit, normal, colour)
