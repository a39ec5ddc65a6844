"""Cameras as captures describe them, before their pictures become those of one centred pinhole.

COLMAP's cameras are pycolmap's; a pinhole with skew, which COLMAP has no model for, is ``SkewPinhole``. Both send
directions with OpenCV axes to pixels whose centres are at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pycolmap

from fieldbook.errors import UserError, nearest
from fieldbook.shapes import is_number

COLMAP_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""COLMAP's models with perspective projection that are resampled here."""


@dataclass(frozen=True)
class SkewPinhole:
    """``u = fx x/z + skew y/z + cx``, ``v = fy y/z + cy``: the whole intrinsic matrix (Hartley and Zisserman, 6.1)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    skew: float

    model_name = "SKEW_PINHOLE"

    @property
    def params(self) -> np.ndarray:
        """``fx fy cx cy skew``."""
        return np.array([self.fx, self.fy, self.cx, self.cy, self.skew])

    def mean_focal_length(self) -> float:
        """Mean of both focal lengths, in pixels."""
        return (self.fx + self.fy) / 2

    def img_from_cam(self, directions: np.ndarray) -> np.ndarray:
        """Pixels ``[n, 2]`` of directions ``[n, 3]`` with OpenCV axes, z > 0."""
        x, y = directions[:, 0] / directions[:, 2], directions[:, 1] / directions[:, 2]
        return np.stack([self.fx * x + self.skew * y + self.cx, self.fy * y + self.cy], axis=1)


Lens = SkewPinhole | pycolmap.Camera


def lens_size(lens: Lens) -> tuple[int, int]:
    """``(width, height)`` of its pictures."""
    return lens.width, lens.height


def lens_to_json(lens: Lens) -> dict[str, Any]:
    """Plain values, read back by ``lens_from_json``; equal for equal lenses."""
    params = [float(p) for p in lens.params]
    return {"model": lens.model_name, "width": lens.width, "height": lens.height, "params": params}


def lens_from_json(value: dict[str, Any]) -> Lens:
    """Inverse of ``lens_to_json``.

    Raises:
        UserError: An unknown model, or parameters that are not its.
    """
    model, size, params = value["model"], (value["width"], value["height"]), value["params"]
    known = (SkewPinhole.model_name, *COLMAP_MODELS)
    if model not in known:
        raise UserError(f"camera model {model!r} cannot be used; {nearest(model, known)}")
    if not all(map(is_number, params)) or not params or params[0] <= 0:
        raise UserError(f"a {model} camera has the parameters {params}; the first is a focal length above 0")
    if model == SkewPinhole.model_name:
        lens = SkewPinhole(*size, *params) if len(params) == 5 else None
    else:
        lens = pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)
        lens = lens if lens.verify_params() else None
    if lens is None:
        raise UserError(f"a {model} camera cannot have {len(params)} parameters")
    return lens


def given_lenses(index: dict[str, Any]) -> dict[str, Lens]:
    """What each raw frame was taken with, by name, from a ``raw.json`` whose frames have a ``lens``.

    Raises:
        UserError: A lens that is none.
    """
    return {frame["name"]: lens_from_json(frame["lens"]) for frame in index["frames"]}
