"""Frames of a video (PyAV) or of a folder of images, one at a time, upright and with their true time stamps.

A damaged video gives the frames that decode without an error: after an error nothing is believed until the next key
frame, because decoders patch holes with smeared copies that look like frames. ``index`` counts readable
frames.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from data.pictures import MAX_PIXELS, check_pixels, open_picture
from fieldbook.errors import UserError

LUMA_LONG_SIDE = 960  # sharpness and exposure are measured at this size at most
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_EXIF_ORIENTATION = 0x0112
# FFmpeg goes by content, not by name: a playlist in text would make it open other files, or addresses of the network.
CONTAINERS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "mxf", "nut", "ivf"),
    *("h264", "hevc", "av1", "obu", "mjpeg", "dv", "gif", "apng", "rm", "wtv", "gxf", "swf", "yuv4mpegpipe"),
)
_OPTIONS = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file"}


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source; pixels are converted only when asked for.

    Attributes:
        index: 0-based position among the source's readable frames.
        time_s: Presentation time from the container's start; ``None`` where the source has no clock.
        rgb: Gives the upright picture, uint8 ``[height, width, 3]``, or ``[height, width, 4]`` with straight alpha.
        luma: Gives the luma at most ``LUMA_LONG_SIDE`` long, uint8 ``[h, w]``, full range, maybe not upright.
        facts: What else the source knows of the frame, for its entry in ``raw.json``.
    """

    index: int
    time_s: float | None
    rgb: Callable[[], np.ndarray]
    luma: Callable[[], np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)


def bounded_size(width: int, height: int) -> tuple[int, int]:
    """``(width, height)`` shrunk so that the long side is at most ``LUMA_LONG_SIDE``; never enlarged."""
    scale = min(1.0, LUMA_LONG_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


class VideoSource:
    """A video file, read by iterating; each iteration decodes it anew and holds one frame at a time.

    Args:
        path: The file.
        trusted: The file is known to be whole, so frames may be decoded in parallel. With damage, only
            decoding one frame after another makes the same frames readable every time.

    Attributes:
        errors: Packets or frames that the latest iteration could not use.
        skipped: Packets of the latest iteration that the file itself marks as not to be shown (edit lists).
    """

    def __init__(self, path: Path, trusted: bool = False):
        self.path, self.trusted = path, trusted
        self.errors = self.skipped = 0

    @contextmanager
    def open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """Open the file and find its moving picture.

        Raises:
            UserError: No such file, not a video, damaged beyond opening, or a video without pictures.
        """
        if not self.path.is_file():
            raise UserError(f"no such video file: {self.path}")
        try:
            # With its protocol, for a name may look like another one's; tags are in any encoding, or in none. Not as
            # `options`: PyAV 16 frees those once per stream, also of streams that it finds later, and crashes.
            container = av.open(f"file:{self.path}", container_options=_OPTIONS, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise UserError(
                f"{self.path} is no readable video ({_reason(error)}); copy it again, or export it as MP4 "
                "(a folder of images is capture kind 'images')"
            ) from None
        with container:
            stream = next((s for s in container.streams.video if not _is_cover_art(s)), None)
            if stream is None:
                raise UserError(f"{self.path} has no video stream, only sound or cover art")
            if stream.codec_context is None:
                raise UserError(f"{self.path} has pictures in an unknown form; export it as MP4 with H.264")
            if stream.width and stream.height:  # some containers do not say it
                check_pixels(self.path, stream.width, stream.height)
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # of frames that differ from the header
            stream.thread_type = "AUTO" if self.trusted else "SLICE"
            yield container, stream

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the readable frames in presentation order."""
        self.errors = self.skipped = 0
        with self.open() as (container, stream):
            start = (container.start_time or 0) / av.time_base
            index, broken, size = 0, False, None
            for frame in self._decode(container, stream):
                broken = frame is None or frame.is_corrupt or (broken and not frame.key_frame)
                if frame is None:
                    continue
                if broken:
                    self.errors += 1
                    continue
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    raise UserError(
                        f"{self.path} changes from {size[0]}x{size[1]} to {frame.width}x{frame.height} pixels at frame "
                        f"{index}; cut it there, or export it in one size"
                    )
                yield _video_frame(self.path, frame, index, start, stream)
                index += 1

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | None]:
        """Frames, with ``None`` in place of each packet that failed."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:  # the container itself breaks off: nothing beyond can be found
                self.errors += 1
                return
            self.skipped += packet.is_discard
            try:
                if packet.is_corrupt:  # cut short; decoding it would give half a picture
                    raise av.InvalidDataError(0, "truncated packet")
                yield from (f for f in packet.decode() if isinstance(f, VideoFrame))
            except av.FFmpegError:
                self.errors += 1
                yield None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _is_cover_art(stream: VideoStream) -> bool:
    return "attached_pic" in str(stream.disposition)


def _video_frame(path: Path, frame: VideoFrame, index: int, start: float, stream: VideoStream) -> SourceFrame:
    width, height = frame.width, frame.height
    ratio = stream.codec_context.sample_aspect_ratio or 1
    shown = (max(1, round(width * ratio)), height)
    check_pixels(path, *shown)

    def rgb() -> np.ndarray:
        picture = frame.reformat(width=shown[0], height=shown[1], format="rgb24").to_ndarray()
        return _upright(picture, _display_matrix(frame))

    def luma() -> np.ndarray:
        w, h = bounded_size(width, height)
        return frame.reformat(width=w, height=h, format="gray", interpolation="AREA").to_ndarray()

    return SourceFrame(index, None if frame.time is None else frame.time - start, rgb, luma)


def _display_matrix(frame: VideoFrame) -> np.ndarray:
    # Nine 16.16 numbers [a b u; c d v; x y w]: a pixel (x, y) is shown at (a x + c y, b x + d y). The 2x2
    # part turns and mirrors; ``frame.rotation`` would lose the mirroring of front cameras.
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return np.eye(2)
    return np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536


def _upright(picture: np.ndarray, display: np.ndarray) -> np.ndarray:
    """Apply the nearest of the eight quarter turns and mirrorings to ``[h, w, 3]``."""
    (a, b), (c, d) = display
    transposed = abs(b) > abs(a)
    if transposed:
        picture = picture.transpose(1, 0, 2)
    flip_x, flip_y = (c < 0, b < 0) if transposed else (a < 0, d < 0)
    return np.ascontiguousarray(picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1])


class ImageSource:
    """A folder of PNG or JPEG images in natural order of their names (``2.png`` before ``10.png``).

    Raises:
        UserError: No such folder, or no image in it.
    """

    def __init__(self, folder: Path):
        if not folder.is_dir():
            raise UserError(f"no such folder of images: {folder}")
        found = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
        self.paths = sorted(found, key=lambda path: natural_key(path.name))
        if not self.paths:
            raise UserError(f"{folder} holds no {', '.join(IMAGE_SUFFIXES)} file")

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the images; a damaged one raises ``UserError`` when its pixels are asked for."""
        for index, path in enumerate(self.paths):
            picture = read_picture(path, "RGB")
            facts = {"source": path.name}
            yield SourceFrame(index, None, picture, lambda picture=picture: image_luma(picture()), facts)

    def size(self) -> tuple[int, int]:
        """Upright ``(width, height)`` that all images share; every file is decoded coarsely on the way.

        Raises:
            UserError: A file is damaged, or its size differs from the most common one; it is named.
        """
        sizes = {path: _checked_size(path) for path in self.paths}
        (common, _), *others = Counter(sizes.values()).most_common()
        if others:
            odd = next(path for path in self.paths if sizes[path] != common)
            raise UserError(
                f"{odd} is {sizes[odd][0]}x{sizes[odd][1]}, most images of its folder are "
                f"{common[0]}x{common[1]}; all must have one size: remove or resize it"
            )
        return common


def natural_key(name: str) -> list[Any]:
    """Sort key under which runs of digits compare as numbers; equal numbers fall back on the text."""
    parts = re.split(r"(\d+)", name.lower())
    return [[int(p) if i % 2 else p for i, p in enumerate(parts)], name]


def _checked_size(path: Path) -> tuple[int, int]:
    with open_picture(path) as image:
        width, height = image.size
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        _decode_coarsely(image)
    return (height, width) if turned else (width, height)


def check_decodes(path: Path) -> None:
    """Decode a picture, coarsely where that is faster.

    Raises:
        UserError: It is damaged, or no PNG or JPEG of 8 bits per channel.
    """
    with open_picture(path) as image:
        _decode_coarsely(image)


def _decode_coarsely(image: Image.Image) -> None:
    image.draft("L", (64, 64))  # JPEG only: decodes coarsely, which still meets a truncated end
    image.load()


def read_picture(path: Path, mode: Literal["RGB", "RGBA"], upright: bool = True) -> Callable[[], np.ndarray]:
    """A function that gives the picture, uint8 ``[h, w, 3 or 4]``, and reads the file once, when first called.

    The function raises ``UserError`` for an unreadable image.

    Args:
        path: PNG or JPEG.
        mode: With or without alpha.
        upright: Turn it as its EXIF tag says.
    """
    cache: list[np.ndarray] = []

    def picture() -> np.ndarray:
        if not cache:
            with open_picture(path) as image:
                turned = ImageOps.exif_transpose(image) if upright else image
                cache.append(np.asarray(turned.convert(mode)))
        return cache[0]

    return picture


def image_luma(picture: np.ndarray) -> np.ndarray:
    """Luma of an uint8 RGB picture ``[height, width, 3]``, at most ``LUMA_LONG_SIDE`` long, uint8 ``[h, w]``."""
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, bounded_size(gray.shape[1], gray.shape[0]), interpolation=cv2.INTER_AREA)
