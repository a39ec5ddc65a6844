"""Turns round the point of interest: orbits at one elevation, and instant-nsr-pl's spherical test path."""

from __future__ import annotations

import numpy as np

from camera_paths.cones import UP, even_azimuths_rad, ring


def orbit(
    pole: np.ndarray, distance: float, elevation_rad: float, views: int, turns: float, start_rad: float
) -> np.ndarray:
    """Cameras that look at the POI from one elevation, evenly spaced over ``turns``; image up is the pole's.

    Args:
        pole: ``[3]`` unit: the scene's up or its axis.
        distance: Camera-POI distance.
        elevation_rad: Above the plane through the POI across the pole, in [-pi/2, pi/2].
        views: Number of cameras.
        turns: Full turns, counter-clockwise seen from the pole's tip; negative is clockwise.
        start_rad: Azimuth of the first camera; 0 is the side the capture was made from.

    Returns:
        ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes.
    """
    return ring(pole, np.pi / 2 - elevation_rad, distance, even_azimuths_rad(views, turns, start_rad))


def spherical(distance: float, height: float, views: int) -> np.ndarray:
    """One full turn about up at a fixed height, as instant-nsr-pl renders for its test split.

    It takes the cameras' mean distance and mean height, hence a circle of radius ``sqrt(distance^2 -
    height^2)``; unlike there, the last view is not the first one again.

    Args:
        distance: Camera-POI distance.
        height: Of the circle above the POI along +z, at most ``distance`` in size.
        views: Number of cameras.

    Returns:
        ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes.
    """
    return ring(UP, float(np.arccos(height / distance)), distance, even_azimuths_rad(views))
