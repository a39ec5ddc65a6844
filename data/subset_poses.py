"""Stage ``poses``: cameras and points of one subset, in the scene frame, under one of two policies.

``reference`` takes the cameras from the reconstruction of all frames, so that only the method is studied; its points
are triangulated again from the subset's own frames. ``subset`` lets COLMAP see the subset alone, with a focal length
of its own, and brings the result into the scene frame by a similarity: what a capture of this size would give.

Poses that came with the capture in a box of its own were reconstructed from no frames, so there is only the policy
``reference``, and no points. Where they came with a COLMAP model, its tracks stand for features and matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

import numpy as np

from data import colmap
from data.align import Alignment, OutlierRule, align_poses
from data.colmap import CENTRED_PINHOLE, SfmOptions
from data.points import write_points
from data.poses import GIVEN_SPACE, Camera, Sim3
from data.sfm import SfmResult, reconstruct
from data.subsets import frame_number, gap_ratio, subset
from data.tracks import triangulate_tracks
from data.triangulate import triangulate_subset
from fieldbook.documents import REFERENCE, SCENE, SPLITS, read_document
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import write_json
from fieldbook.layout import PoseFiles, SceneFiles

MIN_SHARE = 0.5  # of the frames asked for that must be left


@dataclass(frozen=True)
class PoseRequest:
    """Which poses.

    Attributes:
        count: ``6``, ``all``, ``50pct``: a count's label.
        draw: Which subset of that size, ``subset_draw``.
        policy: ``reference`` or ``subset``.
        mapper: COLMAP's mapper; matters to ``subset`` only.
        sfm_mask: Masks for features, or ``none``; for ``subset`` only.
        sfm_seed: Seed of COLMAP.
    """

    count: str
    draw: int = 0
    policy: Literal["reference", "subset"] = "reference"
    mapper: Literal["incremental", "global", "hierarchical"] = "incremental"
    sfm_mask: str = "none"
    sfm_seed: int = 0


@dataclass(frozen=True)
class _Found:
    """What either policy comes to: cameras and points in the scene frame."""

    camera: Camera
    poses: dict[str, np.ndarray]
    points: np.ndarray
    colours: np.ndarray
    unregistered: list[str]
    alignment: Alignment | None
    extra: dict[str, Any]


def make_poses(files: SceneFiles, pose_files: PoseFiles, spec: dict[str, Any], request: PoseRequest) -> dict[str, Any]:
    """Write ``poses.json`` and, if any point was found, ``points.ply`` of one subset.

    Args:
        files: The scene's files, ``scene.json`` and ``splits.json`` included.
        pose_files: Where to write.
        spec: The scene's keys; ``sfm`` is used.
        request: Which subset, and how.

    Returns:
        ``requested``, ``registered``, ``trained`` (registered and not an outlier), ``points``, ``focal_ratio`` (own
        focal length over the reference's), ``gap_ratio`` (largest over smallest step between the numbers of
        trained frames), and for ``subset`` the median residuals of the alignment.

    Raises:
        Infeasible: The pool is too small, COLMAP finds no model or less than half of the frames, the model does
            not fit the reference within ``sfm.max_rotation_residual_deg`` and ``sfm.max_centre_residual``, or
            ``subset`` is asked of a capture whose poses are given.
        UserError: A file of the scene is missing or damaged, or two of them disagree.
    """
    splits = read_document(files.splits, SPLITS)
    scene, reference = read_document(files.scene, SCENE), read_document(files.reference_poses, REFERENCE)
    names = subset(splits, request.count, request.draw)
    scene_from_colmap = Sim3.from_json(scene["scene_from_colmap"])
    cameras = {n: scene_from_colmap.poses(np.array(p)) for n, p in reference["poses"].items()}
    if unknown := [n for n in names if n not in cameras]:
        raise UserError(f"{files.splits} lists {unknown[0]}, which the reference has no pose for; make it again")
    options = SfmOptions.from_spec(spec["sfm"], seed=request.sfm_seed)
    pose_files.root.mkdir(parents=True, exist_ok=True)
    camera = Camera(**reference["camera"])
    if reference.get("space") == GIVEN_SPACE:
        found = _as_given(names, cameras, camera, request.policy)
    elif request.policy == "reference" and "world" in reference:
        found = _from_tracks(files, names, cameras, camera, scene_from_colmap)
    elif request.policy == "reference":
        found = _from_reference(files, pose_files, names, cameras, camera, scene_from_colmap, options)
    else:
        found = _from_subset(files, pose_files, names, cameras, spec["sfm"], request)
    return _write(pose_files, request, names, found, reference["camera"]["fx"])


def _as_given(names: Sequence[str], cameras: dict[str, np.ndarray], camera: Camera, policy: str) -> _Found:
    if policy == "subset":
        raise Infeasible(
            "the capture came with its poses, so there is nothing to reconstruct from a subset of its frames; "
            "only the pose policy reference is possible",
            {"requested": len(names)},
        )
    no_points, no_colours = np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    return _Found(camera, {n: cameras[n] for n in names}, no_points, no_colours, [], None, {})


def _from_reference(
    files: SceneFiles,
    pose_files: PoseFiles,
    names: Sequence[str],
    cameras: dict[str, np.ndarray],
    camera: Camera,
    scene_from_colmap: Sim3,
    options: SfmOptions,
) -> _Found:
    points, colours = triangulate_subset(
        files.reference_sparse, files.reference_database, files.raw, names, pose_files.sfm, options
    )
    poses = {n: cameras[n] for n in names}
    extra = {"options": colmap.option_values(options, colmap.triangulation(options))}
    return _Found(camera, poses, scene_from_colmap.points(points), colours, [], None, extra)


def _from_tracks(
    files: SceneFiles, names: Sequence[str], cameras: dict[str, np.ndarray], camera: Camera, scene_from_colmap: Sim3
) -> _Found:
    points, colours = triangulate_tracks(files.reference_sparse, files.raw, names)
    return _Found(camera, {n: cameras[n] for n in names}, scene_from_colmap.points(points), colours, [], None, {})


def _from_subset(
    files: SceneFiles,
    pose_files: PoseFiles,
    names: Sequence[str],
    cameras: dict[str, np.ndarray],
    sfm: dict[str, Any],
    request: PoseRequest,
) -> _Found:
    options = SfmOptions.from_spec(sfm, mapper=request.mapper, seed=request.sfm_seed, camera_model=CENTRED_PINHOLE)
    masks = None if request.sfm_mask == "none" else files.masks(request.sfm_mask)
    result = reconstruct(files.frames, names, pose_files.sfm, options, masks)
    registered = {"registered": len(result.poses), "unregistered": result.unregistered}
    _require(len(result.poses), len(names), "COLMAP registered", registered)
    alignment = align_poses(cameras, result.poses, unit=1.0, rule=_rule(sfm))
    _require(len(alignment.kept), len(names), "the reference agrees with", registered | alignment.summary())
    scene_from_model = alignment.fixed_from_moving
    points, colours = colmap.model_points(result.model)
    return _Found(
        _own_camera(result),
        {n: scene_from_model.poses(result.poses[n]) for n in names if n in alignment.kept},
        scene_from_model.points(points),
        colours,
        result.unregistered,
        alignment,
        {"options": result.options, "models": result.models},
    )


def _rule(sfm: dict[str, Any]) -> OutlierRule:
    """Cameras within half the limits always stay: poses that are a bit off are what a small capture gives."""
    rotation_deg, centre = sfm["max_rotation_residual_deg"], sfm["max_centre_residual"]
    return OutlierRule(rotation_deg / 2, centre / 2, rotation_limit_deg=rotation_deg, centre_limit=centre)


def _require(left: int, requested: int, what: str, numbers: dict[str, Any]) -> None:
    needed = max(2, ceil(MIN_SHARE * requested))
    if left < needed:
        reason = f"{what} {left} of {requested} frames, fewer than {needed}"
        raise Infeasible(reason, {"requested": requested, "left": left, "needed": needed, **numbers})


def _own_camera(result: SfmResult) -> Camera:
    (camera,) = result.model.cameras.values()
    focal, cx, cy = camera.params.tolist()
    return Camera(camera.width, camera.height, focal, focal, cx, cy)


def _write(
    pose_files: PoseFiles,
    request: PoseRequest,
    names: Sequence[str],
    found: _Found,
    reference_focal: float,
) -> dict[str, Any]:
    numbers = {
        "requested": len(names),
        "registered": len(names) - len(found.unregistered),
        "focal_ratio": found.camera.fx / reference_focal,
        "gap_ratio": gap_ratio(frame_number(n) for n in found.poses),
    }
    value = {
        "space": "scene",
        "camera": found.camera.to_json(),
        "poses": {name: pose.tolist() for name, pose in found.poses.items()},
        **numbers,
        "unregistered": found.unregistered,
        **asdict(request),
        "alignment": found.alignment and found.alignment.summary(),
        **found.extra,
    }
    write_points(pose_files.points, found.points, found.colours)
    write_json(pose_files.poses, value)
    medians = {}
    if found.alignment:
        summary = found.alignment.summary()
        medians = {key: summary[key] for key in ("rotation_median_deg", "centre_median")}
    return {**numbers, "trained": len(found.poses), "points": len(found.points), **medians}
