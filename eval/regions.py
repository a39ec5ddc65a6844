"""Where two surfaces are compared: a box, turned or not, a sphere, or everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from data.poses import Sim3, matrix
from fieldbook.errors import UserError
from fieldbook.shapes import is_rotation

CUBE, ALL = "cube", "all"


@dataclass(frozen=True)
class Region:
    """A box or an ellipsoid round the origin of its own frame.

    Attributes:
        own_from_points: From the frame of the points to the region's.
        half: ``[3]`` half sides, or half axes.
        is_round: An ellipsoid (of equal axes: a sphere), not a box.
    """

    own_from_points: Sim3
    half: np.ndarray
    is_round: bool = False

    def contains(self, points: np.ndarray) -> np.ndarray:
        """Of points ``[n, 3]``, which are inside or on the border: ``[n]`` bool."""
        share = np.abs(self.own_from_points.points(points)) / self.half
        return np.linalg.norm(share, axis=1) <= 1 if self.is_round else share.max(axis=1, initial=0) <= 1

    def may_touch(self, triangles: np.ndarray) -> np.ndarray:
        """Of ``triangles`` ``[f, 3, 3]``, which may have a part inside: ``[f]`` bool, false for none that has."""
        own = self.own_from_points.points(triangles)
        return ((own.min(axis=1) <= self.half) & (own.max(axis=1) >= -self.half)).all(axis=1)


def box_region(low: np.ndarray, high: np.ndarray, rotation: np.ndarray | None = None) -> Region:
    """The box between two corners ``[3]``, turned about its centre by ``rotation`` ``[3, 3]``."""
    centre, half = (np.asarray(low) + high) / 2, (np.asarray(high) - low) / 2
    return Region(_frame(centre, np.eye(3) if rotation is None else rotation), half)


def sphere_region(centre: np.ndarray, radius: float) -> Region:
    """The ball round ``centre`` ``[3]``."""
    return Region(_frame(np.asarray(centre), np.eye(3)), np.full(3, radius), is_round=True)


def _frame(centre: np.ndarray, rotation: np.ndarray) -> Sim3:
    pose = matrix(rotation, centre)
    return Sim3(1.0, pose[:3, :3], pose[:3, 3]).inverse()


def region_of(value: str | dict[str, Any], space_from_scene: Sim3, cube: np.ndarray) -> Region | None:
    """The region that a scene's key ``surface.region`` names, for points in the scene frame.

    Args:
        value: ``cube``, ``all``, ``{sphere: [x, y, z, radius]}`` or ``{box: [low, high], rotation: rows}``.
        space_from_scene: To the frame that sphere and box are given in.
        cube: ``[2, 3]`` the box of the method, in the scene frame.

    Raises:
        UserError: The region is empty, or its rotation is none.
    """
    if value == ALL:
        return None
    if isinstance(value, str):
        return box_region(cube[0], cube[1])
    if "sphere" in value:
        *centre, radius = value["sphere"]
        own = sphere_region(np.array(centre), radius)
    else:
        low, high = np.array(value["box"], dtype=np.float64)
        rotation = value.get("rotation")
        if rotation is not None and not is_rotation(rotation):
            raise UserError(f"surface.region.rotation: {rotation} is not a rotation; give the rows of one")
        own = box_region(low, high, None if rotation is None else np.array(rotation))
    if not (own.half > 0).all():
        raise UserError(f"surface.region: {value} is empty; give a positive radius, or a lowest and a highest corner")
    return Region(own.own_from_points @ space_from_scene, own.half, own.is_round)
