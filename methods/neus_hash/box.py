"""Where the object of a scene is: the box that neus-hash looks for a surface in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fieldbook.errors import UserError
from methods.runner.planes import CAPTURE, OBJECT_BOX


def object_box(scene_box: Tensor, metadata: dict[str, Any], share: float) -> tuple[Tensor, float]:
    """Centre ``[3]`` and half the side of a cube round the object, in scene units.

    The box that the capture names; else, of a capture of ours, the cube about the point of interest whose half side is
    ``share`` of the way to the nearest camera; else the scene box.

    Args:
        scene_box: ``[2, 3]``, the dataset's.
        metadata: The dataset's.
        share: Of the nearest camera's distance from the origin, which is the point of interest.

    Raises:
        UserError: A camera stands at the point of interest.
    """
    if OBJECT_BOX in metadata:
        return _cube(metadata[OBJECT_BOX])
    if CAPTURE not in metadata:
        return _cube(scene_box)
    nearest = float(metadata[CAPTURE][:, :, 3].norm(dim=-1).min())
    if nearest * share <= 0:
        raise UserError("a camera stands at the point of interest: neus-hash has no room for a surface round it")
    return torch.zeros(3), nearest * share


def _cube(box: Tensor) -> tuple[Tensor, float]:
    low, high = box.float().cpu()
    return (low + high) / 2, float((high - low).max()) / 2
