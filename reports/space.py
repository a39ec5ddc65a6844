"""The scene in 3-D: cameras, novel-view paths, sparse points, point of interest and axis."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from camera_paths.formats import read_camera_path
from data.points import read_points
from data.poses import Camera, Sim3
from fieldbook.documents import REFERENCE, SCENE, SPLITS
from fieldbook.layout import PathFiles, SceneFiles
from reports.figures import COLOURS, Figure
from reports.records import read_optional

MAX_POINTS = 3000
# Drawn size of a camera in scene units: the median camera is 1 away from the point of interest.
FRUSTUM = 0.06
# Points much farther out than the cameras (walls, sky, errors) would shrink everything else to a dot.
FAR_FACTOR = 2.0


def scene_figure(scene: SceneFiles, paths: Iterable[tuple[str, PathFiles]]) -> Figure | None:
    """Draw a scene.

    Args:
        scene: Its files; what is not there yet is left out.
        paths: Names and files of the study's novel-view paths.

    Returns:
        A figure, or None before the scene frame is known.
    """
    frame, poses = read_optional(scene.scene, SCENE), read_optional(scene.reference_poses, REFERENCE)
    if not frame or not poses:
        return None
    cameras = _cameras_in_scene(frame, poses)
    aspect = _aspect(Camera(**poses["camera"]))
    split = read_optional(scene.splits, SPLITS)
    test = [cameras[n] for n in split.get("test", []) if n in cameras]
    pool = [cameras[n] for n in split.get("pool", cameras) if n in cameras]
    reach = FAR_FACTOR * max((float(np.linalg.norm(c[:3, 3])) for c in cameras.values()), default=1.0)
    data = [
        *_points(scene.reference_points, reach),
        _frusta("training cameras (pool)", pool, aspect, COLOURS[0]),
        _frusta("test cameras", test, aspect, COLOURS[1]),
    ]
    for index, (name, files) in enumerate(paths):
        data += _path(name, files, COLOURS[(2 + index) % len(COLOURS)])
    return {"data": data + _poi_and_axis(frame), "layout": _layout()}


def _cameras_in_scene(frame: dict[str, Any], poses: dict[str, Any]) -> dict[str, np.ndarray]:
    scene_from_colmap = Sim3.from_json(frame["scene_from_colmap"])
    return {name: scene_from_colmap.poses(np.array(pose)) for name, pose in poses["poses"].items()}


def _aspect(camera: Camera) -> np.ndarray:
    """Half width and half height of the picture at unit distance, ``[2]``."""
    return np.array([camera.width / camera.fx, camera.height / camera.fy]) / 2


def frustum_lines(scene_from_camera: np.ndarray, half: np.ndarray, size: float = FRUSTUM) -> np.ndarray:
    """Corner points of one camera's pyramid, as one line without lifting the pen.

    Args:
        scene_from_camera: ``[4, 4]``, OpenGL axes.
        half: Half width and half height of the picture at unit distance, ``[2]``.
        size: Distance from the centre to the drawn picture plane, in scene units.

    Returns:
        ``[12, 3]`` points in the scene frame; the last is NaN, where the pen is lifted.
    """
    x, y = half * size
    corners = np.array([[-x, y, -size], [x, y, -size], [x, -y, -size], [-x, -y, -size]])
    centre = np.zeros(3)
    line = np.stack([centre, *corners[[0, 1]], centre, *corners[[2, 3]], centre, *corners[[0, 3]], corners[2]])
    line = np.concatenate([line, corners[[1]]])
    world = line @ scene_from_camera[:3, :3].T + scene_from_camera[:3, 3]
    return np.concatenate([world, np.full((1, 3), np.nan)])


def _columns(points: np.ndarray) -> dict[str, list[float | None]]:
    """Plotly's x, y, z of points ``[n, 3]``; a NaN becomes the null that parts a line."""
    rounded = np.round(points, 4)
    return {axis: [None if np.isnan(v) else float(v) for v in rounded[:, i]] for i, axis in enumerate("xyz")}


def _frusta(name: str, poses: list[np.ndarray], half: np.ndarray, colour: str) -> dict[str, Any]:
    lines = [frustum_lines(pose, half) for pose in poses]
    style = {"type": "scatter3d", "mode": "lines", "line": {"color": colour, "width": 2}, "hoverinfo": "name"}
    return style | {"name": escape(f"{name}: {len(poses)}")} | _columns(np.concatenate([np.empty((0, 3)), *lines]))


def _path(name: str, files: PathFiles, colour: str) -> list[dict[str, Any]]:
    """Frusta of a novel-view path and the line through its camera centres."""
    if not files.camera_path.exists():
        return []
    views = read_camera_path(files.camera_path)
    poses = list(views.poses)
    half = _aspect(views.cameras[0])
    group = {"legendgroup": f"path {name}"}
    centres = {
        "type": "scatter3d",
        "mode": "lines",
        "showlegend": False,
        "hoverinfo": "skip",
        "line": {"color": colour, "width": 1},
    }
    ring = centres | group | _columns(np.stack([p[:3, 3] for p in poses]))
    return [_frusta(f"novel views {name}", poses, half, colour) | group, ring]


def _points(path: Path, reach: float) -> list[dict[str, Any]]:
    """At most ``MAX_POINTS`` sparse points within ``reach`` of the point of interest."""
    if not path.exists():
        return []
    vertices, colours = read_points(path)
    if colours is None:
        colours = np.full((len(vertices), 3), 128, np.uint8)
    near = np.flatnonzero(np.linalg.norm(vertices, axis=1) <= reach)
    if len(near) > MAX_POINTS:
        near = np.sort(np.random.default_rng(0).choice(near, MAX_POINTS, replace=False))
    marker = {
        "size": 1.8,
        "color": ["#{:02x}{:02x}{:02x}".format(*(int(v) for v in c)) for c in colours[near]],
    }
    name = f"sparse points: {len(near)} of {len(vertices)}"
    style = {"type": "scatter3d", "mode": "markers", "marker": marker, "hoverinfo": "skip", "name": name}
    return [style | _columns(vertices[near])]


def _poi_and_axis(frame: dict[str, Any]) -> list[dict[str, Any]]:
    poi = np.array(frame.get("poi", [0.0, 0.0, 0.0]), dtype=float)
    axis = poi + 0.7 * np.array(frame["axis"], dtype=float)
    dot = {"type": "scatter3d", "mode": "markers", "name": "point of interest", "hoverinfo": "name"}
    line = {"type": "scatter3d", "mode": "lines", "name": "axis of the cones", "hoverinfo": "name"}
    return [
        dot | {"marker": {"size": 5, "color": "#e60026", "symbol": "diamond"}} | _columns(poi[None]),
        line | {"line": {"color": "#e60026", "width": 4}} | _columns(np.stack([poi, axis])),
    ]


def _layout() -> dict[str, Any]:
    axes = {f"{a}axis": {"title": {"text": f"{a} (scene units)"}, "showbackground": False} for a in "xyz"}
    eye = {"x": 1.4, "y": -1.4, "z": 0.9}
    return {
        "height": 620,
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "legend": {"x": 0, "y": 1, "itemsizing": "constant"},
        "scene": {"aspectmode": "data", "camera": {"eye": eye}, **axes},
    }
