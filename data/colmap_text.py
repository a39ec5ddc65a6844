"""A dataset's cameras and points as a COLMAP model in text form, which most code for Gaussian splats starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from data.poses import Camera, opengl_from_opencv
from fieldbook.files import write_text


def write_model(
    folder: Path, views: Mapping[str, tuple[Camera, np.ndarray]], points: np.ndarray, colours: np.ndarray
) -> None:
    """Write ``cameras.txt``, ``images.txt`` and ``points3D.txt``; nothing says which picture saw which point.

    Args:
        folder: ``sparse/0`` of a COLMAP dataset.
        views: Camera and pose ``world_from_camera`` ``[4, 4]`` (OpenGL) by picture name.
        points: ``[n, 3]`` in the same world.
        colours: ``[n, 3]`` uint8.
    """
    ids = {camera: k for k, camera in enumerate(dict.fromkeys(camera for camera, _ in views.values()), start=1)}
    cameras = [f"{k} PINHOLE {c.width} {c.height} {_numbers(c.fx, c.fy, c.cx, c.cy)}" for c, k in ids.items()]
    images = [
        f"{k} {_camera_from_world(pose)} {ids[camera]} {name}\n"  # the line after it, of observations, is empty
        for k, (name, (camera, pose)) in enumerate(views.items(), start=1)
    ]
    rows = zip(points.tolist(), colours.tolist(), strict=True)
    lines = [f"{k} {_numbers(*point)} {' '.join(map(str, colour))} 0" for k, (point, colour) in enumerate(rows, 1)]
    for name, content in (("cameras", cameras), ("images", images), ("points3D", lines)):
        write_text(folder / f"{name}.txt", "".join(f"{line}\n" for line in content))


def _camera_from_world(pose: np.ndarray) -> str:
    """Quaternion w x y z and translation, OpenCV axes."""
    inverse = np.linalg.inv(opengl_from_opencv(np.asarray(pose, dtype=np.float64)))
    x, y, z, w = Rotation.from_matrix(inverse[:3, :3]).as_quat()
    return _numbers(w, x, y, z, *inverse[:3, 3])


def _numbers(*values: float) -> str:
    return " ".join(repr(float(value)) for value in values)
