"""The ``scene_frame`` stage: the one world frame of a scene, from the reference's poses and sparse points.

Origin at the point of interest (POI), +z = mean camera up, median camera-POI distance = 1. +x is the
horizontal part of the mean direction from the POI to the cameras; where cameras stand all round and that is
shorter than 0.1, of the direction to the first camera. Every choice is deterministic: the frame depends on
the reference alone.

A capture that came with its poses has a world of its own, and says which box of it holds everything. Where the mean
camera up is nearer than 45 degrees to that world's +z, the scene's axes are the world's: a mean over a few cameras all
round would tilt the object by degrees, and a turned box is a larger one. Bounds, near and far are then the box's.

Symbols: ``D`` median camera-POI distance in COLMAP units; the mean view direction is the mean of the optical
axes; "colmap" stands for the frame of the reference's poses, also where that is a capture's own world.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.bounds import bounds_of_ball, bounds_of_box, bounds_of_points, near_far_of_box, near_far_of_points
from data.colmap_model import read_model
from data.point_of_interest import (
    axes_meeting,
    mean_direction,
    median_distance,
    meeting_on_plane,
    object_plane,
    slide_to_surface,
)
from data.points import write_points
from data.poses import GIVEN_SPACE, Camera, Sim3, project
from data.robust_geometry import Meeting, Plane, direction_spread_rad
from fieldbook.documents import REFERENCE, read_document
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import write_json
from fieldbook.layout import SceneFiles

log = logging.getLogger(__name__)

WORLD_UP_COSINE = np.sqrt(0.5)  # of 45 degrees: a world whose up is y, or upside down, is further off


@dataclass(frozen=True)
class Cloud:
    """Sparse points and which camera saw which.

    Attributes:
        points: ``[points, 3]`` in the COLMAP frame.
        colours: uint8 ``[points, 3]`` RGB.
        point_of: ``[observations]`` index into ``points``.
        camera_of: ``[observations]`` index into the poses.
    """

    points: np.ndarray
    colours: np.ndarray
    point_of: np.ndarray
    camera_of: np.ndarray


@dataclass(frozen=True)
class SceneFrame:
    """What ``scene.json`` holds, but for the camera; lengths in scene units.

    Attributes:
        scene_from_colmap: The similarity.
        poi_in_colmap: ``[3]``.
        axis: ``[3]`` unit, in the scene frame, towards the cameras.
        axis_source: ``plane`` or ``cameras``.
        up_source: ``cameras`` (their mean up) or ``world`` (the capture's own +z).
        near: Distance along rays in front of everything seen, positive.
        far: Distance along rays behind it.
        bounds: ``[2, 3]`` lowest and highest corner.
        bounds_source: ``box`` (the capture's own, which holds the object) or ``points`` (all that was seen, and the
            cameras).
        camera_distance_mean: Mean camera-POI distance.
        camera_height_mean: Mean height of the cameras above the POI along +z.
        uncertainty: How sure the frame is; plain numbers.
    """

    scene_from_colmap: Sim3
    poi_in_colmap: np.ndarray
    axis: np.ndarray
    axis_source: str
    up_source: str
    near: float
    far: float
    bounds: np.ndarray
    bounds_source: str
    camera_distance_mean: float
    camera_height_mean: float
    uncertainty: dict[str, float | int | None]

    def to_json(self) -> dict[str, Any]:
        """The keys of ``scene.json`` but for ``camera``."""
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}
        fixed = {"poi": [0.0, 0.0, 0.0], "up": [0.0, 0.0, 1.0], "camera_distance_median": 1.0}
        return {**plain, "scene_from_colmap": self.scene_from_colmap.to_json(), **fixed}


def scene_frame_from(
    poses: np.ndarray,
    cloud: Cloud,
    poi: np.ndarray | None = None,
    box: np.ndarray | None = None,
    ball: bool = False,
) -> SceneFrame:
    """Find the scene frame.

    Args:
        poses: ``colmap_from_camera`` ``[n, 4, 4]``, OpenGL axes, in capture order.
        cloud: Sparse points; may be empty.
        poi: ``[3]`` in the COLMAP frame; overrides the search, also where the axes do not meet.
        box: ``[2, 3]`` lowest and highest corner of what holds everything, in a capture's own world.
        ball: The largest ball in that box, a cube, holds everything.

    Raises:
        Infeasible: No POI is given and the optical axes do not meet in front of the cameras.
        UserError: The cameras look at something outside the box.
    """
    centres = poses[:, :3, 3]
    meeting = None if poi is not None else axes_meeting(poses)
    start = np.asarray(poi, float) if meeting is None else slide_to_surface(poses, cloud.points, meeting)
    plane = object_plane(centres, cloud.points, start)
    found = start if plane is None or meeting is None else meeting_on_plane(poses, meeting, plane)
    if box is not None:
        _require_inside(found, box)
    in_world = box is not None and bool(_mean_up(poses)[2] > WORLD_UP_COSINE)
    sim = _similarity(poses, found, in_world)
    axis = plane.normal if plane is not None else mean_direction(centres - found, fallback=_mean_up(poses))
    axis = sim.rotation @ (axis * (np.sign(axis @ mean_direction(centres - found, fallback=axis)) or 1.0))
    centres_in_scene, points_in_scene = sim.points(centres), sim.points(cloud.points)
    if box is None:
        near, far = near_far_of_points(centres_in_scene, points_in_scene[cloud.point_of], cloud.camera_of)
        bounds = bounds_of_points(centres_in_scene, points_in_scene)
    else:
        near, far = near_far_of_box(centres, box, sim.scale)
        bounds = bounds_of_ball(sim, box) if ball else bounds_of_box(sim, box)
    return SceneFrame(
        scene_from_colmap=sim,
        poi_in_colmap=found,
        axis=axis,
        axis_source="cameras" if plane is None else "plane",
        up_source="world" if in_world else "cameras",
        near=near,
        far=far,
        bounds=bounds,
        bounds_source="points" if box is None else "box",
        camera_distance_mean=float(np.linalg.norm(centres_in_scene, axis=1).mean()),
        camera_height_mean=float(centres_in_scene[:, 2].mean()),
        uncertainty=_uncertainty(poses, found, meeting, plane, sim.scale),
    )


def _mean_up(poses: np.ndarray) -> np.ndarray:
    return mean_direction(poses[:, :3, 1], fallback=poses[0, :3, 1])


def _require_inside(poi: np.ndarray, box: np.ndarray) -> None:
    if not ((poi >= box[0]) & (poi <= box[1])).all():
        point, low, high = ("(" + ", ".join(f"{v:.3g}" for v in corner) + ")" for corner in (poi, *box))
        raise UserError(
            f"the cameras look at {point}, outside the box from {low} to {high} that the capture's format keeps its "
            "scene in; move and scale the scene and its cameras into it"
        )


def _similarity(poses: np.ndarray, poi: np.ndarray, in_world: bool) -> Sim3:
    """Frame about the POI; with the axes of the poses' own world, or by the module's rule."""
    centres = poses[:, :3, 3]
    distance = median_distance(centres, poi)
    if distance == 0:
        raise Infeasible("the point of interest is where the cameras are", {"poi": poi.tolist()})
    if in_world:
        return Sim3(1 / distance, np.eye(3), -poi / distance)
    z = _mean_up(poses)
    rotation = np.stack([x := _heading(poses, poi, z), np.cross(z, x), z])
    return Sim3(1 / distance, rotation, -rotation @ poi / distance)


def _heading(poses: np.ndarray, poi: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The scene's +x ``[3]``, by the module's rule; for a camera overhead its right side."""
    to_cameras = poses[:, :3, 3] - poi
    mean = (to_cameras / np.maximum(np.linalg.norm(to_cameras, axis=1, keepdims=True), 1e-300)).mean(0)
    first = to_cameras[0] / max(np.linalg.norm(to_cameras[0]), 1e-300)
    level = (v - (v @ z) * z for v in (mean, first, poses[0, :3, 0], *np.eye(3)))
    chosen = next(v for v in level if np.linalg.norm(v) >= 0.1)
    return chosen / np.linalg.norm(chosen)


def _uncertainty(
    poses: np.ndarray, poi: np.ndarray, meeting: Meeting | None, plane: Plane | None, scale: float
) -> dict[str, float | int | None]:
    """Lengths in scene units; ``None`` where there is nothing to say."""
    views = -poses[:, :3, 2]
    numbers: dict[str, float | int | None] = {
        "axis_spread_deg": float(np.degrees(direction_spread_rad(views))),
        "up_agreement": float(np.linalg.norm(poses[:, :3, 1].mean(0))),
        "meeting_rms": None,
        "meeting_std": None,
        "meeting_inlier_share": None,
        "poi_shift": None,
        "plane_points": None,
        "plane_inlier_share": None,
        "plane_rms": None,
    }
    if meeting is not None:
        numbers["meeting_rms"] = meeting.rms * scale
        numbers["meeting_std"] = meeting.std * scale if np.isfinite(meeting.std) else None
        numbers["meeting_inlier_share"] = float(meeting.inliers.mean())
        numbers["poi_shift"] = float(np.linalg.norm(poi - meeting.point)) * scale
    if plane is not None:
        numbers["plane_points"] = int(plane.inliers.sum())
        numbers["plane_inlier_share"] = float(plane.inliers.mean())
        numbers["plane_rms"] = plane.rms * scale
    return numbers


NO_CLOUD = Cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_cloud(model: Path, names: list[str]) -> Cloud:
    """Read a COLMAP model's points and who saw them.

    Args:
        model: Folder with the COLMAP model.
        names: Picture names in the order of the poses; observations by others are left out.
    """
    reconstruction = read_model(model)
    index = {name: k for k, name in enumerate(names)}
    # The model is of the raw frames, whose names are those of the undistorted ones.
    camera_of_image = {i: index.get(image.name, -1) for i, image in reconstruction.images.items()}
    points = list(reconstruction.points3D.values())
    seen = [(p, camera_of_image[e.image_id]) for p, x in enumerate(points) for e in x.track.elements]
    pairs = np.array([pair for pair in seen if pair[1] >= 0], dtype=np.int64).reshape(-1, 2)
    return Cloud(
        points=np.array([p.xyz for p in points], dtype=np.float64).reshape(-1, 3),
        colours=np.array([p.color for p in points], dtype=np.uint8).reshape(-1, 3),
        point_of=pairs[:, 0],
        camera_of=pairs[:, 1],
    )


def make_scene_frame(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Write ``scene.json`` and, where there are points, ``reference/sparse.ply``.

    Args:
        files: The scene; its reference must be there.
        spec: The scene's keys; ``poi`` overrides the search.

    Returns:
        Numbers for the status: ``axis_source`` and the uncertainty.

    Raises:
        Infeasible: The optical axes do not meet and no POI is given.
        UserError: The reference's poses are missing, or the POI is in no picture or outside a given box.
    """
    reference = read_document(files.reference_poses, REFERENCE)
    names = sorted(reference["poses"])
    poses = np.array([reference["poses"][n] for n in names], dtype=np.float64).reshape(-1, 4, 4)
    if not names:
        raise Infeasible("the reference has no registered frame", {"registered": 0})
    if spec.get("poi") is not None:
        _require_seen(np.array(spec["poi"], float), Camera(**reference["camera"]), poses)
    given = reference.get("space") == GIVEN_SPACE
    cloud = NO_CLOUD if given else read_cloud(files.reference_sparse, names)
    box = np.array(reference["box"], float) if given else None
    frame = scene_frame_from(poses, cloud, spec.get("poi"), box, bool(reference.get("ball")))
    write_points(files.reference_points, frame.scene_from_colmap.points(cloud.points), cloud.colours)
    write_json(files.scene, {**frame.to_json(), "camera": reference["camera"]})
    log.info("scene frame: axis from %s, near %.3g, far %.3g", frame.axis_source, frame.near, frame.far)
    return {"axis_source": frame.axis_source, "points": len(cloud.points), **frame.uncertainty}


def _require_seen(poi: np.ndarray, camera: Camera, poses: np.ndarray) -> None:
    """A point that no picture shows is a mistyped one: everything after would be scaled by its distance."""
    for pose in poses:
        u, v, depth = project(camera, pose, poi[None])[0]
        if depth > 0 and 0 <= u <= camera.width and 0 <= v <= camera.height:
            return
    raise UserError(
        f"poi: {poi.tolist()} is in none of the {len(poses)} pictures; give a point in the frame of the reference's "
        "poses"
    )
