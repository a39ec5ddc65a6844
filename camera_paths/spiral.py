"""The spiral that forward-facing captures are shown with (LLFF, Mildenhall et al. 2019)."""

from __future__ import annotations

import numpy as np

from camera_paths.cones import across, even_azimuths_rad
from data.poses import look_at


def spiral(
    axis: np.ndarray, distance: float, radii: tuple[float, float], turns: float, depth_rate: float, views: int
) -> np.ndarray:
    """Cameras that circle about the axis in front of the POI, moving to and fro and looking at the POI.

    With ``t`` from 0 to ``2 pi turns`` the offset from the centre is ``radius cos t`` to the right, ``-radius
    sin t`` up and ``depth sin(depth_rate t)`` outwards. Image up is the one direction that a camera on the
    axis has.

    Args:
        axis: ``[3]`` unit, the scene's axis.
        distance: Of the spiral's centre from the POI along the axis.
        radii: Largest offset sideways and along the axis; the second less than ``distance``.
        turns: Turns about the axis; the end is left out.
        depth_rate: Swings along the axis per turn; a path closes where it and ``turns`` multiply to a whole
        number.
        views: Number of cameras.

    Returns:
        ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes.
    """
    up = -across(axis)
    right = np.cross(up, axis)
    t = even_azimuths_rad(views, turns)[:, None]
    radius, depth = radii
    along = (distance + depth * np.sin(depth_rate * t)) * axis
    eyes = along + radius * (np.cos(t) * right - np.sin(t) * up)
    return np.stack([look_at(eye, np.zeros(3), up) for eye in eyes])
