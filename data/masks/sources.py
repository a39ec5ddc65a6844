"""Stage ``mask``: bring masks into ``masks/<mask>/``, one per undistorted frame, 255 = keep.

Masks are 0 or 255, but for those that came with a capture: these keep what lies between. Whoever needs a yes or no
takes 128 and above for yes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.masks.given import given_masks
from data.masks.sheet import contact_sheet
from data.pictures import is_soft, load_picture, open_picture
from fieldbook.documents import CAPTURE, FRAMES, read_document
from fieldbook.errors import UserError, nearest
from fieldbook.files import atomic_dir, user_path
from fieldbook.layout import SceneFiles

log = logging.getLogger(__name__)

KINDS = ("folder", "truth", "alpha", "given")
Size = tuple[int, int]


def make_masks(files: SceneFiles, spec: dict[str, Any], mask: str) -> dict[str, Any]:
    """Write the masks of one source and ``contact_sheet.jpg``.

    Args:
        files: The scene's files; frames must be there.
        spec: The scene's spec; ``masks.<mask>`` says the kind: ``folder`` (with ``path``), ``truth``,
            ``alpha`` or ``given``.
        mask: Name of the source; ``none`` has no files and is not a source.

    Returns:
        ``masks``; ``mean_coverage``, the kept share in [0, 1]; ``empty``, how many keep nothing;
        ``resized_from_raw``, how many had the raw frames' size and were resized (not undistorted); and ``soft``, how
        many have values between 0 and 255.

    Raises:
        UserError: An unknown source, a mask that is missing, unreadable or of a wrong size (the file is
            named), or truth, alpha or given masks asked of a capture that has none.
    """
    if mask not in spec["masks"]:
        raise UserError(f"mask {mask!r} is not one of the scene's; {nearest(mask, spec['masks'])}")
    source = spec["masks"][mask]
    index = read_document(files.frames_index, FRAMES)
    names, size = [frame["name"] for frame in index["frames"]], (index["width"], index["height"])
    with atomic_dir(files.masks(mask)) as out:
        if source["kind"] == "truth":
            resized = _from_truth(files, out)
        elif source["kind"] == "alpha":
            resized = _from_alpha(files.frames, names, out)
        elif source["kind"] == "given":
            resized = 0
            given_masks(files, out)
        elif source["kind"] == "folder":
            resized = _from_folder(files, user_path(source["path"]), out, size)
        else:
            raise UserError(f"masks.{mask}.kind {source['kind']!r} is unknown; {nearest(source['kind'], KINDS)}")
        coverages, soft = zip(*(_coverage(out / name) for name in names), strict=True)
        contact_sheet(files.frames, out, names, out / "contact_sheet.jpg", index.get("background"))
    return {
        "masks": len(names),
        "mean_coverage": float(np.mean(coverages)),
        "empty": coverages.count(0.0),
        "resized_from_raw": resized,
        "soft": sum(soft),
    }


def _coverage(path: Path) -> tuple[float, bool]:
    """The kept share, and whether any value is neither 0 nor 255."""
    values = load_picture(path, cv2.IMREAD_GRAYSCALE)
    return float((values > 127).mean()), is_soft(values)


def _from_truth(files: SceneFiles, out: Path) -> int:
    if not read_document(files.capture, CAPTURE)["truth"]:
        raise UserError("mask kind 'truth' needs a synthetic capture; for yours give {kind: folder, path: ...}")
    from data.synthetic.truth import truth_masks

    truth_masks(files, out)
    return 0


def _from_alpha(frames: Path, names: list[str], out: Path) -> int:
    """Keep what is at least half opaque."""
    for name in names:
        picture = load_picture(frames / name, cv2.IMREAD_UNCHANGED)
        if picture.ndim != 3 or picture.shape[2] != 4:
            raise UserError(f"mask kind 'alpha': {frames / name} has no alpha channel; use {{kind: folder, path: ...}}")
        cv2.imwrite(str(out / name), np.where(picture[..., 3] >= 128, np.uint8(255), np.uint8(0)))
    return 0


def _from_folder(files: SceneFiles, folder: Path, out: Path, size: Size) -> int:
    """Copy the user's masks as 0/255 in the frames' size; returns how many were resized."""
    if not folder.is_dir():
        raise UserError(f"no such folder of masks: {folder}")
    raw = read_document(files.raw_index, FRAMES)
    sources = {frame["name"]: frame.get("source") for frame in raw["frames"]}
    candidates = _by_stem(folder)
    resized = 0
    for frame in read_document(files.frames_index, FRAMES)["frames"]:
        path = _find(candidates, folder, frame, sources.get(frame["name"]))
        keep, was_resized = _load(path, size, (raw["width"], raw["height"]))
        resized += was_resized
        cv2.imwrite(str(out / frame["name"]), keep)
    if resized:
        log.warning("%s: %d masks have the raw frames' size; resized, not undistorted", folder, resized)
    return resized


def _by_stem(folder: Path) -> dict[str, Path]:
    """PNG files under their names without suffix, so ``a.png.png`` is known as ``a.png``."""
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".png"}


def _find(candidates: dict[str, Path], folder: Path, frame: dict[str, Any], source: str | None) -> Path:
    """Mask of a frame: by its name, COLMAP's ``name.png.png``, its image's name or its bare index."""
    name = frame["name"]
    keys = [Path(name).stem, name, *([Path(source).stem, source] if source else [])]
    numbers = {int(stem): path for stem, path in candidates.items() if stem.isdecimal()}
    found = next((candidates[key] for key in keys if key in candidates), numbers.get(frame["index"]))
    if found is None:
        raise UserError(
            f"{folder / name} is missing; each frame needs a mask: {name}, {name}.png or {frame['index']}.png"
        )
    return found


def _load(path: Path, size: Size, raw_size: Size) -> tuple[np.ndarray, bool]:
    """Mask as uint8 ``[h, w]``, 0 or 255, and whether it had to be resized from the raw frames' size."""
    with open_picture(path) as image:
        values = np.asarray(image.convert("L"))
    if 0 < values.max() <= 127:
        raise UserError(f"{path} has values up to {values.max()} only; a mask keeps what is above 127: use 0 and 255")
    keep = np.where(values > 127, np.uint8(255), np.uint8(0))
    found = (keep.shape[1], keep.shape[0])
    if found == size:
        return keep, False
    if found == raw_size:
        return cv2.resize(keep, size, interpolation=cv2.INTER_NEAREST), True
    raise UserError(f"{path} is {found[0]}x{found[1]}; masks must be {size[0]}x{size[1]} like the undistorted frames")
