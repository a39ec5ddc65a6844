"""Stages ``capture`` and ``frames``: what the user filmed, and the frames that are taken from it."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.posed import POSED_KINDS, check_frame_keys
from data.posed_source import GivenSource, PosedSource, posed_source
from data.readers import ImageSource, SourceFrame, VideoSource
from fieldbook.documents import CAPTURE, read_document
from fieldbook.errors import FieldbookError, UserError, nearest
from fieldbook.files import atomic_dir, remove, sha256_file, user_path, write_json
from fieldbook.layout import SceneFiles

log = logging.getLogger(__name__)

KINDS = ("synthetic", "video", "images", *POSED_KINDS)


def ingest(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Stage ``capture``: probe the source by decoding it and write ``capture.json``.

    Args:
        files: The scene's files.
        spec: The scene's spec; a ``synthetic`` capture is made first.

    Returns:
        ``frame_count`` (readable), ``expected_frame_count`` and ``lost_frames``: what a truncated or damaged
        video should have had, by its own header, and lacks. Of a capture that came with poses also ``left_out``:
        pictures that are there and have none.

    Raises:
        UserError: The source is missing, unreadable, not what ``capture.kind`` says, or has no frame.
    """
    capture = spec["capture"]
    if capture["kind"] == "synthetic":
        from data.synthetic.capture import make_capture

        make_capture(files, capture)
    path = _source_path(files, capture)
    found = {"kind": capture["kind"], "source": str(path), **_probe(path, capture)}
    if capture["kind"] == "synthetic":
        found["source"] = files.source_video.name  # relative to capture.json: results can be moved
    write_json(files.capture, {**found, "truth": capture["kind"] == "synthetic"})
    if found["lost_frames"]:
        log.warning("%s: %d of %d frames lost", path, found["lost_frames"], found["expected_frame_count"])
    numbers = ("frame_count", "expected_frame_count", "lost_frames", "left_out")
    return {key: found[key] for key in numbers if key in found}


def _source_path(files: SceneFiles, capture: dict[str, Any]) -> Path:
    if capture["kind"] not in KINDS:
        raise UserError(f"capture.kind {capture['kind']!r} is unknown; {nearest(capture['kind'], KINDS)}")
    return files.source_video if capture["kind"] == "synthetic" else user_path(capture["path"])


def _probe(path: Path, capture: dict[str, Any]) -> dict[str, Any]:
    if capture["kind"] == "images":
        return _probe_images(path)
    if capture["kind"] in POSED_KINDS:
        return _probe_posed(posed_source(path, capture))
    return _probe_video(path)


def _probe_posed(source: PosedSource) -> dict[str, Any]:
    count = len(source.paths)
    if isinstance(source, GivenSource) and source.left_out:
        log.warning("%d pictures have no pose and are left out", source.left_out)
    found = _capture(source.sha256(), source.size(), None, count, count)
    return found | {"background": source.background, "left_out": source.left_out}


def _probe_images(path: Path) -> dict[str, Any]:
    source = ImageSource(path)
    width, height = source.size()
    digest = hashlib.sha256()
    for image in source.paths:
        digest.update(f"{image.name} {sha256_file(image)}\n".encode())
    count = len(source.paths)
    return _capture(digest.hexdigest(), (width, height), None, count, count)


def _probe_video(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise UserError(f"{path} is a folder; use capture kind 'images' for a folder of images")
    source = VideoSource(path, trusted=True)
    first, times = _walk(source)
    if source.errors:
        source = VideoSource(path)
        first, times = _walk(source)
    if first is None:
        raise UserError(f"{path} has no readable frame; copy it again or export it anew")
    height, width = first.rgb().shape[:2]
    expected = max(_nominal_count(source, times), len(times))
    return _capture(sha256_file(path), (width, height), _rate(times), len(times), expected)


def _capture(sha256: str, size: tuple[int, int], fps: float | None, count: int, expected: int) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "width": size[0],
        "height": size[1],
        "fps": fps,
        "frame_count": count,
        "expected_frame_count": expected,
        "lost_frames": expected - count,
    }


def _walk(source: Iterable[SourceFrame]) -> tuple[SourceFrame | None, list[float | None]]:
    first, times = None, []
    for frame in source:
        first = first or frame
        times.append(frame.time_s)
    return first, times


def _known(times: list[float | None]) -> list[float]:
    return [t for t in times if t is not None]


def _rate(times: list[float | None]) -> float | None:
    """Mean frames per second between the first and the last time stamp."""
    known = _known(times)
    return (len(known) - 1) / (known[-1] - known[0]) if len(known) > 1 and known[-1] > known[0] else None


def _nominal_count(source: VideoSource, times: list[float | None]) -> int:
    """Frames that the container's header promises, or the readable ones where it promises nothing usable."""
    with source.open() as (container, stream):
        if "mp4" in container.format.name and stream.frames:  # a sample table counts exactly
            return stream.frames - source.skipped
        seconds = [float(stream.duration * (stream.time_base or 0))] if stream.duration else []
        if stream.frames and stream.average_rate:
            seconds.append(float(stream.frames / stream.average_rate))
        if "DURATION" in stream.metadata:  # Matroska
            seconds += _clock_seconds(stream.metadata["DURATION"])
    known, rate = _known(times), _rate(times)
    if not seconds or rate is None:
        return len(times) + source.errors
    tail = max(seconds) - known[-1]
    # The last frame may be shown for long: only a silence longer than any pause within the film is a loss.
    cut_short = tail > np.diff(known).max() + 0.5 / rate
    return len(times) + max(source.errors, round(tail * rate) - 1 if cut_short else 0)


def _clock_seconds(text: str) -> list[float]:
    """The seconds of a clock like ``00:01:02.5``; none of a tag that is something else."""
    found = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d(?:\.\d+)?)", text.strip())
    return [3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])] if found else []


def extract(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Stage ``frames``: write exactly ``frames.count`` frames to ``raw/`` and their index to ``raw.json``.

    ``sharpest`` cuts the source in ``count`` equal windows and takes the frame of each with the largest
    variance of the Laplacian of luma (Pech-Pacheco et al. 2000), the earliest on a tie; ``even`` takes
    evenly spaced frames with the first and the last. Rotation metadata is applied; times are the
    container's, whatever its frame rate does. A capture that came with poses gives all its frames, each with its own
    path and pose in the index (and its split or its lens), and what holds for all: see ``index_facts`` of its source.
    The COLMAP model of one that has it goes to ``raw-sparse/``.

    Returns:
        ``frames`` and ``source_frames``.

    Raises:
        UserError: More frames asked for than the source has, or the source has changed since ``capture``.
    """
    capture = read_document(files.capture, CAPTURE)
    total = capture["frame_count"]
    count = _frame_count(spec["frames"]["count"], total)
    path = _source_path(files, spec["capture"])
    changed = UserError(f"{path} is no longer what capture.json says; restore it or delete {files.root}")
    if capture["kind"] in POSED_KINDS:
        check_frame_keys("frames", capture["kind"], spec["frames"])
        source = posed_source(path, spec["capture"])
        if source.sha256() != capture["sha256"]:  # poses could change without a change of size or number
            raise changed
        return _extract_posed(files, source, (capture["width"], capture["height"]))
    elif capture["kind"] == "images":
        source = ImageSource(path)
    else:
        source = VideoSource(path, trusted=not capture["lost_frames"])
    size = (capture["width"], capture["height"])
    with atomic_dir(files.raw) as folder:
        picks = _picks(source, spec["frames"]["pick"], count, total)
        entries = []
        for frame in _picked(source, picks):
            if frame.rgb().shape[1::-1] != size:
                raise changed
            entries.append(_write(frame, folder))
        if len(entries) != count:
            raise changed
    write_json(files.raw_index, {"width": size[0], "height": size[1], "frames": entries})
    return {"frames": count, "source_frames": total}


def _extract_posed(files: SceneFiles, source: PosedSource, size: tuple[int, int]) -> dict[str, Any]:
    with atomic_dir(files.raw) as folder:
        entries = [_write(frame, folder) for frame in source]
    remove(files.raw_sparse)
    if isinstance(source, GivenSource) and source.content.sparse is not None:
        with atomic_dir(files.raw_sparse) as folder:
            source.write_sparse(folder, [entry["name"] for entry in entries])
    facts = {"width": size[0], "height": size[1], **source.index_facts(size)}
    write_json(files.raw_index, {**facts, "frames": entries})
    return {"frames": len(entries), "source_frames": len(entries)}


def _picks(source: Iterable[SourceFrame], pick: str, count: int, total: int) -> list[int]:
    if pick == "even" or count == total:
        return even_picks(total, count)
    values = [sharpness(frame.luma()) for frame in source]
    return sharpest_picks(values, count) if len(values) == total else []


def _frame_count(asked: int | str, total: int) -> int:
    if asked == "all":
        return total
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise UserError(f"frames.count is {asked!r}; give a whole number from 1 to {total}, or all")
    if asked > total:
        raise UserError(f"frames.count is {asked}, but the capture has {total} readable frames; lower it or use all")
    return asked


def even_picks(total: int, count: int) -> list[int]:
    """``count`` evenly spaced indices of ``range(total)``, first and last included (count 1: the first)."""
    last = max(count - 1, 1)
    return [(2 * i * (total - 1) + last) // (2 * last) for i in range(count)]


def sharpest_picks(sharpnesses: list[float], count: int) -> list[int]:
    """Index of the largest value in each of ``count`` equal windows, the earliest on a tie."""
    total = len(sharpnesses)
    edges = [j * total // count for j in range(count + 1)]
    return [max(range(a, b), key=sharpnesses.__getitem__) for a, b in pairwise(edges)]


def sharpness(luma: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of luma uint8 ``[h, w]``; larger is sharper, 0 is flat."""
    return float(cv2.Laplacian(luma, cv2.CV_64F).var())


def _picked(source: Iterable[SourceFrame], picks: list[int]) -> Iterator[SourceFrame]:
    wanted = set(picks)
    for frame in source:
        if frame.index in wanted:
            yield frame
            wanted.remove(frame.index)
        if not wanted:
            return


def _write(frame: SourceFrame, folder: Path) -> dict[str, Any]:
    """Write the picture losslessly and describe it."""
    name, picture, luma = f"frame_{frame.index:05d}.png", frame.rgb(), frame.luma()
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(folder / name), bgr):
        raise FieldbookError(f"could not write {folder / name}; is the disk full?")
    return {
        "name": name,
        "index": frame.index,
        "time_s": frame.time_s,
        "sharpness": sharpness(luma),
        "exposure": float(luma.mean()) / 255,
        **frame.facts,
    }
