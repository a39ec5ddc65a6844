"""Stage ``reference``: one reconstruction of a capture from all its frames, and the frames undistorted by it."""

from __future__ import annotations

import shutil
from typing import Any

from data.colmap import RAW_CAMERA, SfmOptions
from data.sfm import SfmResult, reconstruct
from data.undistort import undistort_folder
from fieldbook.files import atomic_dir, read_json, write_json
from fieldbook.layout import SceneFiles


def make_reference(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Reconstruct from the raw frames and undistort all of them, also those without a pose, to a centred pinhole.

    Writes ``frames/``, ``frames.json`` and ``reference/``: ``poses.json`` (COLMAP's frame, the pinhole of the
    undistorted frames), ``sparse/`` and ``database.db`` (both of the raw frames).

    Args:
        files: The scene's files; ``raw/`` and ``raw.json`` exist.
        spec: The scene's keys; ``sfm`` is used.

    Returns:
        ``requested``, ``registered``, ``points``, ``models``, ``mean_reprojection_error`` (pixels), ``focal`` (pixels).

    Raises:
        Infeasible: COLMAP finds no model, or its lens cannot be undistorted.
    """
    index = read_json(files.raw_index)
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


def _numbers(result: SfmResult, requested: int) -> dict[str, Any]:
    return {
        "requested": requested,
        "registered": len(result.poses),
        "mean_reprojection_error": result.mean_reprojection_error,
    }
