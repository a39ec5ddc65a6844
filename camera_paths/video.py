"""Pictures of a path as an MP4."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from fieldbook.files import atomic_path


def write_mp4(images: Iterable[np.ndarray], path: Path, fps: float) -> int:
    """Write pictures as H.264 in yuv420p, which every player and browser opens.

    Chroma is stored at half size, so an odd width or height is padded by repeating its last column or row.

    Args:
        images: uint8 ``[height, width, 3]`` RGB, all of one size; consumed one at a time.
        path: The file, written atomically; its folder is made.
        fps: Pictures per second.

    Returns:
        The number of pictures written.

    Raises:
        ValueError: No pictures, or one that differs in size or type.
    """
    source = iter(images)
    first = next(source, None)
    if first is None:
        raise ValueError(f"no pictures for {path}")
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        padded = _even(first)
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        stream.height, stream.width = padded.shape[:2]
        count = 0
        for image in _chain(first, source):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_even(image), format="rgb24")))
            count += 1
        container.mux(stream.encode())
    return count


def _chain(first: np.ndarray, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield first
    for k, image in enumerate(rest, start=1):
        if image.shape != first.shape:
            raise ValueError(f"picture {k} is {image.shape}, picture 0 is {first.shape}")
        yield image


def _even(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"pictures must be uint8 [height, width, 3], not {image.dtype} {image.shape}")
    return np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
