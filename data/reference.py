"""Stage ``reference``: one reconstruction of a capture from all its frames, and the frames undistorted by it.

A capture that knows its cameras needs neither: its poses are the reference, and its pinhole distorts nothing.
"""

from __future__ import annotations

import shutil
from typing import Any

from data.colmap import RAW_CAMERA, SfmOptions
from data.poses import GIVEN_SPACE
from data.sfm import SfmResult, reconstruct
from data.undistort import undistort_folder
from fieldbook.documents import FRAMES, read_document
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir, write_json
from fieldbook.layout import SceneFiles


def make_reference(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Reconstruct from the raw frames and undistort all of them, also those without a pose, to a centred pinhole.

    Writes ``frames/``, ``frames.json`` and ``reference/``: ``poses.json`` (COLMAP's frame, the pinhole of the
    undistorted frames), ``sparse/`` and ``database.db`` (both of the raw frames). Where ``raw.json`` has the camera and
    the poses, they and the raw frames are taken as they are.

    Args:
        files: The scene's files; ``raw/`` and ``raw.json`` exist.
        spec: The scene's keys; ``sfm`` is used.

    Returns:
        ``requested``, ``registered``, ``points``, ``models``, ``mean_reprojection_error`` (pixels; ``None`` for given
        poses), ``focal`` (pixels).

    Raises:
        Infeasible: COLMAP finds no model, or its lens cannot be undistorted.
    """
    index = read_document(files.raw_index, FRAMES)
    if "camera" in index:
        return _take_given(files, index)
    names = [frame["name"] for frame in index["frames"]]
    options = SfmOptions.from_spec(spec["sfm"], camera_model=RAW_CAMERA)
    with atomic_dir(files.reference) as folder:
        result = reconstruct(files.raw, names, folder / "work", options)
        (camera,) = result.model.cameras.values()
        pinhole = undistort_folder(files.raw, files.frames, names, camera)
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
    """The capture's own camera and poses (``raw.json``, world's OpenGL axes) become the reference of all its frames."""
    poses = {frame["name"]: frame["transform_matrix"] for frame in index["frames"]}
    numbers = {"requested": len(poses), "registered": len(poses), "mean_reprojection_error": None}
    given = {"space": GIVEN_SPACE, "camera": index["camera"], "box": index["box"], "poses": poses}
    if missing := [name for name in poses if not (files.raw / name).is_file()]:
        raise UserError(f"{files.raw / missing[0]} is missing; make the frames again with `fieldbook frames`")
    with atomic_dir(files.frames) as folder:
        for name in poses:
            shutil.copyfile(files.raw / name, folder / name)
    with atomic_dir(files.reference) as folder:
        write_json(folder / files.reference_poses.name, {**given, **numbers, "unregistered": []})
    write_json(files.frames_index, index)
    return {**numbers, "models": 0, "points": 0, "focal": index["camera"]["fx"]}


def _numbers(result: SfmResult, requested: int) -> dict[str, Any]:
    return {
        "requested": requested,
        "registered": len(result.poses),
        "mean_reprojection_error": result.mean_reprojection_error,
    }
