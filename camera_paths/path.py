"""The ``path`` stage: a spec and a scene become camera files and, for a synthetic capture, true images."""

from __future__ import annotations

from typing import Any

import numpy as np

from camera_paths.cones import UP, cone, cone_distance
from camera_paths.formats import CameraPath, view_names, write_camera_path, write_trajectory
from camera_paths.orbits import orbit, spherical
from camera_paths.spec import check_on_sphere, check_path_spec
from camera_paths.spiral import spiral
from data.images import scaled_size
from data.poses import Camera
from fieldbook.documents import CAPTURE, SCENE, read_document
from fieldbook.files import atomic_dir
from fieldbook.layout import PathFiles, SceneFiles


def build_path(spec: dict[str, Any], scene: dict[str, Any]) -> np.ndarray:
    """Poses of a path.

    Args:
        spec: As ``camera_paths.spec.check_path_spec`` returns it.
        scene: ``scene.json``; ``axis`` is used, and the cameras' mean distance and height by ``spherical``.

    Returns:
        ``scene_from_camera`` ``[views, 4, 4]``, OpenGL axes, all looking at the POI, the origin.

    Raises:
        UserError: A spherical path whose height, given or the scene's, exceeds its distance.
    """
    axis = np.asarray(scene["axis"], dtype=np.float64)
    return {"cone": _cone, "orbit": _orbit, "spherical": _spherical, "spiral": _spiral}[spec["kind"]](spec, axis, scene)


def _cone(spec: dict[str, Any], axis: np.ndarray, scene: dict[str, Any]) -> np.ndarray:
    angle_rad = np.radians(spec["angle"])
    distance = cone_distance(angle_rad, spec["height"], spec["distance"])
    return cone(axis, angle_rad, distance, spec["views"], spec["roll"])


def _orbit(spec: dict[str, Any], axis: np.ndarray, scene: dict[str, Any]) -> np.ndarray:
    pole = UP if spec["about"] == "up" else axis
    elevation_rad, start_rad = np.radians([spec["elevation"], spec["start"]])
    return orbit(pole, spec["distance"], elevation_rad, spec["views"], spec["turns"], start_rad)


def _spherical(spec: dict[str, Any], axis: np.ndarray, scene: dict[str, Any]) -> np.ndarray:
    distance = scene["camera_distance_mean"] if spec["distance"] is None else spec["distance"]
    height = scene["camera_height_mean"] if spec["height"] is None else spec["height"]
    check_on_sphere("spherical path", height, distance)
    return spherical(distance, height, spec["views"])


def _spiral(spec: dict[str, Any], axis: np.ndarray, scene: dict[str, Any]) -> np.ndarray:
    radii = (spec["radius"], spec["depth"])
    return spiral(axis, spec["distance"], radii, spec["turns"], spec["depth_rate"], spec["views"])


def path_camera(reference: Camera, long_side: int) -> Camera:
    """The camera a path is rendered with: the reference's vertical field of view, square pixels, centred.

    Scaling to whole pixels can leave fx and fy up to half a pixel's share apart; camera-path files know one
    focal length, and novel views are bound to no picture, so fx takes fy's value.

    Args:
        reference: Of the undistorted frames.
        long_side: Pixels of the longer side; 0 keeps the reference's size.
    """
    width, height = reference.width, reference.height
    if long_side:
        width, height = scaled_size(width, height, long_side)
    focal = reference.scaled(width, height).fy
    return Camera(width, height, focal, focal, width / 2, height / 2)


def make_path(scene: SceneFiles, out: PathFiles, spec: dict[str, Any], long_side: int) -> dict[str, Any]:
    """Write ``camera_path.json`` and ``trajectory.json``, and the true images where the capture has a truth.

    Args:
        scene: Must hold ``scene.json`` and ``capture.json``.
        out: The path's folder; its name is the path's name.
        spec: The path's keys.
        long_side: Of the rendered pictures, in pixels; 0 is the reference's size.

    Returns:
        Numbers for the status: views, width, height, and whether truth was rendered.

    Raises:
        UserError: The spec is wrong, or a scene file is missing.
    """
    spec = check_path_spec(out.root.name, spec)
    frame = read_document(scene.scene, SCENE)
    poses, camera = build_path(spec, frame), path_camera(Camera(**frame["camera"]), long_side)
    has_truth = bool(read_document(scene.capture, CAPTURE)["truth"])
    if has_truth:
        # Only a synthetic capture pays for the renderer's import.
        from data.synthetic.truth import render_path_truth

        with atomic_dir(out.truth) as folder:
            render_path_truth(scene, camera, poses, folder, view_names(len(poses)))
    views = CameraPath.uniform(poses, camera, spec["fps"])
    write_camera_path(out.camera_path, views)
    write_trajectory(out.trajectory, views)
    return {"views": len(poses), "width": camera.width, "height": camera.height, "truth": int(has_truth)}
