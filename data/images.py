"""Stage ``images``: the frames and masks of a scene at the size that a method trains on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data.alpha import shrink_straight
from data.pictures import is_soft, load_picture
from fieldbook.documents import FRAMES, read_document
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir
from fieldbook.layout import SceneFiles


def scaled_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """``(width, height)`` with the long side at ``long_side``, the short one rounded (halves up), at least 1.

    Raises:
        UserError: ``long_side`` is not in 1..max(width, height).
    """
    longest = max(width, height)
    if not 1 <= long_side <= longest:
        raise UserError(
            f"image size {long_side} is not possible for {width}x{height} frames; "
            f"give 1 to {longest}, or 0 for full size"
        )
    w, h = (max(1, (2 * side * long_side + longest) // (2 * longest)) for side in (width, height))
    return w, h


def scale_images(files: SceneFiles, long_side: int) -> dict[str, int]:
    """Average the frames down to ``long_side`` pixels; 0 means full size: nothing is written, the frames serve.

    Frames with an alpha channel keep it; their colours are averaged by what is seen of them.

    Returns:
        ``width`` and ``height`` of the scaled frames.

    Raises:
        UserError: Larger than the frames: enlarging would invent pixels that metrics then reward.
    """
    return _scale(files, files.frames, files.images(long_side), long_side, is_mask=False)


def scale_masks(files: SceneFiles, mask: str, long_side: int) -> dict[str, int]:
    """Scale one source's masks like the frames; a pixel is kept where half of it is, and a soft mask stays soft.

    Returns:
        ``width`` and ``height`` of the scaled masks.

    Raises:
        UserError: Larger than the frames.
    """
    return _scale(files, files.masks(mask), files.scaled_masks(mask, long_side), long_side, is_mask=True)


def _scale(files: SceneFiles, source: Path, target: Path, long_side: int, is_mask: bool) -> dict[str, int]:
    index = read_document(files.frames_index, FRAMES)
    width, height = index["width"], index["height"]
    if long_side:
        width, height = scaled_size(width, height, long_side)
        _scale_folder(source, target, [frame["name"] for frame in index["frames"]], (width, height), is_mask)
    return {"width": width, "height": height}


def _scale_folder(source: Path, target: Path, names: Sequence[str], size: tuple[int, int], is_mask: bool) -> None:
    with atomic_dir(target) as out:
        for name in names:
            picture = load_picture(source / name, cv2.IMREAD_GRAYSCALE if is_mask else cv2.IMREAD_UNCHANGED)
            if picture.ndim == 3 and picture.shape[2] == 4:
                scaled = shrink_straight(picture, size)
            else:
                scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            if is_mask and not is_soft(picture):
                scaled = np.where(scaled > 127, np.uint8(255), np.uint8(0))
            cv2.imwrite(str(out / name), scaled)
