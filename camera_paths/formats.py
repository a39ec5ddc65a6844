"""Camera paths as files: nerfstudio's camera-path JSON and nerfbaselines' trajectory JSON.

Poses are ``scene_from_camera``, OpenGL, inside and in nerfstudio's file; nerfbaselines wants OpenCV axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.poses import Camera, opengl_from_opencv
from fieldbook import shapes
from fieldbook.documents import Document, read_document
from fieldbook.errors import UserError
from fieldbook.files import write_json
from fieldbook.shapes import many, number, positive, record, text

TRAJECTORY_FORMAT = "nerfbaselines-v1"


@dataclass(frozen=True)
class CameraPath:
    """Views of one path, all of one picture size.

    Attributes:
        poses: ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes.
        cameras: One per view.
        fps: Views per second of the video.
    """

    poses: np.ndarray
    cameras: tuple[Camera, ...]
    fps: float

    @staticmethod
    def uniform(poses: np.ndarray, camera: Camera, fps: float) -> CameraPath:
        """A path whose views share one camera."""
        return CameraPath(poses, (camera,) * len(poses), fps)


def view_names(views: int) -> list[str]:
    """``view_000``, ``view_001`` ...: names of a path's views in every folder."""
    return [f"view_{k:03d}" for k in range(views)]


def write_camera_path(path: Path, views: CameraPath) -> None:
    """Write nerfstudio's camera-path JSON, as ``ns-render camera-path`` and the viewer read it.

    Raises:
        ValueError: A camera has fx != fy or is off-centre; the format has one vertical field of view and no
            principal point.
    """
    camera = views.cameras[0]
    frames = [
        {"camera_to_world": pose.ravel().tolist(), "fov": _vertical_fov_deg(c), "aspect": c.width / c.height}
        for pose, c in zip(views.poses, views.cameras, strict=True)
    ]
    value = {
        "camera_type": "perspective",
        "render_height": camera.height,
        "render_width": camera.width,
        "fps": views.fps,
        "seconds": len(frames) / views.fps,  # ns-render wants it even when it only writes images
        "is_cycle": False,
        "smoothness_value": 0.0,
        "default_fov": frames[0]["fov"],
        "keyframes": [],
        "camera_path": frames,
    }
    write_json(path, value)


def _vertical_fov_deg(camera: Camera) -> float:
    centre_off = max(abs(camera.cx - camera.width / 2), abs(camera.cy - camera.height / 2))
    if abs(camera.fx - camera.fy) > 1e-6 * camera.fy or centre_off > 1e-6 * camera.width:
        raise ValueError(f"nerfstudio's camera path needs a centred camera with square pixels, not {camera}")
    return float(np.degrees(2 * np.arctan2(camera.height / 2, camera.fy)))


def read_camera_path(path: Path) -> CameraPath:
    """Read nerfstudio's camera-path JSON; poses stay in the frame of the model they were made for.

    Raises:
        UserError: Missing file or key, a camera type other than perspective, or no views.
    """
    value = read_document(path, _CAMERA_PATH)
    kind = value.get("camera_type", "perspective")
    if kind.lower() != "perspective":
        raise UserError(f"{path}: camera_type is {kind!r}; only perspective paths are read")
    width, height, frames = value["render_width"], value["render_height"], value["camera_path"]
    poses = [np.array(f["camera_to_world"], dtype=np.float64).reshape(4, 4) for f in frames]
    cameras = tuple(_camera_from_fov(width, height, f["fov"]) for f in frames)
    return CameraPath(_stack(path, poses), cameras, len(poses) / value["seconds"])


def _camera_from_fov(width: int, height: int, vertical_fov_deg: float) -> Camera:
    focal = height / 2 / np.tan(np.radians(vertical_fov_deg) / 2)
    return Camera(width, height, focal, focal, width / 2, height / 2)


def write_trajectory(path: Path, views: CameraPath) -> None:
    """Write nerfbaselines' trajectory JSON: 3x4 OpenCV poses, row-major, and intrinsics per frame."""
    frames = [
        {
            "pose": opengl_from_opencv(pose)[:3].ravel().tolist(),
            "intrinsics": [c.fx, c.fy, c.cx, c.cy],
            "appearance_weights": [],  # optional by its type, yet its reader asks for it
        }
        for pose, c in zip(views.poses, views.cameras, strict=True)
    ]
    value: dict[str, Any] = {
        "format": TRAJECTORY_FORMAT,
        "camera_model": "pinhole",
        "image_size": [views.cameras[0].width, views.cameras[0].height],
        "fps": views.fps,
        "appearances": [],
        "frames": frames,
    }
    write_json(path, value)


def read_trajectory(path: Path) -> CameraPath:
    """Read nerfbaselines' trajectory JSON.

    Raises:
        UserError: Missing file or key, another format or camera model, or no views.
    """
    value = read_document(path, _TRAJECTORY)
    for key, wanted in (("format", TRAJECTORY_FORMAT), ("camera_model", "pinhole")):
        if value.get(key) != wanted:
            raise UserError(f"{path}: {key} is {value.get(key)!r}; only {wanted!r} is read")
    (width, height), frames = value["image_size"], value["frames"]
    poses = [_pose_from_3x4(f["pose"]) for f in frames]
    cameras = tuple(Camera(width, height, *map(float, f["intrinsics"])) for f in frames)
    return CameraPath(_stack(path, poses), cameras, float(value["fps"]))


def _pose_from_3x4(flat: list[float]) -> np.ndarray:
    top = np.array(flat, dtype=np.float64).reshape(3, 4)
    return opengl_from_opencv(np.vstack([top, [0.0, 0.0, 0.0, 1.0]]))


def _stack(path: Path, poses: list[np.ndarray]) -> np.ndarray:
    if not poses:
        raise UserError(f"{path}: the path has no views; make it again or choose another file")
    return np.stack(poses)


def _matrix(value: Any, where: str) -> None:
    """A pose, its four rows one after the other or each a list."""
    if isinstance(value, list) and len(value) == 16:
        value = [value[k : k + 4] for k in range(0, 16, 4)]
    shapes.pose(value, where)


def _top_of_matrix(value: Any, where: str) -> None:
    """The first three rows of a pose, one after the other."""
    many(number, 12, 12)(value, where)
    shapes.pose([*(value[k : k + 4] for k in range(0, 12, 4)), [0, 0, 0, 1]], where)


def _intrinsics(value: Any, where: str) -> None:
    """fx, fy, cx, cy."""
    many(number, 4, 4)(value, where)
    many(positive)(value[:2], where)


_AGAIN = "write it again with its tool"
_CAMERA_PATH = Document(
    record(
        {
            "render_width": shapes.side,
            "render_height": shapes.side,
            "seconds": positive,
            "camera_path": many(record({"camera_to_world": _matrix, "fov": shapes.between(0, 180)})),
        },
        {"camera_type": text},
    ),
    _AGAIN,
)
_TRAJECTORY = Document(
    record(
        {
            "format": text,
            "camera_model": text,
            "image_size": many(shapes.side, 2, 2),
            "fps": positive,
            "frames": many(record({"pose": _top_of_matrix, "intrinsics": _intrinsics})),
        }
    ),
    _AGAIN,
)
