"""Contact sheet of masks: one look shows whether they keep what they should."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from data.alpha import read_shown
from data.pictures import load_picture

THUMBNAIL_LONG_SIDE = 240
MAX_THUMBNAILS = 24
COLUMNS = 6
_OUTLINE_BGR = (60, 220, 255)


def overlay(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Dim what the mask drops and outline what it keeps.

    Args:
        picture: uint8 ``[h, w, 3]``, BGR.
        mask: uint8 ``[h, w]``, 255 = keep.

    Returns:
        uint8 ``[h, w, 3]``.
    """
    keep = mask > 127
    out = np.where(keep[..., None], picture, picture // 4)
    contours, _ = cv2.findContours(keep.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(out, contours, -1, _OUTLINE_BGR, 1)


def contact_sheet(frames: Path, masks: Path, names: list[str], out: Path, background: str | None = None) -> None:
    """Write a JPEG of at most ``MAX_THUMBNAILS`` frames, evenly chosen, with their masks drawn in.

    Args:
        frames: Folder of the pictures.
        masks: Folder of equally large masks under the same names.
        names: File names, at least one.
        out: The JPEG.
        background: What pictures with an alpha channel are shown before.
    """
    step = -(-len(names) // MAX_THUMBNAILS)
    tiles = [_thumbnail(read_shown(frames / name, background), masks / name) for name in names[::step]]
    columns = min(COLUMNS, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    cv2.imwrite(str(out), np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 85])


def _thumbnail(rgb: np.ndarray, mask: Path) -> np.ndarray:
    picture, keep = rgb[..., ::-1], load_picture(mask, cv2.IMREAD_GRAYSCALE)
    scale = THUMBNAIL_LONG_SIDE / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    small, small_keep = (cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (picture, keep))
    return overlay(small, small_keep)
