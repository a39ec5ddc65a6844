"""The pictures that an external method wrote: all there, of the right size, as colours before the background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.alpha import blend
from data.pictures import load_picture
from fieldbook.errors import UserError
from fieldbook.files import parse_json, read_text
from methods.runner.views import View

SECONDS = "seconds.json"
"""What a command may write beside its pictures: seconds by view name, the model's own without its start."""


def check_complete(folder: Path, views: Sequence[View], command: str) -> None:
    """Check that every view has a picture.

    Raises:
        UserError: Names the first that is missing, how many there are, and what lies there instead.
    """
    missing = [view.name for view in views if not (folder / f"{view.name}.png").is_file()]
    if not missing:
        return
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    found = sorted(p.name for p in folder.iterdir())
    there = f"it wrote {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}" if found else "it wrote nothing there"
    raise UserError(
        f"{command} left out {missing[0]}.png{more} of {len(views)} pictures in its output folder ({there}); it has to "
        "write <name>.png for every camera"
    )


def read_picture(path: Path, view: View, background: str | None) -> np.ndarray:
    """A picture as float64 ``[h, w, 3]`` in [0, 1]; one that is not opaque is blended over the background.

    Args:
        path: PNG with 8 or 16 bits per channel, RGB or RGBA with straight alpha.
        view: Says how large it has to be.
        background: Name of the dataset's, ``None`` for scenes without one.

    Raises:
        UserError: Names the file and what is wrong with it.
    """
    image = load_picture(path, cv2.IMREAD_UNCHANGED)
    if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{path} is not RGB or RGBA with 8 or 16 bits per channel")
    height, width = image.shape[:2]
    if (width, height) != (view.camera.width, view.camera.height):
        raise UserError(f"{path} is {width}x{height} pixels; its camera has {view.camera.width}x{view.camera.height}")
    values = image / np.float64(np.iinfo(image.dtype).max)
    if image.shape[2] == 3:
        return values[..., ::-1]
    rgba = np.dstack([values[..., 2::-1], values[..., 3]])
    if (rgba[..., 3] == 1).all():
        return rgba[..., :3]
    if background is None:
        raise UserError(f"{path} is not opaque, and this scene has no background; write what the camera sees")
    return blend(rgba, background)


def read_seconds(folder: Path, views: Sequence[View]) -> dict[str, float | None]:
    """How long each view took, where the command says so.

    Raises:
        UserError: ``seconds.json`` is there and is not what it should be.
    """
    path = folder / SECONDS
    if not path.is_file():
        return {view.name: None for view in views}
    try:
        given = parse_json(read_text(path))
        found: dict[str, float | None] = {view.name: float(given[view.name]) for view in views}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'{path} is not {{"<name>": seconds}} for every view: {type(error).__name__} {error}') from None
    return found
