"""What a dataset's ``transforms.json`` says, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fieldbook.documents import SCENE, TRANSFORMS, read_document
from fieldbook.errors import UserError, nearest
from fieldbook.files import inside
from fieldbook.layout import DatasetFiles, SceneFiles

SPLITS = ("train", "val", "test")
_FILE_KEYS = ("scene_json", "ply_file_path")


def transforms_path(data: Path) -> Path:
    """``transforms.json`` itself, from it or from its folder."""
    return data if data.suffix == ".json" else data / "transforms.json"


def read_transforms(data: Path) -> dict[str, Any]:
    """``transforms.json`` of the dataset at ``data``, checked.

    Raises:
        UserError: It is missing or damaged, or names a file outside the results folder that the dataset is in; of a
            dataset that is in none, outside its own folder.
    """
    path = transforms_path(data)
    meta, root = read_document(path, TRANSFORMS), DatasetFiles(path.parent).results
    names = [frame[key] for frame in meta["frames"] for key in ("file_path", "mask_path") if key in frame]
    for name in names + [meta[key] for key in _FILE_KEYS if key in meta]:
        inside(path.parent, name, root)
    return meta


def read_scene(data: Path) -> dict[str, Any]:
    """``scene.json`` of the dataset at ``data``.

    Raises:
        UserError: A file is missing, or ``transforms.json`` names no ``scene_json``.
    """
    return read_document(_scene_json(transforms_path(data)), SCENE)


def _scene_json(path: Path) -> Path:
    name = read_transforms(path).get("scene_json")
    if name is None:
        raise UserError(f"{path} has no 'scene_json'; make the dataset with `fieldbook dataset`")
    return path.parent / name


def scene_of(dataset: DatasetFiles) -> SceneFiles:
    """The scene that a dataset was made from; of a dataset that was copied out, ``scene.json`` may be all of it.

    Raises:
        UserError: As ``read_transforms``; or it names no ``scene_json``.
    """
    return SceneFiles(_scene_json(dataset.transforms).parent)


def scene_gives(data: Path) -> frozenset[str]:
    """What the dataset at ``data`` has for a method, of ``methods.presets.SCENE_NEEDS``: poses, and perhaps masks."""
    frames = read_transforms(data)["frames"]
    return frozenset({"poses", "masks"} if any("mask_path" in f for f in frames) else {"poses"})


def frames_of_split(meta: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """Frames of a split, in the order of its list.

    Raises:
        UserError: The split has no list, or the list names a frame that is not there.
    """
    if f"{split}_filenames" not in meta:
        raise UserError(f"transforms.json has no list {split}_filenames; {nearest(split, SPLITS)}")
    by_name = {frame["file_path"]: frame for frame in meta["frames"]}
    names = meta[f"{split}_filenames"]
    missing = [n for n in names if n not in by_name]
    if missing:
        raise UserError(f"transforms.json: {split}_filenames names frames that are not there: {', '.join(missing)}")
    return [by_name[n] for n in names]
