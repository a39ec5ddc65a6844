"""Which points of a surface cameras saw, and which lie inside what masks show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from data.poses import Camera, project
from data.tracing import embree_scene

TOLERANCE = 1e-3  # of the distance: a surface does not hide itself where it is seen at a slant


@dataclass(frozen=True)
class MaskView:
    """A camera and what it should be asked of: ``pose`` is ``scene_from_camera``, ``mask`` ``[h, w]`` bool."""

    camera: Camera
    pose: np.ndarray
    mask: np.ndarray


def in_picture(camera: Camera, pose: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which points ``[n, 3]`` are before the camera and in its picture, ``[n]``; and their pixels x, y ``[n, 2]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y, depth = project(camera, pose, points).T
        seen = (depth > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    pixels = np.where(seen[:, None], np.stack([x, y], axis=1), 0)
    return seen, pixels.astype(int)


def inside_masks(points: np.ndarray, views: Iterable[MaskView], fewest: int | None) -> np.ndarray:
    """Which points the masks show, as DTU's surfaces are cleaned: ``[n]`` bool.

    Args:
        points: ``[n, 3]`` in the scene frame.
        views: Their masks in their cameras' size; what hides a point is not asked.
        fewest: Views whose mask must show a point; ``None`` for all that have it in the picture, and at least one.
    """
    shown, asked = np.zeros(len(points), int), np.zeros(len(points), int)
    for view in views:
        seen, pixels = in_picture(view.camera, view.pose, points)
        asked += seen
        shown += seen & view.mask[pixels[:, 1], pixels[:, 0]]
    return (shown == asked) & (asked > 0) if fewest is None else shown >= fewest


def dilated(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask ``[h, w]`` bool, larger by a disc's radius."""
    if pixels == 0 or not mask.any():
        return mask
    far = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return far <= pixels + 1e-3


def seen_by(points: np.ndarray, cameras: Iterable[tuple[Camera, np.ndarray]], triangles: np.ndarray) -> np.ndarray:
    """Which points at least one camera saw: in its picture, and with nothing before them.

    Args:
        points: ``[n, 3]`` on the surface, in the scene frame.
        cameras: With their poses ``scene_from_camera``.
        triangles: ``[f, 3, 3]`` what may hide them; none of a bare cloud, which hides nothing.

    Returns:
        ``[n]`` bool.
    """
    faces = np.arange(3 * len(triangles)).reshape(-1, 3)
    tracer = embree_scene(triangles.reshape(-1, 3), faces) if len(faces) else None
    found = np.zeros(len(points), bool)
    for camera, pose in cameras:
        left = np.flatnonzero(~found)
        left = left[in_picture(camera, pose, points[left])[0]]
        if tracer is not None and len(left):
            to = (points[left] - pose[:3, 3]).astype(np.float32)
            reach = np.linalg.norm(to, axis=1)
            origins = np.ascontiguousarray(np.broadcast_to(pose[:3, 3].astype(np.float32), to.shape))
            hit = tracer.run(origins, to / reach[:, None], query="DISTANCE")
            left = left[hit >= reach * (1 - TOLERANCE)]
        found[left] = True
    return found
