"""The ``dataset`` stage: frames, poses and masks become a nerfstudio dataset with explicit splits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data.pictures import picture_size
from data.poses import Camera, Sim3
from fieldbook.documents import FRAMES, POSES, REFERENCE, SCENE, SPLITS, read_document
from fieldbook.errors import UserError
from fieldbook.files import atomic_path, write_json
from fieldbook.layout import DatasetFiles, PoseFiles, SceneFiles

NO_MASK = "none"


def make_dataset(scene: SceneFiles, poses: PoseFiles, out: DatasetFiles, long_side: int, mask: str) -> dict[str, Any]:
    """Write ``transforms.json`` in nerfstudio's format and copy the subset's points beside it.

    Training frames have the subset's poses and camera, test frames the reference's, all in the scene frame.
    Pictures and masks stay where they are, shared by all datasets, and are named by paths relative to the
    dataset. Where pictures have an alpha channel, ``background`` names what they are to be seen before.

    Args:
        scene: Holds ``scene.json``, ``splits.json``, the reference, the pictures and their index.
        poses: The subset's poses; their names are the training frames.
        out: The dataset's folder.
        long_side: Which scaled pictures to use; 0 is the frames' own size.
        mask: Which masks to name; ``none`` for none.

    Returns:
        Numbers for the status: training and test frames, width, height, points.

    Raises:
        UserError: A picture or mask is missing, or a frame is in both splits.
    """
    frame, subset, reference = (
        read_document(scene.scene, SCENE),
        read_document(poses.poses, POSES),
        read_document(scene.reference_poses, REFERENCE),
    )
    train, test = subset["poses"], _test_poses(scene, frame, reference)
    _check_disjoint(train, test)
    entry = _frame_writer(scene, out.root, long_side, mask)
    train_camera, test_camera = Camera(**subset["camera"]), Camera(**frame["camera"])
    train_frames = [entry(name, np.array(train[name]), train_camera) for name in sorted(train)]
    test_frames = [entry(name, test[name], test_camera) for name in sorted(test)]
    value: dict[str, Any] = {
        "camera_model": "OPENCV",
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),  # the pictures are undistorted
        "frames": sorted(train_frames + test_frames, key=lambda f: f["file_path"]),
        "train_filenames": [f["file_path"] for f in train_frames],
        "val_filenames": [f["file_path"] for f in test_frames],
        "test_filenames": [f["file_path"] for f in test_frames],
        "scene_json": _relative(scene.scene, out.root),
    }
    if background := read_document(scene.frames_index, FRAMES).get("background"):
        value["background"] = background
    has_points = _copy_points(poses.points, out.points)
    if has_points:
        value["ply_file_path"] = out.points.name
    write_json(out.transforms, value)
    size = {k: train_frames[0][k] for k in ("w", "h")} if train_frames else {}
    return {"train": len(train_frames), "test": len(test_frames), **size, "has_points": int(has_points)}


def _test_poses(scene: SceneFiles, frame: dict[str, Any], reference: dict[str, Any]) -> dict[str, np.ndarray]:
    """Poses ``[4, 4]`` of the test frames in the scene frame; always the reference's."""
    scene_from_colmap = Sim3.from_json(frame["scene_from_colmap"])
    names = read_document(scene.splits, SPLITS)["test"]
    if unknown := [n for n in names if n not in reference["poses"]]:
        raise UserError(f"{scene.splits} lists {unknown[0]}, which the reference has no pose for; make it again")
    return {n: scene_from_colmap.poses(np.array(reference["poses"][n], dtype=np.float64)) for n in names}


def _check_disjoint(train: dict[str, Any], test: dict[str, Any]) -> None:
    if both := sorted(set(train) & set(test)):
        raise UserError(f"{len(both)} frames are both training and test, {both[0]} first; make splits and poses again")


def _frame_writer(
    scene: SceneFiles, root: Path, long_side: int, mask: str
) -> Callable[[str, np.ndarray, Camera], dict[str, Any]]:
    images = scene.images(long_side)

    def entry(name: str, pose: np.ndarray, camera: Camera) -> dict[str, Any]:
        picture = images / name
        scaled = camera.scaled(*picture_size(_existing(picture, "picture")))
        value = {
            "file_path": _relative(picture, root),
            "transform_matrix": pose.tolist(),
            "fl_x": scaled.fx,
            "fl_y": scaled.fy,
            "cx": scaled.cx,
            "cy": scaled.cy,
            "w": scaled.width,
            "h": scaled.height,
        }
        if mask != NO_MASK:
            value["mask_path"] = _relative(_existing(scene.scaled_masks(mask, long_side) / name, "mask"), root)
        return value

    return entry


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise UserError(f"no such {what}: {path}; make the scene's {what}s of this size first")
    return path


def _relative(path: Path, root: Path) -> str:
    # Both sides absolute, links kept: neither a relative results folder nor a link in its path matters.
    return Path(os.path.relpath(path.absolute(), root.absolute())).as_posix()


def _copy_points(source: Path, target: Path) -> bool:
    target.unlink(missing_ok=True)  # of an earlier try with other poses
    if not source.is_file():
        return False
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return True
