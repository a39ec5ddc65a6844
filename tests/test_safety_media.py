"""Videos, pictures and masks that are not what their names say: refused in one line, or read as what they are."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from data.masks.sources import make_masks
from data.pictures import load_picture, picture_size
from data.readers import VideoSource
from data.video import extract, ingest
from fieldbook.files import read_json, write_json
from fieldbook.layout import SceneFiles

from .safety_harness import read_or_refused, refused

SIZE = (32, 24)  # width, height
RNG = np.random.default_rng(0)


def noise(width: int = SIZE[0], height: int = SIZE[1]) -> np.ndarray:
    return RNG.integers(0, 255, (height, width, 3), np.uint8)


def film(path: Path, count: int = 6, size: tuple[int, int] = SIZE, **options: Any) -> Path:
    with av.open(str(path), "w", **options) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"g": "2"})
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for _ in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(*size), "rgb24")))
        container.mux(stream.encode())
    return path


def sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def of_two_sizes(path: Path) -> None:
    """Two MPEG transport streams end to end, as broken recorders leave them."""
    parts = [film(path.with_name(f"{w}.ts"), 6, (w, 24)).read_bytes() for w in (32, 64)]
    path.write_bytes(b"".join(parts))


def without_data(path: Path) -> None:
    content = bytearray(film(path).read_bytes())
    begin, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[begin:end] = bytes(end - begin)
    path.write_bytes(content)


def of_unknown_form(path: Path) -> None:
    path.write_bytes(film(path).read_bytes().replace(b"avc1", b"zzz1"))


def wide_pixels(path: Path) -> None:
    """A sample aspect ratio of 300:1 makes a picture of 300 000 columns."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        (stream.width, stream.height), stream.pix_fmt = (1024, 1024), "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(300, 1)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((1024, 1024, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())


def playlist(text: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        film(path.with_name("other.mp4"))
        path.write_text(text, encoding="utf-8")

    return write


def cut(share: float) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        content = film(path).read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return write


VIDEOS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (Path.touch, "no readable video"),
    "one byte": (lambda p: p.write_bytes(b"\0"), "no readable video"),
    "random bytes": (lambda p: p.write_bytes(RNG.bytes(20_000)), "no readable video"),
    "text": (lambda p: p.write_text("hello\n" * 300), "no readable video"),
    "cut in its header": (cut(0.02), "no readable video"),
    "cut before its index": (cut(0.6), "no readable video"),
    "index without data": (without_data, "no readable frame"),
    "unknown form of pictures": (of_unknown_form, "unknown form"),
    "sound alone": (sound, "no video stream"),
    "a picture": (lambda p: Image.fromarray(noise()).save(p, "PNG"), "no readable video"),
    "concat list of other files": (playlist("ffconcat version 1.0\nfile other.mp4\n"), "no readable video"),
    "concat list of a secret": (playlist("ffconcat version 1.0\nfile /etc/passwd\n"), "no readable video"),
    "playlist of other files": (playlist("#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n"), "no readable video"),
    "playlist of an address": (playlist("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"), "no readable video"),
    "stream description": (playlist("v=0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"), "no readable video"),
    "size that changes": (of_two_sizes, "changes from 32x24 to 64x24"),
    "columns by the million": (wide_pixels, "pixels"),
    "a folder": (Path.mkdir, "is a folder"),
    "a pipe": (os.mkfifo, "no such video file"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "no such video file"),
    "missing": (lambda p: None, "no such video file"),
}


def scene_in(tmp_path: Path) -> SceneFiles:
    (tmp_path / "scene").mkdir()
    return SceneFiles(tmp_path / "scene")


def spec(kind: str, path: Path, count: Any = "all") -> dict[str, Any]:
    return {"capture": {"kind": kind, "path": str(path)}, "frames": {"count": count, "pick": "even"}}


@pytest.mark.parametrize(("make", "word"), VIDEOS.values(), ids=VIDEOS)
def test_what_is_no_video_is_refused_before_anything_is_written(tmp_path: Path, make: Callable[[Path], Any], word: str):
    path = tmp_path / "film.mp4"
    make(path)
    assert word in refused(lambda: ingest(scene_in(tmp_path), spec("video", path)), tmp_path)


def captured(tmp_path: Path, kind: str, path: Path) -> tuple[int, int, int]:
    """How many frames were read, and how large."""
    files = scene_in(tmp_path)
    assert read_or_refused(lambda: [stage(files, spec(kind, path)) for stage in (ingest, extract)])
    index = read_json(files.raw_index)
    return len(index["frames"]), index["width"], index["height"]


def test_a_video_of_one_frame_is_read(tmp_path: Path):
    assert captured(tmp_path, "video", film(tmp_path / "film.mp4", 1)) == (1, *SIZE)


def test_a_video_with_tags_in_no_encoding_is_read(tmp_path: Path):
    path = film(tmp_path / "film.mkv")
    content = path.read_bytes()
    for old, new in ((b"Lavf", b"\xff\xfe\xe9\x80"), (b"00:00:00.", b"nobody's ")):  # who wrote it, and for how long
        assert old in content
        content = content.replace(old, new)
    path.write_bytes(content)
    assert captured(tmp_path, "video", path) == (6, *SIZE)


def test_a_video_whose_name_looks_like_a_protocol_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a.mp4").rename("concat:b.mp4")
    assert len(list(VideoSource(Path("concat:b.mp4")))) == 6


@pytest.mark.parametrize("seed", range(12))
def test_a_video_with_flipped_bytes_is_read_in_part_or_refused(tmp_path: Path, seed: int):
    content = bytearray(film(tmp_path / "film.mp4", 4, options={"movflags": "faststart"}).read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(0, len(content), 8):
        content[at] = random.integers(256)
    (tmp_path / "film.mp4").write_bytes(content)
    files = scene_in(tmp_path)
    read_or_refused(lambda: [stage(files, spec("video", tmp_path / "film.mp4")) for stage in (ingest, extract)])
    assert files.raw.exists() == files.raw_index.exists()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"", **chunks: bytes) -> bytes:
    """A PNG put together by hand."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def saved(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Path], Any]:
    return lambda path: Image.fromarray(noise()).convert(mode).save(path, kind, **options)


def truncated(kind: str) -> Callable[[Path], Any]:
    def write(path: Path) -> None:
        Image.fromarray(noise(96, 96)).save(path, kind)
        path.write_bytes(path.read_bytes()[:-700])

    return write


def flipped(path: Path) -> None:
    Image.fromarray(noise()).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(np.full((24, 32), 40_000, np.uint16)).save(path, "PNG")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\n(pwned) (w) file closefile\nshowpage\n"
PICTURES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (Path.touch, "not a readable image"),
    "random bytes": (lambda p: p.write_bytes(RNG.bytes(3000)), "not a readable image"),
    "text": (lambda p: p.write_text("hello"), "not a readable image"),
    "header alone": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "not a readable image"),
    "cut png": (truncated("PNG"), "not a readable image"),
    "cut jpeg": (truncated("JPEG"), "not a readable image"),
    "one bit flipped": (flipped, "not a readable image"),
    "gif": (saved("GIF", "P"), "PNG or JPEG"),
    "tiff": (saved("TIFF"), "PNG or JPEG"),
    "bmp": (saved("BMP"), "PNG or JPEG"),
    "postscript, which starts a program": (lambda p: p.write_bytes(POSTSCRIPT), "PNG or JPEG"),
    "16 bits": (sixteen_bits, "more than 8 bits"),
    "a bomb": (lambda p: p.write_bytes(png(30_000, 30_000)), "pixels"),
    "a small bomb": (lambda p: p.write_bytes(png(13_000, 13_000)), "pixels"),
    "beyond every size": (lambda p: p.write_bytes(png(2**31 - 1, 2**31 - 1)), "pixels"),
    "no pixels": (lambda p: p.write_bytes(png(0, 0)), "a.png"),
    "a text of megabytes": (
        lambda p: p.write_bytes(png(32, 24, zTXt=b"Comment\0\0" + zlib.compress(b"a" * (64 << 20)))),
        "not a readable image",
    ),
    "a folder": (Path.mkdir, "not a file"),
    "a pipe": (os.mkfifo, "not a file"),
    "a device": (lambda p: p.symlink_to("/dev/zero"), "not a file"),
    "a link to nothing": (lambda p: p.symlink_to("none.png"), "missing"),
}


@pytest.mark.parametrize(("make", "word"), PICTURES.values(), ids=PICTURES)
def test_what_is_no_picture_is_refused_in_a_capture_in_a_mask_and_in_results(
    tmp_path: Path, make: Callable[[Path], Any], word: str
):
    folder, files = tmp_path / "pictures", scene_in(tmp_path)
    folder.mkdir()
    make(folder / "a.png")
    assert word in refused(lambda: ingest(files, spec("images", folder)), tmp_path)
    write_json(files.raw_index, {"width": 32, "height": 24, "frames": [{"name": "a.png", "index": 0}]})
    write_json(files.frames_index, read_json(files.raw_index))
    masks = {"masks": {"m": {"kind": "folder", "path": str(folder)}}}
    assert "a.png" in refused(lambda: make_masks(files, masks, "m"), tmp_path)
    if word != "more than 8 bits":  # renders have 16
        assert "a.png" in refused(lambda: load_picture(folder / "a.png", -1), tmp_path)


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(24, 32)).save(path, "JPEG", exif=exif)


READ: dict[str, Callable[[Path], Any]] = {
    "palette": saved("PNG", "P"),
    "grey": saved("PNG", "L"),
    "one bit": saved("PNG", "1"),
    "with alpha": saved("PNG", "RGBA"),
    "cmyk": saved("JPEG", "CMYK"),
    "a jpeg called png": saved("JPEG"),
    "turned by its exif": turned,
    "broken exif": saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 20),
    "16 bits of colour": lambda path: path.write_bytes(png(32, 24, depth=16, data=b"\0" * (24 * (32 * 6 + 1)))),
}


@pytest.mark.parametrize("make", READ.values(), ids=READ)
def test_unusual_pictures_are_read_upright_in_colour(tmp_path: Path, make: Callable[[Path], Any]):
    folder = tmp_path / "pictures"
    folder.mkdir()
    make(folder / "a.png")
    assert captured(tmp_path, "images", folder) == (1, *SIZE)


def test_only_the_header_is_needed_for_a_size(tmp_path: Path):
    truncated("PNG")(tmp_path / "a.png")
    assert picture_size(tmp_path / "a.png") == (96, 96)


@pytest.mark.parametrize("seed", range(3))
def test_pictures_with_flipped_bytes_are_read_or_refused(tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)
    path = tmp_path / "a.png"
    for kind in ("PNG", "JPEG"):
        Image.fromarray(noise()).save(path, kind)
        whole = path.read_bytes()
        for _ in range(25):
            content = bytearray(whole)
            for at in random.integers(0, len(whole), 3):
                content[at] = random.integers(256)
            path.write_bytes(content)
            read_or_refused(lambda: load_picture(path, 1))
