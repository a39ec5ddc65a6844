"""The point of interest (POI): where the optical axes meet, moved onto the surface that sparse points show.

Symbols: ``D`` is the median camera-POI distance; poses are ``world_from_camera``, OpenGL axes, in any one
frame.
"""

from __future__ import annotations

import numpy as np

from data.robust_geometry import Meeting, Plane, crowded_value, direction_spread_rad, fit_plane, meeting_point
from fieldbook.errors import Infeasible

MIN_SPREAD_DEG = 2.0  # less, and an aim that is off by 1 % moves the meeting point by a third of its distance
MAX_MEETING_STD = 0.5  # of D; beyond it the axes do not say where the POI is
ONE_SIDED = 0.75  # mean of the unit axes; all round an object it is the sine of their elevation
BEAM_RADIUS = 0.15  # of D: points this close to the mean line of sight tell how deep the surface is
MAX_SLIDE = 0.25  # of D: how far sparse points may move the POI along the mean line of sight
OBJECT_RADIUS = 0.35  # of D: points this close to the POI may support the object's plane
PLANE_THRESHOLD = 0.015  # of D: a few times the depth noise of sparse points at phone resolution
PLANE_MIN_POINTS, PLANE_MIN_SHARE, PLANE_MIN_WIDTH = (
    20,
    0.5,
    0.05,
)  # support: count, share of points, width over D
PLANE_MAX_TILT_DEG = 75.0  # between normal and mean view; a plane seen edge-on is not what was filmed


def axes_meeting(poses: np.ndarray) -> Meeting:
    """Where the optical axes meet, or why they do not.

    Args:
        poses: ``world_from_camera`` ``[n, 4, 4]``, OpenGL axes.

    Raises:
        Infeasible: Fewer than two cameras, near-parallel axes, or a meeting point behind most cameras.
    """
    centres, views = poses[:, :3, 3], -poses[:, :3, 2]
    hint = "; give the scene's poi in the frame of the reference's poses"
    if len(poses) < 2:
        raise Infeasible("one camera's axis meets nothing" + hint, {"cameras": len(poses)})
    spread_deg = float(np.degrees(direction_spread_rad(views)))
    if spread_deg < MIN_SPREAD_DEG:
        reason = f"the optical axes are nearly parallel (spread {spread_deg:.2f} degrees)" + hint
        raise Infeasible(reason, {"axis_spread_deg": spread_deg, "needed_deg": MIN_SPREAD_DEG})
    meeting = meeting_point(centres, views)
    behind = float(np.mean(np.einsum("ni,ni->n", meeting.point - centres, views) <= 0))
    if behind > 0.5:
        reason = f"the optical axes meet behind {behind:.0%} of the cameras: the capture looks outwards" + hint
        raise Infeasible(reason, {"behind_share": behind, "axis_spread_deg": spread_deg})
    std = meeting.std / median_distance(centres, meeting.point)
    if np.isfinite(std) and std > MAX_MEETING_STD:
        reason = f"the optical axes do not say how far the object is (within {std:.0%} of its distance)" + hint
        raise Infeasible(reason, {"meeting_std": std, "allowed": MAX_MEETING_STD, "axis_spread_deg": spread_deg})
    return meeting


def slide_to_surface(poses: np.ndarray, points: np.ndarray, meeting: Meeting) -> np.ndarray:
    """Move the meeting point along the mean view direction to where the sparse points crowd.

    Across the view, the mean of many aims is good; along it, the axes of a narrow sweep say little, and the
    surface does. Only where the cameras look from one side (their axes' mean is longer than ``ONE_SIDED``; less, and a
    steady error of the aim moves the meeting point by no more than 1.5 times itself), at least 5 points lie in the
    beam, and the move is at most ``MAX_SLIDE`` or three standard errors.

    Args:
        poses: ``world_from_camera`` ``[n, 4, 4]``.
        points: ``[points, 3]``.
        meeting: Where the axes meet.

    Returns:
        ``[3]``.
    """
    mean_view = -poses[:, :3, 2].mean(0)
    if np.linalg.norm(mean_view) < ONE_SIDED:
        return meeting.point
    mean_view = mean_view / np.linalg.norm(mean_view)
    distance = median_distance(poses[:, :3, 3], meeting.point)
    offset = points - meeting.point
    along = offset @ mean_view
    sideways = np.linalg.norm(offset - along[:, None] * mean_view, axis=1)
    std = meeting.std if np.isfinite(meeting.std) else 0.0
    reach = max(MAX_SLIDE * distance, 3 * std)
    beam = along[(sideways < BEAM_RADIUS * distance) & (np.abs(along) < reach)]
    return meeting.point if len(beam) < 5 else meeting.point + crowded_value(beam) * mean_view


def object_plane(centres: np.ndarray, points: np.ndarray, poi: np.ndarray) -> Plane | None:
    """The plane of the object around the POI, where sparse points support it well.

    Support: of the points within ``OBJECT_RADIUS`` of the POI at least ``PLANE_MIN_SHARE``, and no fewer than
    ``PLANE_MIN_POINTS``, lie within ``PLANE_THRESHOLD``; they spread at least ``PLANE_MIN_WIDTH`` (standard
    deviation along the narrower direction); the POI is no farther from the plane than ``MAX_SLIDE``; and the
    normal is within ``PLANE_MAX_TILT_DEG`` of the mean direction to the cameras. Lengths as shares of D.

    Args:
        centres: ``[n, 3]`` camera centres.
        points: ``[points, 3]``.
        poi: ``[3]``.
    """
    distance = median_distance(centres, poi)
    close = points[np.linalg.norm(points - poi, axis=1) < OBJECT_RADIUS * distance]
    if len(close) < PLANE_MIN_POINTS:
        return None
    rng = np.random.default_rng(0)  # the frame must not depend on any study's seed
    if len(close) > 5000:
        close = close[rng.choice(len(close), 5000, replace=False)]
    plane = fit_plane(close, PLANE_THRESHOLD * distance, rng)
    if plane is None:
        return None
    needed = max(PLANE_MIN_POINTS, PLANE_MIN_SHARE * len(close))
    to_cameras = mean_direction(centres - poi, fallback=plane.normal)
    supported = (
        plane.inliers.sum() >= needed
        and plane.width >= PLANE_MIN_WIDTH * distance
        and abs((poi - plane.centre) @ plane.normal) <= MAX_SLIDE * distance
        and abs(plane.normal @ to_cameras) >= np.cos(np.radians(PLANE_MAX_TILT_DEG))
    )
    return plane if supported else None


def meeting_on_plane(poses: np.ndarray, meeting: Meeting, plane: Plane) -> np.ndarray:
    """The point of the plane that the meeting's inlier axes pass closest to (least squares).

    A steady aim above or below the object lifts the free meeting point off the surface by up to twice the error
    of the aim; on the plane the error stays what the aim's is.

    Args:
        poses: ``world_from_camera`` ``[n, 4, 4]``.
        meeting: Where the axes meet.
        plane: The object's, not seen edge-on.

    Returns:
        ``[3]``.
    """
    centres, views = poses[meeting.inliers, :3, 3], -poses[meeting.inliers, :3, 2]
    projectors = np.eye(3) - views[:, :, None] * views[:, None, :]
    in_plane = np.linalg.svd(plane.normal[None])[2][1:].T
    start = meeting.point + ((plane.centre - meeting.point) @ plane.normal) * plane.normal
    downhill = np.einsum("nij,nj->i", projectors, centres - start)
    normal_matrix = in_plane.T @ projectors.sum(0) @ in_plane
    return start + in_plane @ np.linalg.solve(normal_matrix, in_plane.T @ downhill)


def mean_direction(vectors: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """Unit mean of the directions of ``[n, 3]``; ``fallback`` where they cancel (mean shorter than 0.05)."""
    mean = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)).mean(0)
    length = np.linalg.norm(mean)
    return mean / length if length > 0.05 else fallback


def median_distance(centres: np.ndarray, poi: np.ndarray) -> float:
    """Median distance of camera centres ``[n, 3]`` from ``poi`` ``[3]``."""
    return float(np.median(np.linalg.norm(centres - poi, axis=1)))
