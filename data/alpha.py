"""Pictures with an alpha channel: straight on disk, premultiplied only in here, blended over one background.

Symbols: ``c`` straight colour, ``a`` alpha, ``b`` background, all in [0, 1]; what is seen is ``a c + (1 - a) b``
(Porter and Duff 1984, *over*).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.pictures import open_picture
from fieldbook.errors import UserError, nearest

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


def background_colour(name: str) -> tuple[float, float, float]:
    """sRGB in [0, 1] of a background's name.

    Raises:
        UserError: No such background.
    """
    if name not in BACKGROUNDS:
        raise UserError(f"no background {name!r}; {nearest(name, BACKGROUNDS)}")
    return BACKGROUNDS[name]


def blend(rgba: np.ndarray, background: str) -> np.ndarray:
    """What is seen of a picture with straight alpha before a background.

    Args:
        rgba: Float ``[h, w, 4]`` in [0, 1].
        background: Its name.

    Returns:
        ``[h, w, 3]`` in [0, 1], of the same type.
    """
    alpha = rgba[..., 3:]
    return alpha * rgba[..., :3] + (1 - alpha) * np.asarray(background_colour(background), rgba.dtype)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Round a picture in [0, 1] to 8 bits."""
    return np.round(picture * 255).astype(np.uint8)


def blend_uint8(rgba: np.ndarray, background: str) -> np.ndarray:
    """``blend`` of 8-bit ``[h, w, 4]``, rounded to 8-bit ``[h, w, 3]``."""
    return to_uint8(blend(rgba / 255.0, background))


def read_shown(path: Path, background: str | None) -> np.ndarray:
    """Read a picture as a person is to see it: uint8 RGB ``[h, w, 3]``, blended where it has an alpha channel.

    Args:
        path: The picture.
        background: Name of the background; ``None`` for pictures without alpha.

    Raises:
        UserError: See ``open_picture``.
    """
    with open_picture(path) as image:
        if background is not None and "A" in image.getbands():
            return blend_uint8(np.asarray(image.convert("RGBA")), background)
        return np.asarray(image.convert("RGB"))


def shrink_straight(rgba: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average a picture with straight alpha down, weighting colours by their alpha.

    Averaging straight colours would let the colour of what is not seen (often black) bleed in as a fringe.

    Args:
        rgba: uint8 ``[h, w, 4]``, in any order of the three colours.
        size: ``(width, height)``, not larger.

    Returns:
        uint8 ``[height, width, 4]``; colour 0 where alpha is 0.
    """
    straight = rgba.astype(np.float64)
    premultiplied = np.dstack([straight[..., :3] * straight[..., 3:] / 255, straight[..., 3]])
    small = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA)
    alpha = small[..., 3:]
    colours = np.divide(255 * small[..., :3], alpha, out=np.zeros_like(small[..., :3]), where=alpha > 0)
    return np.clip(np.round(np.dstack([colours, alpha])), 0, 255).astype(np.uint8)
