"""The stage ``geometry``: a run's mesh against the scene's true surface, in the scene frame and in world units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from data.meshes import Mesh, read_mesh
from data.pictures import load_picture
from data.poses import Camera, Sim3
from data.world import IDENTITY, given_from_scene, is_synthetic
from eval.geometry import POINTS, Comparison, Side, compare
from eval.geometry_columns import AVAILABLE, fscore_columns
from eval.regions import CUBE, Region, region_of
from eval.sampling import sample
from eval.visibility import MaskView, dilated, inside_masks, seen_by
from fieldbook.documents import MESH, REFERENCE, SCENE, read_document
from fieldbook.errors import UserError
from fieldbook.files import user_path, write_json
from fieldbook.layout import DatasetFiles, RunFiles, SceneFiles
from methods.runner.transforms import scene_of
from methods.runner.views import training_views

NO_MASK = "none"
ALL_VIEWS = "all"
_SYNTHETIC = {"path": None, "space": "world", "part": "all", "region": CUBE}


def compare_run(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Compare a run's ``mesh.ply`` with the true surface and write ``geometry.json``.

    Args:
        run: With its mesh.
        dataset: That it was trained on.
        spec: The study's key ``geometry``, and the scene's key ``surface`` (null where it has none).

    Returns:
        Numbers for the status; ``geometry`` says ``available``, or why there is nothing to compare with.

    Raises:
        UserError: A file is missing or damaged, or a key makes no sense here.
    """
    options, surface = spec["geometry"], spec["surface"] or _SYNTHETIC
    info, scene = read_document(run.mesh_info, MESH), scene_of(dataset)
    world_from_scene = Sim3.from_json(info["world_from_scene"])
    predicted = read_mesh(run.mesh).moved(world_from_scene.inverse())
    if (true := _truth(scene, surface, world_from_scene)) is None:
        numbers: dict[str, Any] = {
            "geometry": "the scene has no true surface to compare with: its key surface names none"
        }
        write_json(run.geometry, numbers | {"settings": spec})
        return numbers
    own = _space_from_scene(scene, surface["space"], world_from_scene)
    region = region_of(surface["region"], own, np.array(info["aabb_scene"]))
    sides, left = _sides(predicted, true, region, scene, dataset, options)
    unit = _unit(options["threshold_unit"], left["diagonal"], world_from_scene.scale)
    thresholds = tuple(unit * t for t in options["thresholds"])
    most = options["max_distance"]
    found = compare(*sides, thresholds, None if most is None else most / world_from_scene.scale)
    numbers = _numbers(found, options["thresholds"], world_from_scene.scale if info["space"] == "world" else None)
    details = {
        "fscores": [asdict(f) for f in found.fscores],
        "truth": left,
        "world_from_scene": info["world_from_scene"],
    }
    write_json(run.geometry, numbers | details | {"settings": spec})
    return numbers


def _truth(scene: SceneFiles, surface: dict[str, Any], world_from_scene: Sim3) -> Mesh | None:
    """The true surface in the scene frame, where there is one."""
    if surface["path"] is not None:
        path, space = user_path(surface["path"]), surface["space"]
    elif is_synthetic(scene):
        path, space = scene.truth_object if surface["part"] == "object" else scene.truth_mesh, "world"
    else:
        return None
    return read_mesh(path).moved(_space_from_scene(scene, space, world_from_scene).inverse())


def _space_from_scene(scene: SceneFiles, space: str, world_from_scene: Sim3) -> Sim3:
    if space == "given":
        return given_from_scene(scene)
    return world_from_scene if space == "world" else IDENTITY


def _sides(
    predicted: Mesh,
    true: Mesh,
    region: Region | None,
    scene: SceneFiles,
    dataset: DatasetFiles,
    options: dict[str, Any],
) -> tuple[tuple[Side, Side], dict[str, Any]]:
    """Both sides with the points that are to be measured, and what became of the others."""
    samples = [
        sample(mesh, options["points"], [options["seed"], k], region) for k, mesh in enumerate((predicted, true))
    ]
    distance = options["distance"]
    sides = [Side.of(mesh, found, distance) for mesh, found in zip((predicted, true), samples, strict=True)]
    points = samples[1].points
    kept: dict[str, Any] = {
        "kind": POINTS if true.is_points else "triangles",
        "diagonal": float(np.linalg.norm(np.ptp(points, axis=0))) if len(points) else 0.0,
        "in_region": [len(found.points) for found in samples],
    }
    if options["mask"] != NO_MASK:
        fewest = None if options["mask_views"] == ALL_VIEWS else options["mask_views"]
        for k, side in enumerate(sides):
            views = _mask_views(scene, options["mask"], options["mask_dilate"])
            sides[k] = side.where(inside_masks(side.sample.points, views, fewest))
        kept["in_masks"] = [len(side.sample.points) for side in sides]
    if options["visible"]:
        cameras = [(view.camera, view.pose) for view in training_views(dataset)]
        sides[1] = sides[1].where(seen_by(sides[1].sample.points, cameras, true.vertices[true.faces]))
        kept |= {"visible": len(sides[1].sample.points), "occlusion": not true.is_points}
    return (sides[0], sides[1]), kept


def _mask_views(scene: SceneFiles, mask: str, dilate: int) -> Iterator[MaskView]:
    """The frames that the reference has a pose for, with their masks; the same whatever a run was trained on."""
    reference, to_scene = read_document(scene.reference_poses, REFERENCE), read_document(scene.scene, SCENE)
    sim, camera = Sim3.from_json(to_scene["scene_from_colmap"]), Camera(**reference["camera"])
    for name, pose in reference["poses"].items():
        path = scene.masks(mask) / name
        if not path.is_file():
            raise UserError(f"{path} is missing; make the masks with `fieldbook mask {scene.root} {mask}`")
        keep = load_picture(path, cv2.IMREAD_GRAYSCALE) > 127
        own = camera.scaled(keep.shape[1], keep.shape[0])
        yield MaskView(own, sim.poses(np.array(pose, dtype=np.float64)), dilated(keep, dilate))


def _unit(name: str, diagonal: float, world_per_scene: float) -> float:
    """A threshold's unit in scene units."""
    return {"diagonal": diagonal, "scene": 1.0, "world": 1 / world_per_scene}[name]


def _numbers(found: Comparison, thresholds: list[float], world_per_scene: float | None) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "geometry": AVAILABLE if found.true_points else "the true surface has nothing in the region"
    }
    numbers |= {f"{name}_scene": value for name, value in found.lengths().items()}
    if world_per_scene is not None:
        numbers |= {f"{name}_world": value for name, value in found.lengths(world_per_scene).items()}
    for names, score in zip(fscore_columns(thresholds), found.fscores, strict=False):
        numbers |= dict(zip(names, (score.fscore, score.precision, score.recall), strict=True))
    return numbers | found.ratios()
