"""Undistort pictures once, to a centred pinhole.

A pixel centre of the output, ``(column + 0.5, row + 0.5)``, is sent along its ray through the distorting camera to a
place ``(u, v)`` of the input; that is where the input is read, at ``(u - 0.5, v - 0.5)`` in the indices of an array.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from data.pictures import load_picture
from data.poses import Camera
from fieldbook.errors import Infeasible
from fieldbook.files import atomic_dir

ROUNDS = 60  # of bisection; the bracket shrinks to 1e-18 of itself
SLACK = 1e-6  # pixels that a reading place may lie beyond the outermost pixel centres, for rounding


def centred_pinhole(camera: pycolmap.Camera) -> Camera:
    """The pinhole of the same picture size, fx = fy and centred, with the widest view that needs no missing pixel.

    Barrel distortion allows a shorter focal length than the camera's own, pincushion needs a longer one. Without
    distortion, and with the principal point in the middle, the camera comes back unchanged.

    Args:
        camera: Any COLMAP camera with perspective projection.

    Raises:
        Infeasible: No focal length between half and twice the camera's own avoids missing pixels.
    """
    low, high = 0.5 * camera.mean_focal_length(), 2.0 * camera.mean_focal_length()
    if not _covers(camera, high):
        numbers = {"model": camera.model_name, "params": camera.params.tolist()}
        raise Infeasible("the reference camera's distortion is too strong to undistort", numbers)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (low, middle) if _covers(camera, middle) else (middle, high)
    return _pinhole(camera, high)


def _pinhole(camera: pycolmap.Camera, focal: float) -> Camera:
    return Camera(camera.width, camera.height, focal, focal, camera.width / 2, camera.height / 2)


def _covers(camera: pycolmap.Camera, focal: float) -> bool:
    """Whether the border of the pinhole's picture, and so all of it, is read from inside the distorted picture."""
    columns, rows = np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5
    sides = [np.stack([columns, np.full_like(columns, v)], -1) for v in (rows[0], rows[-1])]
    sides += [np.stack([np.full_like(rows, u), rows], -1) for u in (columns[0], columns[-1])]
    places = _places(camera, _pinhole(camera, focal), np.concatenate(sides))
    largest = np.array([columns[-1], rows[-1]])
    return bool(np.all((places >= 0.5 - SLACK) & (places <= largest + SLACK)))


def _places(camera: pycolmap.Camera, pinhole: Camera, pixels: np.ndarray) -> np.ndarray:
    """Where pixels ``[n, 2]`` of the pinhole lie in the distorting camera's picture, ``[n, 2]``; centres at +0.5."""
    x = (pixels[:, 0] - pinhole.cx) / pinhole.fx
    y = (pixels[:, 1] - pinhole.cy) / pinhole.fy
    return np.asarray(camera.img_from_cam(np.stack([x, y, np.ones_like(x)], -1)), float)


def undistortion_map(camera: pycolmap.Camera, pinhole: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Array column and row ``[height, width]`` float32 at which to read the distorted picture for each pixel."""
    v, u = np.mgrid[: pinhole.height, : pinhole.width] + 0.5
    places = _places(camera, pinhole, np.stack([u.ravel(), v.ravel()], -1)) - 0.5
    columns, rows = places.T.reshape(2, pinhole.height, pinhole.width).astype(np.float32)
    return columns, rows


def undistort_image(image: np.ndarray, maps: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Resample ``[h, w, 3]`` uint8 with ``undistortion_map``'s maps (bicubic)."""
    return cv2.remap(image, *maps, interpolation=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def undistort_folder(source: Path, target: Path, names: Sequence[str], camera: pycolmap.Camera) -> Camera:
    """Undistort the named pictures of ``source`` into ``target``, which is replaced as a whole.

    Returns:
        The pinhole of the new pictures.
    """
    pinhole = centred_pinhole(camera)
    maps = undistortion_map(camera, pinhole)
    with atomic_dir(target) as folder:
        for name in names:
            image = load_picture(source / name, cv2.IMREAD_COLOR)
            cv2.imwrite(str(folder / name), undistort_image(image, maps))
    return pinhole
