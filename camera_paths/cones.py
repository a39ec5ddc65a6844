"""Rings of cameras that look at the point of interest (POI), and the cones that studies are made of.

Symbols (scene frame, origin = POI): ``pole`` unit vector the ring is centred on; ``a`` polar angle between
the pole and a camera's direction; ``r`` camera-POI distance; ``phi`` azimuth, counter-clockwise seen from the
pole's tip; ``e(phi)`` unit vector across the pole at that azimuth, so a camera sits at ``r (cos a pole + sin
a e(phi))``.
"""

from __future__ import annotations

import numpy as np

from data.poses import angle_between_rad, look_at

UP = np.array([0.0, 0.0, 1.0])  # the scene frame's z is the capture's mean camera up
# Within this angle of +-z the projection of z says nothing about roll (design: continuous through a = 0).
POLE_TOLERANCE_RAD = np.radians(5.0)


def across(pole: np.ndarray) -> np.ndarray:
    """Direction in which azimuth 0 lies: across ``pole``, away from the image's up.

    A camera on the pole that looks at the POI has the capture's up, projected, as image up; azimuth 0 is
    opposite, on the side the operator stood. Where the pole is within 5 degrees of +-z, -x takes the place of
    up: +x points from the POI towards the cameras, so that is the up of a camera that climbs from the
    capture's side to the top.

    Args:
        pole: ``[3]`` unit.

    Returns:
        ``[3]`` unit, orthogonal to ``pole``.
    """
    up = upright(pole)
    e = -(up - (up @ pole) * pole)
    return e / np.linalg.norm(e)


def upright(direction: np.ndarray) -> np.ndarray:
    """The capture's up, or its stand-in -x where ``direction`` ``[3]`` is within 5 degrees of +-z."""
    from_z = angle_between_rad(direction, UP)
    near = min(from_z, np.pi - from_z) < POLE_TOLERANCE_RAD
    return np.array([-1.0, 0.0, 0.0]) if near else UP


def even_azimuths_rad(views: int, turns: float = 1.0, start_rad: float = 0.0) -> np.ndarray:
    """``[views]`` azimuths evenly spaced over ``turns``, the end left out: a whole turn closes evenly."""
    return start_rad + 2 * np.pi * turns * np.arange(views) / views


def ring(pole: np.ndarray, polar_rad: float, distance: float, azimuths_rad: np.ndarray) -> np.ndarray:
    """Cameras on a circle about ``pole`` that look at the POI and turn with the circle.

    Image up is the projection of the pole; at polar angle 0, where there is none, its limit ``-e(phi)``. So
    poses are continuous in every argument for polar angles in [0, pi].

    Args:
        pole: ``[3]`` unit.
        polar_rad: Angle between the pole and every view.
        distance: Camera-POI distance, positive.
        azimuths_rad: ``[views]``.

    Returns:
        ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes.
    """
    e0 = across(pole)
    e = np.outer(np.cos(azimuths_rad), e0) + np.outer(np.sin(azimuths_rad), np.cross(pole, e0))
    eyes = distance * (np.cos(polar_rad) * pole + np.sin(polar_rad) * e)
    ups = np.sin(polar_rad) * pole - np.cos(polar_rad) * e
    return np.stack([look_at(eye, np.zeros(3), up) for eye, up in zip(eyes, ups, strict=True)])


def cone(axis: np.ndarray, half_angle_rad: float, distance: float, views: int, roll: str) -> np.ndarray:
    """Cameras evenly spaced on a circle: where a cone about the axis with its apex in the POI meets a sphere.

    Args:
        axis: ``[3]`` unit, the scene's axis.
        half_angle_rad: In [0, 85 degrees].
        distance: Camera-POI distance r; the circle has height ``r cos a`` and radius ``r sin a``.
        views: Number of cameras.
        roll: ``follow``: cameras turn with the circle (``ring``). ``fixed``: image up is the projection of
            the capture's up; at half-angle 0 all views are then one and the same. Both agree at azimuth 0.
            Where the axis is within 5 degrees of +-z the stand-in of ``upright`` serves the whole cone, so
            small changes of the angle stay small changes of the poses; elsewhere it serves single views that
            look along z.

    Returns:
        ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes.
    """
    poses = ring(axis, half_angle_rad, distance, even_azimuths_rad(views))
    if roll == "follow":
        return poses
    up = upright(axis)
    return np.stack([_level(pose[:3, 3], up) for pose in poses])


def _level(eye: np.ndarray, up: np.ndarray) -> np.ndarray:
    try:
        return look_at(eye, np.zeros(3), up)
    except ValueError:  # the view runs along up itself: any roll is right, take the documented one
        return look_at(eye, np.zeros(3), upright(eye / np.linalg.norm(eye)))


def cone_distance(half_angle_rad: float, height: float | None, distance: float | None) -> float:
    """Camera-POI distance from exactly one of the circle's height d (then ``d / cos a``) and the distance."""
    if height is not None:
        return height / np.cos(half_angle_rad)
    if distance is None:
        raise ValueError("a cone needs a height or a distance")
    return distance
