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
from fieldbook.errors import UserError
from methods.runner.masks import take_halves
from methods.runner.planes import CAPTURE, OBJECT_BOX
from methods.runner.transforms import frames_of_split, read_scene, read_transforms, transforms_path

BOX_MARGIN = 1.1  # points on the bounds themselves must not sit on the last cell of a grid


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


def poses_of(frames: list[dict[str, Any]]) -> torch.Tensor:
    """``scene_from_camera`` of frames, ``[n, 3, 4]`` float32."""
    poses = np.array([f["transform_matrix"] for f in frames], dtype=np.float64).reshape(-1, 4, 4)
    return torch.from_numpy(poses[:, :3].astype(np.float32))


def cameras_of(frames: list[dict[str, Any]]) -> Cameras:
    """Pinhole cameras of frames that carry their own ``fl_x fl_y cx cy w h``."""
    numbers = {k: torch.tensor([float(f[k]) for f in frames]) for k in ("fl_x", "fl_y", "cx", "cy")}
    sizes = {k: torch.tensor([int(f[k]) for f in frames]) for k in ("w", "h")}
    return Cameras(
        camera_to_worlds=poses_of(frames),
        fx=numbers["fl_x"],
        fy=numbers["fl_y"],
        cx=numbers["cx"],
        cy=numbers["cy"],
        width=sizes["w"],
        height=sizes["h"],
        camera_type=CameraType.PERSPECTIVE,
    )


def _object_box(scene: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The box that the capture says holds its object, ``[2, 3]``; empty where it says nothing."""
    return {OBJECT_BOX: torch.tensor(scene["bounds"])} if scene.get("bounds_source") == "box" else {}


def _background(meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"background": torch.tensor(background_colour(meta["background"]))} if "background" in meta else {}


class FieldbookDataParser(DataParser):
    """Dataset to nerfstudio's ``DataparserOutputs``; the saved transform is the identity.

    ``metadata`` holds the poses of all the capture's frames, those of the other splits too, see ``CAPTURE``, and the
    box that a capture says holds its object, see ``OBJECT_BOX``.

    Of a dataset whose pictures have an alpha channel, ``metadata["background"]`` is the colour behind them, float
    ``[3]`` in [0, 1]; ``alpha_color`` is the same, and nerfstudio blends, unless the config says ``keep_alpha``.
    """

    def _generate_dataparser_outputs(self, split: str = "train", **_: Any) -> DataparserOutputs:
        path = transforms_path(Path(self.config.data))
        meta, folder = read_transforms(path), path.parent
        frames = frames_of_split(meta, split)
        masks = [folder / f["mask_path"] for f in frames if "mask_path" in f]
        if masks and len(masks) != len(frames):
            raise UserError(f"{path}: {len(masks)} of {len(frames)} {split} frames have a mask; give all or none")
        if masks:
            take_halves()
        scene = read_scene(path)
        known = {**_background(meta), **_object_box(scene), **self._points(meta, folder)}
        return DataparserOutputs(
            alpha_color=None if getattr(self.config, "keep_alpha", False) else known.get("background"),
            image_filenames=[folder / f["file_path"] for f in frames],
            cameras=cameras_of(frames),
            scene_box=scene_box(scene),
            mask_filenames=masks or None,
            metadata={"depth_filenames": None, CAPTURE: poses_of(meta["frames"]), **known},
        )

    def _points(self, meta: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
        if "ply_file_path" not in meta or not getattr(self.config, "load_3D_points", True):
            return {}
        from data.points import read_points

        xyz, rgb = read_points(folder / meta["ply_file_path"])
        if rgb is None:
            raise UserError(f"{folder / meta['ply_file_path']} has no colours; make the dataset again")
        return {"points3D_xyz": torch.from_numpy(xyz.astype(np.float32)), "points3D_rgb": torch.from_numpy(rgb)}
