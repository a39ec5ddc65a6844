"""How far a rendered view is from what the method saw in training.

A novel view's error means little without its distance from the training views. All poses are
``scene_from_camera``, ``[4, 4]``; the point of interest is the scene frame's origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.poses import angle_between_rad


@dataclass(frozen=True)
class Novelty:
    """The training camera nearest in angle about the point of interest, for each of v views.

    Attributes:
        index: ``[v]`` position in the training list; the first one where several are equally near.
        angle_deg: ``[v]`` angle between the directions from the point of interest to the two cameras, in [0,
            180].
        distance: ``[v]`` distance between the two camera centres, in scene units.
    """

    index: np.ndarray
    angle_deg: np.ndarray
    distance: np.ndarray


def novelty(views: np.ndarray, training: np.ndarray) -> Novelty:
    """Find each view's nearest training camera by angle.

    Args:
        views: ``[v, 4, 4]`` poses of the rendered views.
        training: ``[t, 4, 4]`` poses that the method was trained with.

    Raises:
        ValueError: There is no training camera, or a camera sits on the point of interest (no direction).
    """
    centres, trained = views[:, :3, 3], training[:, :3, 3]
    if len(trained) == 0:
        raise ValueError("novelty needs at least one training camera, got none")
    if min(np.linalg.norm(c, axis=1).min(initial=np.inf) for c in (centres, trained)) == 0:
        raise ValueError("a camera at the point of interest has no direction, so no angle about it")
    angles = angle_between_rad(centres[:, None], trained[None])
    index = angles.argmin(axis=1)
    chosen = np.take_along_axis(angles, index[:, None], axis=1)[:, 0]
    return Novelty(index, np.degrees(chosen), np.linalg.norm(centres - trained[index], axis=1))
