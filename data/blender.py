"""NeRF's Blender format: ``transforms_{train,val,test}.json`` beside the pictures (Mildenhall et al. 2020).

Each file holds ``camera_angle_x``, the horizontal angle of view in radians, and ``frames`` of ``file_path`` (relative,
without its ``.png``) and ``transform_matrix``, ``world_from_camera`` with OpenGL axes: the axes used everywhere here.
The validation frames are used for nothing: no method here stops early or chooses by them.

Standard library only, because a study's plan checks these files before any job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldbook.errors import UserError
from fieldbook.files import inside, read_json
from fieldbook.shapes import is_number, is_pose

SPLITS = ("train", "test")
BOX_HALF = 1.5
"""The format keeps what is to be seen within this distance of the world's origin, along each axis (NeRF's release)."""
NARROWEST = 1e-3
"""Angle of view in radians that is still one; the tangents of what lies below have no use, or no value."""


@dataclass(frozen=True)
class BlenderFrame:
    """One frame as its file names it.

    Attributes:
        file_path: As it stands in the file.
        picture: The PNG.
        split: ``train`` or ``test``.
        matrix: ``world_from_camera``, 4x4, OpenGL axes.
    """

    file_path: str
    picture: Path
    split: str
    matrix: list[list[float]]


@dataclass(frozen=True)
class BlenderFolder:
    """A folder in Blender format.

    Attributes:
        camera_angle_x: Horizontal angle of view of every picture, in radians, in (0, pi).
        frames: Those of ``transforms_train.json`` in its order, then those of ``transforms_test.json``.
        transforms: The two files.
    """

    camera_angle_x: float
    frames: tuple[BlenderFrame, ...]
    transforms: tuple[Path, ...]

    def of_split(self, split: str) -> list[BlenderFrame]:
        """Frames of ``train`` or ``test``."""
        return [frame for frame in self.frames if frame.split == split]


def read_blender(folder: Path) -> BlenderFolder:
    """Read and check the training and test frames of a folder; no picture is opened.

    Raises:
        UserError: The folder, a JSON file or a picture is missing; a file lacks its camera angle or has no frames; a
            matrix is no pose; the angles differ; or a picture is listed twice, or lies outside the folder.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder in Blender format: {folder}")
    paths = tuple(folder / f"transforms_{split}.json" for split in SPLITS)
    documents = [_read(path) for path in paths]
    angles = [_angle(path, document) for path, document in zip(paths, documents, strict=True)]
    if not math.isclose(*angles, rel_tol=1e-6):
        raise UserError(
            f"{paths[1]} has camera_angle_x {angles[1]}, {paths[0].name} has {angles[0]}; one camera must have made "
            "all pictures"
        )
    frames = [
        _frame(path, split, entry)
        for path, split, document in zip(paths, SPLITS, documents, strict=True)
        for entry in document["frames"]
    ]
    _check_pictures(frames)
    return BlenderFolder(angles[0], tuple(frames), paths)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}; a folder in Blender format has one, see docs/blender.md")
    document = read_json(path)
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path} lists no frames; it must hold camera_angle_x and a list of frames")
    return document


def _angle(path: Path, document: dict[str, Any]) -> float:
    angle: Any = document.get("camera_angle_x")
    if not is_number(angle) or not NARROWEST < angle < math.pi - NARROWEST:
        given = "has no camera_angle_x" if angle is None else f"has camera_angle_x {angle!r}"
        raise UserError(f"{path} {given}; give the horizontal angle of view in radians, between 0 and pi")
    return float(angle)


def _frame(path: Path, split: str, entry: Any) -> BlenderFrame:
    name = entry.get("file_path") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: a frame has no file_path; each needs file_path and transform_matrix")
    matrix: Any = entry.get("transform_matrix")
    if not is_pose(matrix):
        raise UserError(
            f"{path}: transform_matrix of {name} is no pose; give 4 rows of 4 numbers, a rotation without scale and a "
            "translation, camera to world"
        )
    picture = inside(path.parent, name if name.lower().endswith(".png") else f"{name}.png")
    return BlenderFrame(name, picture, split, [[float(v) for v in row] for row in matrix])


def _check_pictures(frames: list[BlenderFrame]) -> None:
    missing = [frame.picture for frame in frames if not frame.picture.is_file()]
    if missing:
        raise UserError(f"{len(missing)} of {len(frames)} pictures are not there, the first is {missing[0]}")
    seen: dict[Path, BlenderFrame] = {}
    for frame in frames:
        first = seen.setdefault(frame.picture.resolve(), frame)
        if first is not frame:
            where = " and in ".join(dict.fromkeys((first.split, frame.split)))
            raise UserError(f"{frame.picture} is listed twice, in {where}; list every picture once")
