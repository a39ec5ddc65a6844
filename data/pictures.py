"""Still pictures on disk: PNG and JPEG, of a bounded size, decoded whole or refused by name.

A picture's name says nothing about what it holds: Pillow knows dozens of formats, one of which starts a program, and a
few bytes can claim a size that no memory has.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fieldbook.errors import UserError

FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 1 << 27
"""Of a picture or a frame: four times an 8K film's, 400 MB as RGB."""
# What Pillow raises for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, OverflowError, EOFError, struct.error, zlib.error)


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """Open a picture of 8 bits per channel; what is raised in the block for damaged data names the file.

    Raises:
        UserError: No file, no PNG or JPEG, damaged, too large, or of more than 8 bits per channel.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):  # Pillow would clip these to white
            raise UserError(f"{path} has more than 8 bits per pixel; convert it to 8-bit RGB")
        yield image


def has_alpha(path: Path) -> bool:
    """Whether an image has an alpha channel or a transparent palette entry; only its header is read.

    Raises:
        UserError: Not a readable image of 8 bits per channel.
    """
    with open_picture(path) as image:
        return image.has_transparency_data


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():  # a pipe would be waited for
        raise UserError(
            f"{path} is {'not a file' if path.exists() else 'missing'}; put the picture there, or make it again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes: our own limit follows
            with Image.open(path, formats=FORMATS) as image:
                check_pixels(path, *image.size)
                yield image
    except Image.DecompressionBombError:
        raise UserError(f"{path} claims more than {MAX_PIXELS} pixels; scale it down, or replace it") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path} is not a readable image, PNG or JPEG; replace or remove it") from None
    except _DAMAGED as error:
        raise UserError(f"{path} is not a readable image ({error}); replace or remove it") from None


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse a size that could not be worked with.

    Raises:
        UserError: More than ``MAX_PIXELS``, or nothing.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(f"{path} is {width}x{height}, more than {MAX_PIXELS} pixels; scale it down, or replace it")


def picture_size(path: Path) -> tuple[int, int]:
    """``(width, height)`` as stored; only the header is read.

    Raises:
        UserError: See ``open_picture``; any depth is fine.
    """
    with _opened(path) as image:
        return image.size


def is_soft(mask: np.ndarray) -> bool:
    """Whether a mask of 8 bits says more than yes (255) and no (0)."""
    return bool(((mask > 0) & (mask < 255)).any())


def load_picture(path: Path, flags: int) -> np.ndarray:
    """What ``cv2.imread`` gives for ``flags``, with OpenCV's order of channels.

    Raises:
        UserError: No file, no PNG or JPEG, damaged, or too large.
    """
    with _opened(path) as image:  # OpenCV fills what is missing of a JPEG, and speaks of a PNG on the console
        if image.format == "PNG":
            image.verify()  # checksums only
        else:
            image.load()
    picture = cv2.imread(str(path), flags)
    if picture is None:
        raise UserError(f"{path} is not a readable picture; replace it, or make it again")
    return picture
