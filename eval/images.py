"""Pictures from disk to arrays, for scoring."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.alpha import blend, to_uint8
from data.pictures import load_picture
from fieldbook.errors import UserError


def read_rgb(path: Path, bits: int = 8) -> np.ndarray:
    """Read an RGB picture of ``bits`` (8 or 16) per channel as float64 ``[h, w, 3]`` in [0, 1].

    Raises:
        UserError: The file is missing, not a picture, or of another depth or channel count.
    """
    image = _read(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype.itemsize * 8 != bits:
        raise UserError(f"{path} is {_describe(image)}; scoring needs 3 channels of {bits} bits")
    return image[..., ::-1] / np.float64(2**bits - 1)


def read_truth(path: Path, background: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a true 8-bit picture as each convention compares with it: float64 ``[h, w, 3]`` in [0, 1], twice.

    Args:
        path: RGB, or RGB with straight alpha where there is a background.
        background: Name of what a picture with alpha is seen before.

    Returns:
        For ``float`` the picture blended in float, for ``uint8`` the same rounded to 8 bits, as it would be
        published; one and the same array for a picture without alpha.

    Raises:
        UserError: As ``read_rgb``.
    """
    image = _read(path)
    if background is None or image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        plain = read_rgb(path)
        return plain, plain
    seen = blend(cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA) / 255.0, background)
    return seen, to_uint8(seen) / 255.0


def read_mask(path: Path) -> np.ndarray:
    """Read a one-channel 8-bit mask as bool ``[h, w]``, true where the pixel is kept (128 and above).

    Raises:
        UserError: The file is missing, not a picture, or of another depth or channel count.
    """
    image = _read(path)
    if image.ndim != 2 or image.dtype != np.uint8:
        raise UserError(f"{path} is {_describe(image)}; a mask has 1 channel of 8 bits (255 = keep)")
    return image >= 128


def _read(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"no such picture: {path}; render the run again, or make the dataset again")
    return load_picture(path, cv2.IMREAD_UNCHANGED)


def _describe(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return f"a picture with {channels} channels of {image.dtype.itemsize * 8} bits"
