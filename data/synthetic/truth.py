"""Truth for what was reconstructed: the map from the scene frame to the truth frame, true views and true masks.

COLMAP's frame has its own place, turn and size; the reference cameras, aligned to the cameras that really filmed,
tell how to go from one to the other. A reference frame ``frame_00042.png`` is the video's frame 42, so the truth's
``frame_00042``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.align import align_poses
from data.poses import Camera, Sim3
from data.synthetic.render import render_depths, render_views
from fieldbook.documents import FRAMES, REFERENCE, SCENE, TRUTH, read_document
from fieldbook.files import atomic_path
from fieldbook.layout import SceneFiles


def truth_from_scene(files: SceneFiles) -> Sim3:
    """Map from the scene frame to the truth frame (metres).

    Args:
        files: Of a synthetic scene with its reference and ``scene.json``.

    Raises:
        UserError: A file is missing.
        Infeasible: Fewer than two reference cameras agree with the truth.
    """
    scene_from_colmap = Sim3.from_json(read_document(files.scene, SCENE)["scene_from_colmap"])
    return truth_from_colmap(files) @ scene_from_colmap.inverse()


def truth_from_colmap(files: SceneFiles) -> Sim3:
    """Map from the reference's COLMAP frame to the truth frame; needs no ``scene.json``. Raises as above."""
    true, reference = _true_poses(files), _poses(read_document(files.reference_poses, REFERENCE)["poses"])
    fixed = {name: true[_stem(name)] for name in reference}
    return align_poses(fixed, reference).fixed_from_moving


def render_path_truth(
    files: SceneFiles, camera: Camera, scene_from_camera: np.ndarray, out_dir: Path, names: list[str]
) -> None:
    """Render the true picture of views that nobody filmed.

    Args:
        files: Of a synthetic scene.
        camera: Of all views.
        scene_from_camera: ``[n, 4, 4]``, OpenGL axes, scene units.
        out_dir: Gets ``<name>.png`` for every view, 8-bit RGB.
        names: One per view.

    Raises:
        UserError: A file is missing.
        Infeasible: See ``truth_from_scene``.
    """
    poses = truth_from_scene(files).poses(np.asarray(scene_from_camera))
    for name, picture in zip(names, render_views(files.truth, camera, poses, 3), strict=True):
        _save(out_dir / f"{name}.png", picture)


def truth_masks(files: SceneFiles, out_dir: Path) -> None:
    """Write the subject's mask for every undistorted frame, 255 on the card or object, under the frame's own name.

    The mask is seen by the reference's camera from the frame's reference pose, so that it fits the undistorted
    picture; a frame that the reference could not register is seen from where it was really filmed.

    Args:
        files: Of a synthetic scene with its reference and undistorted frames.
        out_dir: Gets the masks.

    Raises:
        UserError: A file is missing.
        Infeasible: See ``truth_from_scene``.
    """
    reference = read_document(files.reference_poses, REFERENCE)
    to_truth, true = truth_from_colmap(files), _true_poses(files)
    aligned = {name: to_truth.poses(pose) for name, pose in _poses(reference["poses"]).items()}
    names = [frame["name"] for frame in read_document(files.frames_index, FRAMES)["frames"]]
    poses = np.stack([aligned.get(name, true[_stem(name)]) for name in names])
    views = render_depths(files.truth, Camera(**reference["camera"]), poses)
    for name, (_, mask) in zip(names, views, strict=True):
        _save(out_dir / name, mask)


def _true_poses(files: SceneFiles) -> dict[str, np.ndarray]:
    return _poses(read_document(files.truth / "scene.json", TRUTH)["truth_from_camera"])


def _poses(listed: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(pose, dtype=np.float64) for name, pose in listed.items()}


def _stem(name: str) -> str:
    return name.removesuffix(".png")


def _save(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary)
