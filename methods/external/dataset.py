"""The dataset folder that an external method gets: the training frames of a run, and no test frame.

One folder in three forms: ``transforms.json`` (nerfstudio), ``images`` and ``sparse/0`` (COLMAP), and three small files
that make nerfbaselines read the latter.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.alpha import blend_uint8
from data.colmap_text import write_model
from data.pictures import open_picture
from data.points import read_points
from data.poses import Camera
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir, write_json, write_text
from fieldbook.layout import DatasetFiles
from methods.runner.transforms import frames_of_split, read_transforms

_CAMERA_KEYS = ("transform_matrix", "fl_x", "fl_y", "cx", "cy", "w", "h")


def write_dataset(dataset: DatasetFiles, out: Path) -> None:
    """Write the folder, whole or not at all; an old one is replaced.

    Pictures and masks are linked where the file system can do that. Where pictures have an alpha channel they are
    written anew, blended over the dataset's background: renders are scored against that.

    Args:
        dataset: What the run trains on.
        out: The folder.

    Raises:
        UserError: ``transforms.json`` is missing or damaged.
    """
    meta, root = read_transforms(dataset.transforms), dataset.transforms.parent
    with atomic_dir(out) as folder:
        frames = [_frame(frame, root, folder, meta.get("background")) for frame in frames_of_split(meta, "train")]
        names = [frame["file_path"] for frame in frames]
        # nerfstudio wants three lists if it gets one, and splits by its own rules if it gets none.
        value: dict[str, Any] = {"camera_model": "PINHOLE", "frames": frames, "scene_json": "scene.json"}
        value |= {f"{split}_filenames": names for split in ("train", "val", "test")}
        if "ply_file_path" in meta:
            shutil.copyfile(root / meta["ply_file_path"], folder / "points.ply")
            value["ply_file_path"] = "points.ply"
        if "scene_json" in meta:
            shutil.copyfile(root / meta["scene_json"], folder / "scene.json")
        write_json(folder / "transforms.json", value)
        _write_colmap(folder, frames)
        _write_nerfbaselines(folder, [Path(name).name for name in names])


@contextmanager
def unchanged(out: Path, command: str) -> Iterator[None]:
    """Check that pictures and masks are the same after the block: they are the scene's own files, for all its runs.

    Raises:
        UserError: Names the first that is not.
    """
    before = _stamps(out)
    yield
    after = _stamps(out)
    changed = [name for name, stamp in before.items() if after.get(name, stamp) != stamp]
    if changed:
        raise UserError(
            f"{command} changed {changed[0]} of its dataset, which is a link to the scene's own picture; let it write "
            "to its model folder only, and make the scene anew"
        )


def _stamps(out: Path) -> dict[str, tuple[int, int]]:
    files = (path for folder in ("images", "masks") for path in sorted((out / folder).glob("*")))
    return {path.relative_to(out).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def _frame(frame: dict[str, Any], root: Path, folder: Path, background: str | None) -> dict[str, Any]:
    """A frame of ``transforms.json``, its picture and its mask put into ``folder``."""
    name = Path(frame["file_path"]).name
    value = {"file_path": f"images/{name}", **{key: frame[key] for key in _CAMERA_KEYS}}
    _place_picture(root / frame["file_path"], folder / value["file_path"], background)
    if "mask_path" in frame:
        value["mask_path"] = f"masks/{Path(name).stem}.png"
        _link(root / frame["mask_path"], folder / value["mask_path"])
    return value


def _place_picture(source: Path, target: Path, background: str | None) -> None:
    with open_picture(source) as picture:
        if background is None or "A" not in picture.getbands():
            _link(source, target)
            return
        seen = blend_uint8(np.asarray(picture.convert("RGBA")), background)
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(seen).save(target)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _write_colmap(folder: Path, frames: list[dict[str, Any]]) -> None:
    points, colours = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    if (folder / "points.ply").is_file():
        points, found = read_points(folder / "points.ply")
        colours = np.full(points.shape, 128, np.uint8) if found is None else found
    views = {Path(f["file_path"]).name: (_camera(f), np.array(f["transform_matrix"])) for f in frames}
    write_model(folder / "sparse" / "0", views, points, colours)


def _camera(frame: dict[str, Any]) -> Camera:
    return Camera(frame["w"], frame["h"], frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"])


def _write_nerfbaselines(folder: Path, names: list[str]) -> None:
    # Without a loader it finds two and takes neither; without lists it holds every eighth frame out.
    write_json(folder / "nb-info.json", {"loader": "colmap"})
    for split in ("train", "test"):
        write_text(folder / f"{split}_list.txt", "".join(f"{name}\n" for name in names))
