"""Reads a Fieldbook dataset for nerfstudio: no orientation, centring or scaling, only what the files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from data.alpha import background_colour
from fieldbook.errors import UserError, nearest
from fieldbook.files import read_json

SPLITS = ("train", "val", "test")
BOX_MARGIN = 1.1  # points on the bounds themselves must not sit on the last cell of a grid


def transforms_path(data: Path) -> Path:
    """``transforms.json`` itself, from it or from its folder."""
    return data if data.suffix == ".json" else data / "transforms.json"


def read_scene(data: Path) -> dict[str, Any]:
    """``scene.json`` of the dataset at ``data``.

    Raises:
        UserError: A file is missing, or ``transforms.json`` names no ``scene_json``.
    """
    path = transforms_path(data)
    name = read_json(path).get("scene_json")
    if name is None:
        raise UserError(f"{path} has no 'scene_json'; make the dataset with `fieldbook dataset`")
    return read_json(path.parent / name)


def scene_gives(data: Path) -> frozenset[str]:
    """What the dataset at ``data`` has for a method, of ``methods.presets.SCENE_NEEDS``: poses, and perhaps masks."""
    frames = read_json(transforms_path(data))["frames"]
    return frozenset({"poses", "masks"} if any("mask_path" in f for f in frames) else {"poses"})


def scene_box(scene: dict[str, Any]) -> SceneBox:
    """Axis-aligned cube that holds the scene's bounds and its point of interest.

    A cube, because grids are cubic: on a flat box one of their axes would be resolved far more finely.

    Args:
        scene: ``scene.json``: ``bounds`` is ``[low, high]`` of ``[3]`` each, ``poi`` is ``[3]``.
    """
    corners = torch.tensor([*scene["bounds"], scene["poi"]], dtype=torch.float32)
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    half = BOX_MARGIN * (high - low).max() / 2
    centre = (low + high) / 2
    return SceneBox(aabb=torch.stack([centre - half, centre + half]))


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


def cameras_of(frames: list[dict[str, Any]]) -> Cameras:
    """Pinhole cameras of frames that carry their own ``fl_x fl_y cx cy w h``."""
    poses = np.array([f["transform_matrix"] for f in frames], dtype=np.float64).reshape(-1, 4, 4)
    numbers = {k: torch.tensor([float(f[k]) for f in frames]) for k in ("fl_x", "fl_y", "cx", "cy")}
    sizes = {k: torch.tensor([int(f[k]) for f in frames]) for k in ("w", "h")}
    return Cameras(
        camera_to_worlds=torch.from_numpy(poses[:, :3].astype(np.float32)),
        fx=numbers["fl_x"],
        fy=numbers["fl_y"],
        cx=numbers["cx"],
        cy=numbers["cy"],
        width=sizes["w"],
        height=sizes["h"],
        camera_type=CameraType.PERSPECTIVE,
    )


def _background(meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"background": torch.tensor(background_colour(meta["background"]))} if "background" in meta else {}


class FieldbookDataParser(DataParser):
    """Dataset to nerfstudio's ``DataparserOutputs``; the saved transform is the identity.

    Of a dataset whose pictures have an alpha channel, ``metadata["background"]`` is the colour behind them, float
    ``[3]`` in [0, 1]; ``alpha_color`` is the same, and nerfstudio blends, unless the config says ``keep_alpha``.
    """

    def _generate_dataparser_outputs(self, split: str = "train", **_: Any) -> DataparserOutputs:
        path = transforms_path(Path(self.config.data))
        meta, folder = read_json(path), path.parent
        frames = frames_of_split(meta, split)
        masks = [folder / f["mask_path"] for f in frames if "mask_path" in f]
        if masks and len(masks) != len(frames):
            raise UserError(f"{path}: {len(masks)} of {len(frames)} {split} frames have a mask; give all or none")
        background = _background(meta)
        return DataparserOutputs(
            alpha_color=None if getattr(self.config, "keep_alpha", False) else background.get("background"),
            image_filenames=[folder / f["file_path"] for f in frames],
            cameras=cameras_of(frames),
            scene_box=scene_box(read_scene(path)),
            mask_filenames=masks or None,
            metadata={"depth_filenames": None, **background, **self._points(meta, folder)},
        )

    def _points(self, meta: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
        if "ply_file_path" not in meta or not getattr(self.config, "load_3D_points", True):
            return {}
        import trimesh

        cloud = trimesh.load(folder / meta["ply_file_path"])
        xyz = np.asarray(cloud.vertices, dtype=np.float32)  # pyright: ignore[reportAttributeAccessIssue]
        rgb = np.asarray(cloud.colors, dtype=np.uint8)[:, :3]  # pyright: ignore[reportAttributeAccessIssue]
        if len(rgb) != len(xyz):
            raise UserError(f"{folder / meta['ply_file_path']} has {len(xyz)} points and {len(rgb)} colours")
        return {"points3D_xyz": torch.from_numpy(xyz.copy()), "points3D_rgb": torch.from_numpy(rgb.copy())}
