"""What is rendered, and between which planes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from camera_paths.formats import CameraPath, view_names
from data.poses import Camera
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles
from methods.runner.dataparser import frames_of_split


@dataclass(frozen=True)
class View:
    """A picture to render.

    Attributes:
        name: File name without its ending.
        camera: Pinhole.
        pose: ``scene_from_camera`` ``[4, 4]`` (OpenGL).
        novel: Not one of the capture's cameras, whose distances gave ``scene.json`` its near and far.
    """

    name: str
    camera: Camera
    pose: np.ndarray
    novel: bool


def held_out_views(dataset: DatasetFiles) -> list[View]:
    """Cameras of the test list, named after their frames."""
    return [_view_of_frame(f) for f in frames_of_split(read_json(dataset.transforms), "test")]


def _view_of_frame(frame: dict[str, Any]) -> View:
    camera = Camera(frame["w"], frame["h"], frame["fl_x"], frame["fl_y"], frame["cx"], frame["cy"])
    return View(Path(frame["file_path"]).stem, camera, np.array(frame["transform_matrix"], dtype=np.float64), False)


def path_views(path: CameraPath) -> list[View]:
    """Views of a camera path, ``view_000`` and so on."""
    names = view_names(len(path.poses))
    return [View(n, c, p, True) for n, c, p in zip(names, path.cameras, path.poses, strict=True)]


class Planes:
    """The near and far planes between which a model samples rays, moved with a novel view's distance.

    Args:
        model: nerfstudio model; its collider or its config may hold ``near_plane`` and ``far_plane``. Models that
            intersect rays with the scene's box, or rasterise, have no such planes and are left alone.
    """

    def __init__(self, model: Any):
        collider: Any = getattr(model, "collider", None)
        candidates: tuple[Any, ...] = (collider, model.config)
        holders = [h for h in candidates if hasattr(h, "near_plane") and hasattr(h, "far_plane")]
        self._trained = [(h, float(h.near_plane), float(h.far_plane)) for h in holders]
        # nerfstudio's collider drops the near plane to 0 outside training, where no ray was ever supervised: what
        # floats there would be rendered. Keep the plane the run was trained with.
        if hasattr(collider, "reset_near_plane"):
            collider.reset_near_plane = False

    def follow(self, view: View) -> None:
        """Set the planes for a view: those of training, for a novel view such that the object stays between them.

        The scene's unit is the median distance of the capture's cameras from the point of interest, the origin: a
        novel view that is closer takes the near plane with it, one that is further away pushes the far plane back.
        """
        distance = float(np.linalg.norm(view.pose[:3, 3])) if view.novel else 1.0
        for holder, near, far in self._trained:
            holder.near_plane = near * min(1.0, distance)
            holder.far_plane = far + max(0.0, distance - 1.0)
