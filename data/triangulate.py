"""Points that a subset's own frames see, with the cameras held where the reference put them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from data import colmap
from data.colmap import SfmOptions
from data.colmap_model import read_model


def triangulate_subset(
    sparse: Path, database: Path, image_dir: Path, names: Sequence[str], work_dir: Path, options: SfmOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate from the features of the named frames alone; poses and intrinsics stay fixed.

    The subset's own pairs are matched where the reference had no reason to (its frames may be far apart in the
    video); matches with other frames are left out, so no other frame takes part in any track. Tracks of two frames
    are kept, which COLMAP's mapper drops: its poses are estimates, these are given.

    Args:
        sparse: COLMAP model of all frames; all named ones are registered in it.
        database: Its features and matches; not changed.
        image_dir: The pictures of the model, for colours.
        names: The subset in capture order; fewer than two see no point.
        work_dir: Emptied first, and removed afterwards.
        options: Matching and seed.

    Returns:
        Points ``[n, 3]`` in the model's frame and their colours ``[n, 3]`` uint8, the mean over the subset's frames.
    """
    if len(names) < 2:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    own_database = work_dir / "database.db"
    shutil.copyfile(database, own_database)
    colmap.match(own_database, names, options, work_dir)
    mapper = colmap.triangulation(options)
    mapper.image_names = list(names)
    model = pycolmap.triangulate_points(
        _only(read_model(sparse), names), own_database, image_dir, work_dir, True, mapper
    )
    shutil.rmtree(work_dir)
    return colmap.model_points(model)


def _only(model: pycolmap.Reconstruction, names: Sequence[str]) -> pycolmap.Reconstruction:
    """A model of the named images' cameras alone, without points."""
    out = pycolmap.Reconstruction()
    for camera in model.cameras.values():
        out.add_camera_with_trivial_rig(camera)
    for image in model.images.values():
        if image.name in names:
            bare = pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id)
            out.add_image_with_trivial_frame(bare, image.cam_from_world())
    return out
