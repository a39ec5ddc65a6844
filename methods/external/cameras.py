"""The camera files that an external method gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from camera_paths.formats import CameraPath, write_trajectory
from fieldbook.files import write_json
from methods.runner.views import View


def write_cameras(path: Path, views: Sequence[View], fps: float) -> None:
    """Write nerfstudio's camera-path JSON, each view with its name and its exact pinhole besides.

    nerfstudio's format knows a vertical field of view only; scaled to whole pixels, a camera may have two focal lengths
    and its centre beside the picture's.

    Args:
        path: The file.
        views: All of one picture size.
        fps: Views per second.
    """
    frames = [
        {
            "name": view.name,
            "camera_to_world": view.pose.ravel().tolist(),
            "fov": float(np.degrees(2 * np.arctan2(view.camera.height / 2, view.camera.fy))),
            "aspect": view.camera.width / view.camera.height,
            **{key: getattr(view.camera, own) for key, own in _PINHOLE.items()},
        }
        for view in views
    ]
    camera = views[0].camera
    size = {"render_width": camera.width, "render_height": camera.height}
    film = {"camera_type": "perspective", "fps": fps, "seconds": len(frames) / fps, "is_cycle": False, "keyframes": []}
    write_json(path, {**film, **size, "camera_path": frames})


_PINHOLE = {"w": "width", "h": "height", "fl_x": "fx", "fl_y": "fy", "cx": "cx", "cy": "cy"}


def write_nerfbaselines(path: Path, views: Sequence[View], fps: float) -> None:
    """Write the same views, in the same order, as nerfbaselines' trajectory."""
    poses = np.stack([view.pose for view in views])
    write_trajectory(path, CameraPath(poses, tuple(view.camera for view in views), fps))
