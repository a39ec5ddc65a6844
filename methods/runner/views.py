"""What is rendered of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camera_paths.formats import CameraPath, view_names
from data.poses import Camera
from fieldbook.layout import DatasetFiles
from methods.runner.transforms import frames_of_split, read_transforms


@dataclass(frozen=True)
class View:
    """A picture to render.

    Attributes:
        name: File name without its ending.
        camera: Pinhole.
        pose: ``scene_from_camera`` ``[4, 4]`` (OpenGL).
    """

    name: str
    camera: Camera
    pose: np.ndarray


def held_out_views(dataset: DatasetFiles) -> list[View]:
    """Cameras of the test list, named after their frames."""
    return [_view_of_frame(f) for f in frames_of_split(read_transforms(dataset.transforms), "test")]


def training_views(dataset: DatasetFiles) -> list[View]:
    """Cameras of the training list, named after their frames."""
    return [_view_of_frame(f) for f in frames_of_split(read_transforms(dataset.transforms), "train")]


def _view_of_frame(frame: dict[str, Any]) -> View:
    camera = Camera(frame["w"], frame["h"], frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"])
    return View(Path(frame["file_path"]).stem, camera, np.array(frame["transform_matrix"], dtype=np.float64))


def path_views(path: CameraPath) -> list[View]:
    """Views of a camera path, ``view_000`` and so on."""
    names = view_names(len(path.poses))
    return [View(n, c, p) for n, c, p in zip(names, path.cameras, path.poses, strict=True)]
