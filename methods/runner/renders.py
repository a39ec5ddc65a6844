"""A folder of rendered views, whatever rendered them: ``<name>.png``, ``<name>.rgb16.png`` and ``renders.json``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from camera_paths.video import write_mp4
from fieldbook.documents import RENDERS, read_document
from fieldbook.layout import RunFiles
from methods.runner.views import View


def is_rendered(run: RunFiles, paths: Iterable[str], numbers: dict[str, Any]) -> bool:
    """Whether the views of a finished rendering are still there.

    Args:
        run: The run's files.
        paths: Names of the paths that were rendered besides the test views.
        numbers: Of the rendering's status.
    """
    folders = [run.test, *map(run.path, paths)]
    if not all((folder / "renders.json").is_file() for folder in folders):
        return False
    names = [
        folder / f"{v['name']}.png"
        for folder in folders
        for v in read_document(folder / "renders.json", RENDERS)["views"]
    ]
    return len(names) == numbers["views"] and all(name.is_file() for name in names)


def write_colours(folder: Path, name: str, rgb: np.ndarray) -> None:
    """Write ``<name>.png`` and ``<name>.rgb16.png``; ``rgb`` is float ``[h, w, 3]`` in [0, 1]."""
    Image.fromarray(quantise(rgb, np.uint8)).save(folder / f"{name}.png")
    # Pillow has no 16-bit RGB; OpenCV does, in BGR order.
    cv2.imwrite(str(folder / f"{name}.rgb16.png"), quantise(rgb, np.uint16)[..., ::-1])


def quantise(values: np.ndarray, kind: type[np.unsignedinteger]) -> np.ndarray:
    """Values in [0, 1] as whole numbers up to the type's largest."""
    return np.round(values.astype(np.float64) * np.iinfo(kind).max).astype(kind)


def write_film(folder: Path, views: Iterable[View], source: Path, fps: float) -> None:
    """Put a path's ``camera_path.json``, from ``source``, and its film beside its pictures."""
    shutil.copyfile(source, folder / "camera_path.json")
    write_mp4(_frames(folder, views), folder / "path.mp4", fps)


def _frames(folder: Path, views: Iterable[View]) -> Iterator[np.ndarray]:
    for view in views:
        yield np.asarray(Image.open(folder / f"{view.name}.png"))


def record(view: View, seconds: float | None) -> dict[str, Any]:
    """A view's entry of ``renders.json``; None where the time of one view is not known."""
    return {
        "name": view.name,
        "rays": view.camera.width * view.camera.height,
        "seconds": None if seconds is None else round(seconds, 6),
        "camera": view.camera.to_json(),
        "pose": view.pose.tolist(),
    }
