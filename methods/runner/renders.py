"""A folder of rendered views, whatever rendered them: ``<name>.png``, ``<name>.rgb16.png`` and ``renders.json``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from camera_paths.video import write_mp4
from fieldbook.documents import RENDERS, read_document
from fieldbook.layout import RunFiles
from methods.runner.views import View


@dataclass(frozen=True)
class Picture:
    """What a model shows for a view.

    Attributes:
        rgb: ``[h, w, 3]`` float32 in [0, 1].
        depth: ``[h, w]`` float32, scene units along the ray.
        opacity: ``[h, w]`` float32 in [0, 1].
        seconds: Time the model took.
        normal: ``[h, w, 3]`` float32 in the scene frame, unit or 0 where there is none; of models that have a surface.
        foreground: ``[h, w, 3]`` what ``rgb`` has from within the model's box; of models with a background.
        background: ``[h, w, 3]`` what lies behind it.
    """

    rgb: np.ndarray
    depth: np.ndarray
    opacity: np.ndarray
    seconds: float
    normal: np.ndarray | None = None
    foreground: np.ndarray | None = None
    background: np.ndarray | None = None


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


def write_picture(folder: Path, name: str, picture: Picture) -> None:
    """Write ``<name>.png``, ``.rgb16.png``, ``.depth.npy`` and ``.opacity.png`` into ``folder``.

    And, where the model has them, ``.normal.png`` (``(n + 1) / 2``), ``.foreground.png`` and ``.background.png``.
    """
    write_colours(folder, name, picture.rgb)
    np.save(folder / f"{name}.depth.npy", picture.depth)
    Image.fromarray(quantise(picture.opacity, np.uint8)).save(folder / f"{name}.opacity.png")
    normal = None if picture.normal is None else normal_colours(picture.normal)
    more = {"normal": normal, "foreground": picture.foreground, "background": picture.background}
    for kind, values in more.items():
        if values is not None:
            Image.fromarray(quantise(np.clip(np.nan_to_num(values), 0, 1), np.uint8)).save(
                folder / f"{name}.{kind}.png"
            )


def normal_colours(normal: np.ndarray) -> np.ndarray:
    """Normals ``[..., 3]`` as colours in [0, 1]: ``(n + 1) / 2``, grey where there is none."""
    return np.clip((np.nan_to_num(normal) + 1) / 2, 0, 1)


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
