"""Synthetic captures through COLMAP: frames registered, the frame where the subject is, poses that are true."""

import json

import numpy as np
import pytest
from PIL import Image

from data.align import align_poses
from data.masks.sources import make_masks
from data.poses import Camera, Sim3, angle_between_rad, look_at
from data.synthetic.truth import render_path_truth, truth_from_scene

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


@pytest.fixture(scope="module")
def round_files(make_scene, tmp_path_factory):
    keys = {"capture": {"kind": "synthetic", "subject": "object", "frames": 48, "size": [480, 360]}}
    return make_scene(tmp_path_factory.mktemp("synthetic"), "object", keys)


def test_a_walk_all_round_is_one_closed_model_about_the_object(round_files):
    truth, reference = (
        json.loads(path.read_text()) for path in (round_files.truth / "scene.json", round_files.reference_poses)
    )
    assert reference["registered"] >= 0.9 * reference["requested"]
    assert len(reference["models"]) == 1
    assert reference["mean_reprojection_error"] < 0.6
    alignment = align_poses(*true_and_found(truth, reference))
    assert alignment.outliers == []
    assert max(alignment.rotation_residuals_deg.values()) < 0.2
    assert max(alignment.centre_residuals.values()) < 0.005
    centre = np.array(truth["object_centre"])
    distance = np.median([np.linalg.norm(np.array(p)[:3, 3] - centre) for p in truth["truth_from_camera"].values()])
    to_truth = truth_from_scene(round_files)
    assert np.linalg.norm(to_truth.points(np.zeros(3)) - centre) < 0.03 * distance
    assert to_truth.scale == pytest.approx(distance, rel=0.03)


def test_true_masks_and_true_views_of_a_walk_all_round(round_files, tmp_path):
    numbers = make_masks(round_files, {"masks": {"object": {"kind": "truth"}}}, "object")
    assert (numbers["masks"], numbers["empty"]) == (48, 0)
    # The mask, seen from the reference's pose, is the mask of the undistorted frame, but for its outline.
    filmed = round_files.truth / "masks" / "frame_00010.png"
    ours, true = (np.asarray(Image.open(p)) > 0 for p in (round_files.masks("object") / filmed.name, filmed))
    assert (ours & true).sum() / (ours | true).sum() > 0.97
    scene = json.loads(round_files.scene.read_text())
    pose = look_at(np.array([0.8, 0.2, 0.6]), np.zeros(3), np.eye(3)[2])
    render_path_truth(round_files, Camera(**scene["camera"]).scaled(160, 120), pose[None], tmp_path, ["view_000"])
    assert np.asarray(Image.open(tmp_path / "view_000.png")).std() > 30
