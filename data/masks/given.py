"""Masks that came with a capture, beside its pictures and named like them, resampled as the pictures were."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.given import GivenCapture, by_number, pictures_in
from data.lens import given_lenses, lens_size
from data.pictures import open_picture, picture_size
from data.poses import Camera
from data.undistort import lens_maps, undistort_image
from fieldbook.documents import CAPTURE, FRAMES, REFERENCE, read_document
from fieldbook.errors import UserError
from fieldbook.files import inside, user_path
from fieldbook.layout import SceneFiles

FOLDERS = {"neus": "mask", "colmap": "masks"}
"""Of the kinds of captures that may have masks."""


def given_masks(files: SceneFiles, out: Path) -> None:
    """Write the masks of all frames; values from 0 to 255 stay what they are where nothing has to be resampled.

    Args:
        files: The scene's files, up to its reference.
        out: Where to write.

    Raises:
        UserError: The capture is of a kind without masks, or a mask is missing, damaged or of another size than its
            picture; the first is named.
    """
    capture, index = read_document(files.capture, CAPTURE), read_document(files.raw_index, FRAMES)
    found = _Masks(capture["kind"], user_path(capture["source"]))
    paths = {frame["name"]: found.of(frame["index"], frame["file_path"]) for frame in index["frames"]}
    lenses, pinhole = given_lenses(index), Camera(**read_document(files.reference_poses, REFERENCE)["camera"])
    for name, maps in lens_maps(lenses, pinhole):
        mask = _read(paths[name], lens_size(lenses[name]))
        cv2.imwrite(str(out / name), mask if maps is None else undistort_image(mask, maps))


def check_masks(kind: str, folder: Path, content: GivenCapture) -> None:
    """Refuse a capture that lacks a mask, or has one of another size than its picture; only headers are read.

    Raises:
        UserError: As ``given_masks``.
    """
    found = _Masks(kind, folder)
    for view in content.views:
        path = found.of(view.index, view.name)
        _check_size(path, picture_size(path), lens_size(view.lens))


class _Masks:
    """The masks of a capture.

    Raises:
        UserError: Its kind has none, or they are not there.
    """

    def __init__(self, kind: str, folder: Path):
        if kind not in FOLDERS:
            raise UserError(
                f"mask kind 'given': a {kind} capture has no masks of its own; use {{kind: folder, path: ...}}"
            )
        self.folder = folder / FOLDERS[kind]
        if not self.folder.is_dir():
            raise UserError(f"mask kind 'given': there is no folder {self.folder}; put the capture's masks there")
        self.numbered = by_number(pictures_in(self.folder)) if kind == "neus" else None

    def of(self, index: int, name: str) -> Path:
        """Mask of a picture by its number (NeuS), or by its name: COLMAP's ``a.jpg.png``, ``a.jpg`` or ``a.png``."""
        if self.numbered is not None:
            path, wanted = self.numbered.get(index), f"{index:03d}.png"
        else:
            names = dict.fromkeys((f"{name}.png", name, str(Path(name).with_suffix(".png"))))
            path = next((p for p in (inside(self.folder, n) for n in names) if p.is_file()), None)
            wanted = " or ".join(names)
        if path is None:
            raise UserError(f"{self.folder} has no mask for {name}; put {wanted} there")
        return path


def _check_size(path: Path, found: tuple[int, int], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise UserError(
            f"{path} is {found[0]}x{found[1]}, its picture is {wanted[0]}x{wanted[1]}; a mask has its picture's size"
        )


def _read(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Luminance, uint8 ``[h, w]``."""
    with open_picture(path) as image:
        _check_size(path, image.size, size)
        values = np.asarray(image.convert("L"))
    if values.max() == 1:
        raise UserError(f"{path} has values up to 1 only; a mask keeps what is above 127: use 0 and 255")
    return values
