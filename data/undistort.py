"""Resample pictures once, to the centred pinhole (fx = fy) that everything after the reference relies on.

A pixel centre of the output, ``(column + 0.5, row + 0.5)``, is sent along its ray through the original camera to a
place ``(u, v)`` of the input; that is where the input is read, at ``(u - 0.5, v - 0.5)`` in the indices of an array.
Between two pinholes this is a homography.

Several cameras get one pinhole for all. No pixel of it may be invented, so it sees no more than each of them saw, and
as far to either side: with a principal point ``d`` pixels off the middle, a border about ``2 d`` wide is lost on the
side that reaches further, and ``d`` times the picture's proportions along the other two; of a wider lens, what lies
outside the narrowest is lost. The pictures keep their size, so what is left is enlarged a bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from data.lens import Lens, lens_size, lens_to_json
from data.pictures import load_picture
from data.poses import Camera
from fieldbook.errors import FieldbookError, Infeasible
from fieldbook.files import atomic_dir

ROUNDS = 60  # of bisection; the bracket shrinks to 1e-18 of itself
SLACK = 1e-6  # pixels that a reading place may lie beyond the outermost pixel centres, for rounding
SAME = 0.05  # pixels within which cameras are one: far below what a pose is known to


def centred_pinhole(*lenses: Lens) -> Camera:
    """The pinhole with fx = fy, centred, with the widest view that needs no pixel which one of the lenses missed.

    Its pictures have the most common size of theirs. Barrel distortion allows a shorter focal length than the camera's
    own, pincushion and a principal point off the middle need a longer one. Without distortion, and with the principal
    point in the middle, a single camera comes back unchanged.

    Args:
        lenses: One or more, with perspective projection.

    Raises:
        Infeasible: No focal length between half the shortest and twice the longest of theirs avoids missing pixels.
    """
    width, height = Counter(map(lens_size, lenses)).most_common(1)[0][0]
    own = [lens.mean_focal_length() * max(width / lens.width, height / lens.height) for lens in lenses]
    focal, longest = 0.5 * min(own), 2.0 * max(own)
    for lens in lenses:
        focal = _shortest_focal(lens, (width, height), focal, longest)
    return _pinhole((width, height), focal)


def _shortest_focal(lens: Lens, size: tuple[int, int], low: float, high: float) -> float:
    """Of those between two that need no pixel which the lens missed; the lower one if it will do."""
    if _covers(lens, _pinhole(size, low)):
        return low
    if not _covers(lens, _pinhole(size, high)):
        numbers = {"model": lens.model_name, "params": lens.params.tolist()}
        raise Infeasible(
            "the reference camera's distortion is too strong to undistort, or its principal point too far off the "
            "middle of the picture",
            numbers,
        )
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if _covers(lens, _pinhole(size, middle)) else (middle, high)
    return high


def common_pinhole(*lenses: Lens) -> Camera | None:
    """The centred pinhole with fx = fy that every one of the lenses is within ``SAME`` pixels; ``None`` without one."""
    if len(set(map(lens_size, lenses))) > 1:
        return None
    width, height = lens_size(lenses[0])
    pinhole = _pinhole((width, height), float(np.median([lens.mean_focal_length() for lens in lenses])))
    grid = np.stack(np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 9)), -1).reshape(-1, 2)
    same = all(np.abs(_places(lens, pinhole, grid) - grid).max() <= SAME for lens in lenses)
    return pinhole if same else None


def kept_share(lens: Lens, pinhole: Camera) -> float:
    """Share of a lens's picture that the pinhole shows, by area."""
    places = _places(lens, pinhole, _border(pinhole, 0.0)).astype(np.float32)
    return min(1.0, float(cv2.contourArea(places)) / (lens.width * lens.height))


def _pinhole(size: tuple[int, int], focal: float) -> Camera:
    return Camera(*size, focal, focal, size[0] / 2, size[1] / 2)


def _covers(lens: Lens, pinhole: Camera) -> bool:
    """Whether the border of the pinhole's picture, and so all of it, is read from inside the lens's picture."""
    places = _places(lens, pinhole, _border(pinhole, 0.5))
    largest = np.array([lens.width, lens.height]) - 0.5
    return bool(np.all((places >= 0.5 - SLACK) & (places <= largest + SLACK)))


def _border(camera: Camera, inset: float) -> np.ndarray:
    """Places ``[n, 2]`` round the picture, ``inset`` pixels from its edge, one after another."""
    columns = np.linspace(inset, camera.width - inset, camera.width)
    rows = np.linspace(inset, camera.height - inset, camera.height)
    top, right = np.stack([columns, np.full_like(columns, rows[0])], -1), np.full_like(rows, columns[-1])
    bottom, left = np.stack([columns[::-1], np.full_like(columns, rows[-1])], -1), np.full_like(rows, columns[0])
    return np.concatenate([top, np.stack([right, rows], -1), bottom, np.stack([left, rows[::-1]], -1)])


def _places(lens: Lens, pinhole: Camera, pixels: np.ndarray) -> np.ndarray:
    """Where pixels ``[n, 2]`` of the pinhole lie in the lens's picture, ``[n, 2]``; centres at +0.5."""
    x = (pixels[:, 0] - pinhole.cx) / pinhole.fx
    y = (pixels[:, 1] - pinhole.cy) / pinhole.fy
    return np.asarray(lens.img_from_cam(np.stack([x, y, np.ones_like(x)], -1)), float)


def undistortion_map(lens: Lens, pinhole: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Array column and row ``[height, width]`` float32 at which to read the lens's picture for each pixel."""
    v, u = np.mgrid[: pinhole.height, : pinhole.width] + 0.5
    places = _places(lens, pinhole, np.stack([u.ravel(), v.ravel()], -1)) - 0.5
    columns, rows = places.T.reshape(2, pinhole.height, pinhole.width).astype(np.float32)
    return columns, rows


def undistort_image(image: np.ndarray, maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Resample ``[h, w, 3]`` or ``[h, w]`` uint8 with ``undistortion_map``'s maps (bicubic)."""
    return cv2.remap(image, *maps, interpolation=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def lens_maps(
    lenses: Mapping[str, Lens], pinhole: Camera
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray] | None]]:
    """Names of pictures with the maps that resample each, those of one lens after another; ``None``: take it as it is.

    Args:
        lenses: By name.
        pinhole: What the pictures become: ``common_pinhole`` of the lenses, or one that they cover.
    """
    names: dict[str, list[str]] = {}
    for name, lens in lenses.items():
        names.setdefault(repr(lens_to_json(lens)), []).append(name)
    as_they_are = common_pinhole(*lenses.values()) == pinhole
    for group in names.values():
        maps = None if as_they_are else undistortion_map(lenses[group[0]], pinhole)
        yield from ((name, maps) for name in group)


def undistort_folder(source: Path, target: Path, lenses: Mapping[str, Lens], pinhole: Camera) -> None:
    """Resample the named pictures of ``source`` into ``target``, which is replaced as a whole.

    Args:
        source: Folder of PNGs.
        target: Folder to write.
        lenses: What each picture was taken with, by name.
        pinhole: See ``lens_maps``; pictures that are its own already are copied.

    Raises:
        UserError: A picture is missing or damaged.
    """
    with atomic_dir(target) as folder:
        for name, maps in lens_maps(lenses, pinhole):
            image = load_picture(source / name, cv2.IMREAD_COLOR)
            if maps is not None:
                image = undistort_image(image, maps)
            if not cv2.imwrite(str(folder / name), image):
                raise FieldbookError(f"could not write {folder / name}; is the disk full?")
