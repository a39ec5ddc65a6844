"""Near, far and bounds of a scene: of what its cameras observed, or of a box that is known to hold everything."""

from __future__ import annotations

from itertools import product

import numpy as np

from data.poses import Sim3

MIN_NEAR = 0.01  # scene units; a camera inside what it films still needs a plane before it


def near_far_of_points(centres: np.ndarray, seen: np.ndarray, camera_of: np.ndarray) -> tuple[float, float]:
    """Half the nearest and 1.5 times the farthest distance along rays, over observed points and the POI.

    The 0.5 and 99 percentiles stand for nearest and farthest: single points are often mistriangulated.

    Args:
        centres: ``[n, 3]`` cameras in the scene frame, whose origin is the POI.
        seen: ``[observations, 3]`` points in the scene frame; may be empty.
        camera_of: ``[observations]`` index into ``centres``.
    """
    to_poi = np.linalg.norm(centres, axis=1)
    reach = np.linalg.norm(seen - centres[camera_of], axis=1)
    low, high = np.percentile(reach, [0.5, 99]) if len(reach) else (to_poi.min(), to_poi.max())
    near = 0.5 * min(low, to_poi.min())
    return max(float(near), MIN_NEAR), float(1.5 * max(high, to_poi.max()))


def bounds_of_points(centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Box ``[2, 3]`` of cameras, POI and points between their 2 and 98 percentiles, a tenth larger.

    No side is shorter than 1, so cameras in one plane and no points still leave room for the object.

    Args:
        centres: ``[n, 3]`` cameras in the scene frame.
        points: ``[points, 3]`` in the scene frame; may be empty.
    """
    robust = np.percentile(points, [2, 98], axis=0) if len(points) else np.zeros((0, 3))
    everything = np.concatenate([centres, np.zeros((1, 3)), robust])
    low, high = everything.min(0), everything.max(0)
    half = np.maximum(0.55 * (high - low), 0.5)
    return np.stack([(low + high) / 2 - half, (low + high) / 2 + half])


def near_far_of_box(centres: np.ndarray, box: np.ndarray, scale: float) -> tuple[float, float]:
    """Distances from the cameras between which the whole box lies, in scene units.

    Args:
        centres: ``[n, 3]`` cameras in the box's world.
        box: ``[2, 3]`` lowest and highest corner.
        scale: Scene units per unit of that world.
    """
    outside = np.maximum(np.maximum(box[0] - centres, centres - box[1]), 0)  # 0 along axes on which a camera is inside
    near = scale * np.linalg.norm(outside, axis=1).min()
    far = scale * np.linalg.norm(_corners(box)[:, None] - centres, axis=-1).max()
    return max(float(near), MIN_NEAR), float(far)


def bounds_of_box(scene_from_world: Sim3, box: np.ndarray) -> np.ndarray:
    """Box ``[2, 3]`` along the scene's axes round the ``[2, 3]`` box of a world; the same one where axes agree."""
    corners = scene_from_world.points(_corners(box))
    return np.stack([corners.min(0), corners.max(0)])


def bounds_of_ball(scene_from_world: Sim3, box: np.ndarray) -> np.ndarray:
    """Box ``[2, 3]`` along the scene's axes round the largest ball in a cube ``[2, 3]`` of a world."""
    centre = scene_from_world.points(box.mean(0, keepdims=True))[0]
    radius = scene_from_world.scale * np.ptp(box, axis=0).min() / 2
    return np.stack([centre - radius, centre + radius])


def _corners(box: np.ndarray) -> np.ndarray:
    """The eight corners ``[8, 3]``."""
    return np.array(list(product(*box.T)))
