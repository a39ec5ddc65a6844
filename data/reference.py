"""Stage ``reference``: one reconstruction of a capture from all its frames, and the frames undistorted by it.

A capture that knows its cameras needs no reconstruction: its poses are the reference. Its pictures are resampled to
one centred pinhole where they are not that already.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from data.colmap import RAW_CAMERA, SfmOptions
from data.colmap_model import read_model
from data.lens import given_lenses
from data.poses import GIVEN_SPACE, Camera
from data.sfm import SfmResult, reconstruct
from data.undistort import centred_pinhole, common_pinhole, kept_share, undistort_folder
from fieldbook.documents import FRAMES, read_document
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir, write_json
from fieldbook.layout import SceneFiles

log = logging.getLogger(__name__)

LITTLE = 0.9
"""Share of a picture that is left of it; less is worth a warning."""


def make_reference(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Reconstruct from the raw frames and undistort all of them, also those without a pose, to a centred pinhole.

    Writes ``frames/``, ``frames.json`` and ``reference/``: ``poses.json`` (COLMAP's frame, the pinhole of the
    undistorted frames), ``sparse/`` and ``database.db`` (both of the raw frames). Where ``raw.json`` has the poses,
    they are taken as they are, and the model in ``raw-sparse/``, if there is one; ``poses.json`` then also has
    ``world``, the similarity from the space of the poses to world units, and ``box``, where that is known.

    Args:
        files: The scene's files; ``raw/`` and ``raw.json`` exist.
        spec: The scene's keys; ``sfm`` is used.

    Returns:
        ``requested``, ``registered``, ``points``, ``models``, ``mean_reprojection_error`` (pixels; ``None`` where no
        key points are known), ``focal`` (pixels); of given poses also ``resampled`` pictures and ``smallest_kept``,
        the smallest share of a picture, by area, that its resampled one shows.

    Raises:
        Infeasible: COLMAP finds no model, or its lens cannot be undistorted.
        UserError: A raw frame or the given model is missing or damaged.
    """
    index = read_document(files.raw_index, FRAMES)
    if any("transform_matrix" in frame for frame in index["frames"]):
        return _take_given(files, index)
    names = [frame["name"] for frame in index["frames"]]
    options = SfmOptions.from_spec(spec["sfm"], camera_model=RAW_CAMERA)
    with atomic_dir(files.reference) as folder:
        result = reconstruct(files.raw, names, folder / "work", options)
        (camera,) = result.model.cameras.values()
        pinhole = centred_pinhole(camera)
        undistort_folder(files.raw, files.frames, {name: camera for name in names}, pinhole)
        sparse = folder / files.reference_sparse.name
        sparse.mkdir()
        result.model.write(sparse)
        result.database.rename(folder / files.reference_database.name)
        shutil.rmtree(folder / "work")
        numbers = _numbers(result, len(names))
        value = {
            "space": "colmap",
            "camera": pinhole.to_json(),
            "poses": {name: pose.tolist() for name, pose in result.poses.items()},
            **numbers,
            "unregistered": result.unregistered,
            "models": result.models,
            "options": result.options,
        }
        write_json(folder / files.reference_poses.name, value)
    write_json(files.frames_index, index)
    return {**numbers, "models": len(result.models), "points": result.models[0]["points"], "focal": pinhole.fx}


def _take_given(files: SceneFiles, index: dict[str, Any]) -> dict[str, Any]:
    """The capture's own cameras and poses (``raw.json``, OpenGL axes) become the reference of all its frames."""
    poses = {frame["name"]: frame["transform_matrix"] for frame in index["frames"]}
    if missing := [name for name in poses if not (files.raw / name).is_file()]:
        raise UserError(f"{files.raw / missing[0]} is missing; make the frames again with `fieldbook frames`")
    pinhole, lost = _take_pictures(files, index)
    with atomic_dir(files.reference) as folder:
        # What is seen is in a box, or where the points of a model say.
        points, error = (0, None) if "box" in index else _take_model(files, folder / files.reference_sparse.name)
        numbers = {"requested": len(poses), "registered": len(poses), "mean_reprojection_error": error}
        space = {"space": "colmap"}
        if "box" in index:
            space = {"space": GIVEN_SPACE, "box": index["box"], "ball": index.get("ball", False)}
        world = {"world": index["world"]} if "world" in index else {}
        value = {**space, **world, "camera": pinhole.to_json(), "poses": poses, **numbers, "unregistered": []}
        write_json(folder / files.reference_poses.name, value)
    frames = [{key: value for key, value in frame.items() if key != "lens"} for frame in index["frames"]]
    write_json(files.frames_index, {**index, "width": pinhole.width, "height": pinhole.height, "frames": frames})
    return {**numbers, "models": int("box" not in index), "points": points, "focal": pinhole.fx, **lost}


def _take_pictures(files: SceneFiles, index: dict[str, Any]) -> tuple[Camera, dict[str, Any]]:
    """Write ``frames/``: copies of the raw ones where one pinhole took them all, else resampled to one.

    Returns:
        The pinhole, and what the status says of the pictures.
    """
    names = [frame["name"] for frame in index["frames"]]
    if "camera" in index:
        with atomic_dir(files.frames) as folder:
            for name in names:
                shutil.copyfile(files.raw / name, folder / name)
        return Camera(**index["camera"]), {}
    lenses = given_lenses(index)
    pinhole = common_pinhole(*lenses.values())
    if pinhole is not None:
        resampled, kept = 0, 1.0
    else:
        pinhole = centred_pinhole(*lenses.values())
        resampled, kept = len(names), min(kept_share(lens, pinhole) for lens in lenses.values())
    undistort_folder(files.raw, files.frames, lenses, pinhole)
    if kept < LITTLE:
        log.warning("the pictures' cameras differ, or are off centre: %.0f %% of one is left in its frame", 100 * kept)
    return pinhole, {"resampled": resampled, "smallest_kept": kept}


def _take_model(files: SceneFiles, sparse: Path) -> tuple[int, float | None]:
    """Copy the COLMAP model that the capture came with; its number of points, and its error in pixels."""
    model = read_model(files.raw_sparse)
    shutil.copytree(files.raw_sparse, sparse)
    seen = any(point.track.length() for point in model.points3D.values())
    return model.num_points3D(), model.compute_mean_reprojection_error() if seen else None


def _numbers(result: SfmResult, requested: int) -> dict[str, Any]:
    return {
        "requested": requested,
        "registered": len(result.poses),
        "mean_reprojection_error": result.mean_reprojection_error,
    }
