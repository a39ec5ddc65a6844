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
        truth: The true picture, where there is one.
        background: What a true picture with an alpha channel is seen before.
    """

    name: str
    camera: Camera
    pose: np.ndarray
    truth: Path | None = None
    background: str | None = None


def held_out_views(dataset: DatasetFiles) -> list[View]:
    """Cameras of the test list, named after their frames."""
    return _views_of_split(dataset, "test")


def training_views(dataset: DatasetFiles) -> list[View]:
    """Cameras of the training list, named after their frames."""
    return _views_of_split(dataset, "train")


def _views_of_split(dataset: DatasetFiles, split: str) -> list[View]:
    meta = read_transforms(dataset.transforms)
    return [_view_of_frame(f, dataset.root, meta.get("background")) for f in frames_of_split(meta, split)]


def _view_of_frame(frame: dict[str, Any], root: Path, background: str | None) -> View:
    camera = Camera(frame["w"], frame["h"], frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"])
    pose, path = np.array(frame["transform_matrix"], dtype=np.float64), root / frame["file_path"]
    return View(path.stem, camera, pose, path, background)


def path_views(path: CameraPath) -> list[View]:
    """Views of a camera path, ``view_000`` and so on."""
    names = view_names(len(path.poses))
    return [View(n, c, p) for n, c, p in zip(names, path.cameras, path.poses, strict=True)]
