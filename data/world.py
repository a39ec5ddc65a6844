"""From the scene frame to the units in which something was filmed, or measured.

The truth's metres for a synthetic capture. Else ``reference/poses.json`` may have a key ``world``, the Sim(3) from the
space of its poses to world units, as a dataset with given poses in a normalised frame has one; without the key the
space of the poses is the world: COLMAP's own for a video, whose unit is arbitrary.
"""

from __future__ import annotations

import numpy as np

from data.poses import Sim3
from fieldbook.documents import CAPTURE, REFERENCE, SCENE, read_document
from fieldbook.layout import SceneFiles

IDENTITY = Sim3(1.0, np.eye(3), np.zeros(3))


def world_from_scene(files: SceneFiles) -> Sim3:
    """Map from the scene frame to world units.

    Args:
        files: Of a scene with its reference and ``scene.json``.

    Raises:
        UserError: A file is missing.
        Infeasible: Of a synthetic capture: fewer than two reference cameras agree with the truth.
    """
    if is_synthetic(files):
        from data.synthetic.truth import truth_from_scene

        return truth_from_scene(files)
    return world_from_given(files) @ given_from_scene(files)


def given_from_scene(files: SceneFiles) -> Sim3:
    """Map from the scene frame to that of the reference's poses: COLMAP's, or the one that a capture came with."""
    return Sim3.from_json(read_document(files.scene, SCENE)["scene_from_colmap"]).inverse()


def world_from_given(files: SceneFiles) -> Sim3:
    """Map from the frame of the reference's poses to world units; of a synthetic capture to metres. Raises as above."""
    if is_synthetic(files):
        from data.synthetic.truth import truth_from_colmap

        return truth_from_colmap(files)
    reference = read_document(files.reference_poses, REFERENCE)
    return Sim3.from_json(reference["world"]) if "world" in reference else IDENTITY


def is_synthetic(files: SceneFiles) -> bool:
    """Whether the capture has been made here, with its full truth."""
    return files.capture.is_file() and bool(read_document(files.capture, CAPTURE).get("truth"))
