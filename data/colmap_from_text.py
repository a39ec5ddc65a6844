"""Turn a COLMAP model in text form into the bytes of its binary form.

The form is COLMAP's (``scene/reconstruction_io_text.cc``): lines that start with ``#`` say nothing, values are parted
by spaces, an image has two lines, of which the second, of its observations, may be empty.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pycolmap


def binary_cameras(text: str) -> bytes:
    """``cameras.bin`` from ``cameras.txt``.

    Raises:
        ValueError: A line is not a camera; it is named. So do the functions below.
    """
    return _counted(_packed(number, _camera, line.split()) for number, line in _said(text.split("\n")))


def _camera(words: list[str]) -> bytes:
    number, model, width, height, *params = words
    members = pycolmap.CameraModelId.__members__
    if model not in members or model == "INVALID":
        raise ValueError(f"unknown model {model!r}")
    wanted = len(pycolmap.Camera.create_from_model_name(1, model, 1.0, 1, 1).params)
    if len(params) != wanted:
        raise ValueError(f"a {model} camera has {wanted} parameters, not {len(params)}")
    head = struct.pack("<IiQQ", int(number), int(members[model]), int(width), int(height))
    return head + struct.pack(f"<{wanted}d", *map(float, params))


def binary_images(text: str, key_points: bool = True) -> bytes:
    """``images.bin`` from ``images.txt``; without ``key_points``, of images that have none."""
    records, lines = [], iter(enumerate(text.split("\n"), start=1))
    for number, line in lines:
        if not _says_nothing(line):
            _, seen = next(lines, (0, ""))
            records.append(_packed(number, _image, line.split(maxsplit=9)))
            records.append(_packed(number + 1, _key_points, seen.split() if key_points else []))
    return struct.pack("<Q", len(records) // 2) + b"".join(records)


def _image(words: list[str]) -> bytes:
    if len(words) != 10:
        raise ValueError("it is not an image: number, pose, camera and name")
    image, *pose, camera, name = words
    return struct.pack("<I7dI", int(image), *map(float, pose), int(camera)) + name.strip().encode() + b"\0"


def _key_points(words: list[str]) -> bytes:
    if len(words) % 3:
        raise ValueError(f"{len(words)} values are not x, y and point of each observation")
    seen = np.empty(len(words) // 3, [("x", "<f8"), ("y", "<f8"), ("point", "<i8")])  # -1, none, is 2^64 - 1 unsigned
    seen["x"], seen["y"] = (np.array(words[k::3], np.float64) for k in (0, 1))
    seen["point"] = np.array([int(word) for word in words[2::3]], np.int64)
    return struct.pack("<Q", len(seen)) + seen.tobytes()


def binary_points(text: str) -> bytes:
    """``points3D.bin`` from ``points3D.txt``."""
    return _counted(_packed(number, _point, line.split()) for number, line in _said(text.split("\n")))


def _point(words: list[str]) -> bytes:
    if len(words) < 8 or len(words) % 2:
        raise ValueError("it is not a point: number, place, colour, error and track")
    number, x, y, z, *colour, error = words[:8]
    head = struct.pack("<Q3d3Bd", int(number), *map(float, (x, y, z)), *map(int, colour), float(error))
    track = np.array([int(word) for word in words[8:]], "<u4")
    return head + struct.pack("<Q", len(track) // 2) + track.tobytes()


def _packed(number: int, pack: Callable[[list[str]], bytes], words: list[str]) -> bytes:
    try:
        return pack(words)
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(f"line {number}: {error}") from None


def _said(lines: list[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if not _says_nothing(line))


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _counted(records: Iterable[bytes]) -> bytes:
    packed = list(records)
    return struct.pack("<Q", len(packed)) + b"".join(packed)
