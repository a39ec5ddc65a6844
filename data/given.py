"""What a capture that came with its poses says, whatever format says it: pictures, cameras and poses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.lens import Lens, lens_size
from data.pictures import picture_size
from data.poses import Sim3
from data.readers import IMAGE_SUFFIXES
from fieldbook.errors import UserError

IDENTITY = Sim3(1.0, np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class GivenView:
    """One picture.

    Attributes:
        index: Its number, which becomes that of its frame.
        name: As the capture names it: a path relative to the folder of the pictures.
        picture: The file.
        lens: What it was taken with.
        pose: ``world_from_camera`` ``[4, 4]``, OpenGL axes, in the capture's own world.
    """

    index: int
    name: str
    picture: Path
    lens: Lens
    pose: np.ndarray


@dataclass(frozen=True)
class GivenCapture:
    """A folder of posed pictures.

    Attributes:
        views: At least one, by ``index``.
        files: What was read besides the pictures.
        world: World units from the space of the poses.
        box: ``[2, 3]`` that holds what is to be seen, in the space of the poses; ``None`` where points tell.
        ball: Whether the largest ball in the box holds all of it.
        sparse: Folder with the COLMAP model that the poses are from, if they are from one.
        left_out: How many pictures are there that have no pose, and are not used.
    """

    views: tuple[GivenView, ...]
    files: tuple[Path, ...]
    world: Sim3 = IDENTITY
    box: np.ndarray | None = None
    ball: bool = False
    sparse: Path | None = None
    left_out: int = 0


def pictures_in(folder: Path) -> list[Path]:
    """PNG and JPEG files directly in a folder, hidden ones left out, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")


def by_number(paths: Iterable[Path]) -> dict[int, Path]:
    """Files by the last number in their names: ``000003.png`` and ``rect_003.jpg`` are both 3.

    Raises:
        UserError: A name has no number, or two have the same.
    """
    found: dict[int, Path] = {}
    for path in paths:
        digits = re.findall(r"[0-9]{1,9}", path.stem)
        if not digits:
            raise UserError(f"{path} has no number in its name, which says whose picture it is; rename or remove it")
        other = found.setdefault(int(digits[-1]), path)
        if other is not path:
            raise UserError(f"{path} and {other.name} are both number {int(digits[-1])}; remove one")
    return found


def check_sizes(views: Iterable[GivenView], source: Path) -> None:
    """Refuse a picture that is not as large as its camera, or is no picture; only headers are read.

    Raises:
        UserError: Names the first, and ``source``, where its camera is from.
    """
    for view in views:
        found, wanted = picture_size(view.picture), lens_size(view.lens)
        if found != wanted:
            raise UserError(
                f"{view.picture} is {found[0]}x{found[1]}, its camera in {source} is {wanted[0]}x{wanted[1]}; give the "
                "pictures that the cameras were made for"
            )
