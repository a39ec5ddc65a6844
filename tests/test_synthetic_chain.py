"""The default capture through COLMAP: every frame registered, the frame where the card is, poses that are true."""

import json

import numpy as np
import pytest

from data.align import align_poses
from data.poses import Sim3, angle_between_rad

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(make_scene, tmp_path_factory):
    return make_scene(tmp_path_factory.mktemp("synthetic"), "card", {"capture": {"kind": "synthetic"}})


@pytest.fixture(scope="module")
def truth(files):
    return json.loads((files.truth / "scene.json").read_text())


@pytest.fixture(scope="module")
def reference(files):
    return json.loads(files.reference_poses.read_text())


def test_colmap_registers_every_frame(reference):
    assert (reference["registered"], reference["requested"]) == (60, 60)
    assert reference["mean_reprojection_error"] < 0.6


def true_and_found(truth, reference):
    found = {name.removesuffix(".png"): np.array(pose) for name, pose in reference["poses"].items()}
    true = {name: np.array(truth["truth_from_camera"][name]) for name in found}
    return true, found


def test_the_poses_are_the_true_ones_up_to_a_similarity(truth, reference):
    alignment = align_poses(*true_and_found(truth, reference))
    assert alignment.outliers == []
    assert max(alignment.rotation_residuals_deg.values()) < 0.2
    assert max(alignment.centre_residuals.values()) < 0.01
    assert reference["camera"]["fx"] == pytest.approx(truth["camera"]["fx"], rel=0.005)


def test_poi_and_axis_are_the_cards(files, truth, reference):
    scene = json.loads(files.scene.read_text())
    true, found = true_and_found(truth, reference)
    truth_from_scene = align_poses(true, found).fixed_from_moving @ Sim3.from_json(scene["scene_from_colmap"]).inverse()
    centre, normal = np.array(truth["card_centre"]), np.array(truth["card_normal"])
    distance = np.median([np.linalg.norm(pose[:3, 3] - centre) for pose in true.values()])
    assert np.linalg.norm(truth_from_scene.points(np.zeros(3)) - centre) < 0.12 * distance
    axis = truth_from_scene.rotation @ np.array(scene["axis"])
    assert np.rad2deg(angle_between_rad(axis, normal)) < 5
    # One unit of the scene frame is the median distance of the cameras from the POI.
    assert truth_from_scene.scale == pytest.approx(distance, rel=0.12)
