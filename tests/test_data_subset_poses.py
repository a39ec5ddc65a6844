"""Poses and points of a subset: what comes from the reference, what from the subset, and what cannot be."""

import cv2
import numpy as np
import pycolmap
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from data import subset_poses
from data.colmap import SfmOptions, model_points, model_poses
from data.poses import Sim3
from data.sfm import SfmResult
from data.subset_poses import PoseRequest, make_poses
from data.triangulate import triangulate_subset
from fieldbook.errors import Infeasible
from fieldbook.files import read_json, write_json
from fieldbook.layout import PoseFiles, SceneFiles

SFM = {"matching": "auto", "threads": 1, "max_rotation_residual_deg": 5.0, "max_centre_residual": 0.1}
SPEC = {"sfm": SFM}
CAMERA = {"width": 64, "height": 48, "fx": 80.0, "fy": 80.0, "cx": 32.0, "cy": 24.0}
OWN, OTHER = (10, 200, 30), (250, 0, 250)
WANTED = [0, 3, 5, 7]  # positions of the subset of 4 of 8: first, last, then the largest gap halved


@pytest.fixture
def scene(tmp_path):
    """A scene of 8 frames and 60 points without pictures' content: key points and matches are made up, exact."""
    files = SceneFiles(tmp_path / "scene")
    for folder in (files.reference_sparse, files.raw, files.frames):
        folder.mkdir(parents=True)
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 8, 60
    options.camera_width, options.camera_height, options.camera_params = 64, 48, [80.0, 32.0, 24.0, 0.01]
    with pycolmap.Database.open(files.reference_database) as database:
        model = pycolmap.synthesize_dataset(options, database)
    model.write(files.reference_sparse)
    poses = model_poses(model)
    names = sorted(poses)
    for i, name in enumerate(names):
        colour = np.full((48, 64, 3), OWN if i in WANTED else OTHER, np.uint8)
        cv2.imwrite(str(files.raw / name), colour[..., ::-1])
    write_json(files.splits, {"pool": names, "test": [], "nested": True})
    rotation = Rotation.from_rotvec([0.3, -0.2, 0.5]).as_matrix()
    write_json(files.scene, {"scene_from_colmap": Sim3(0.2, rotation, np.array([1.0, 2.0, 3.0])).to_json()})
    listed = {n: p.tolist() for n, p in poses.items()}
    write_json(files.reference_poses, {"camera": CAMERA, "poses": listed})
    return files


def scene_poses(files):
    scene_from_colmap = Sim3.from_json(read_json(files.scene)["scene_from_colmap"])
    reference = read_json(files.reference_poses)["poses"]
    return {n: scene_from_colmap.poses(np.array(p)) for n, p in reference.items()}


def cloud_of(pose_files):
    cloud = trimesh.load(pose_files.points)
    assert isinstance(cloud, trimesh.PointCloud)
    return cloud


def fake_reconstruct(files, change, monkeypatch, focal=80.0):
    """Let COLMAP "find" the reference's poses in a frame of its own after ``change(names, poses)``."""
    calls = {}
    model_from_scene = Sim3(7.0, Rotation.from_rotvec([1, 2, 0]).as_matrix(), np.array([4.0, 0, -9]))

    def reconstruct(image_dir, names, work_dir, options, mask_dir=None):
        calls.update(image_dir=image_dir, names=list(names), options=options, mask_dir=mask_dir)
        found = {n: p.copy() for n, p in scene_poses(files).items() if n in names}
        found = {n: model_from_scene.poses(p) for n, p in change(list(names), found).items()}
        model = pycolmap.Reconstruction()
        params = [focal, 32.0, 24.0]
        camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=64, height=48, params=params, camera_id=1)
        model.add_camera_with_trivial_rig(camera)
        model.add_point3D(model_from_scene.points(np.array([0.1, 0.2, 0.3])), pycolmap.Track(), np.array(OWN, np.uint8))
        models = [{"registered": len(found), "points": 1, "mean_reprojection_error": 0.5}]
        missing = [n for n in names if n not in found]
        return SfmResult(model, found, missing, models, {}, work_dir / "database.db")

    monkeypatch.setattr(subset_poses, "reconstruct", reconstruct)
    return calls


def test_reference_poses_are_the_references_in_the_scene_frame(scene, tmp_path):
    out = PoseFiles(tmp_path / "n4")
    numbers = make_poses(scene, out, SPEC, PoseRequest("4"))
    value, truth = read_json(out.poses), scene_poses(scene)
    assert list(value["poses"]) == [sorted(truth)[i] for i in WANTED]
    for name, pose in value["poses"].items():
        np.testing.assert_array_equal(pose, truth[name])
    assert value["camera"] == CAMERA
    assert (value["space"], value["policy"], value["alignment"]) == ("scene", "reference", None)
    assert (value["requested"], value["registered"], value["unregistered"]) == (4, 4, [])
    assert value["focal_ratio"] == 1.0
    assert value["gap_ratio"] == numbers["gap_ratio"] == 1.5  # gaps 3, 2, 2
    assert not out.sfm.exists()


def test_points_are_where_the_true_ones_are_with_colours_of_own_frames_only(scene, tmp_path):
    out = PoseFiles(tmp_path / "n4")
    numbers = make_poses(scene, out, SPEC, PoseRequest("4"))
    cloud = cloud_of(out)
    scene_from_colmap = Sim3.from_json(read_json(scene.scene)["scene_from_colmap"])
    true = scene_from_colmap.points(model_points(pycolmap.Reconstruction(scene.reference_sparse))[0])
    distances = np.linalg.norm(cloud.vertices[:, None] - true[None], axis=-1).min(1)
    assert len(cloud.vertices) == numbers["points"] > 30
    assert distances.max() < 1e-3
    assert np.all(np.asarray(cloud.colors)[:, :3] == OWN)


def test_other_frames_take_no_part_in_the_points(scene, tmp_path):
    names = read_json(scene.splits)["pool"]
    chosen = [names[i] for i in WANTED]

    def run():
        paths = (scene.reference_sparse, scene.reference_database, scene.raw)
        return triangulate_subset(*paths, chosen, tmp_path / "work", SfmOptions())

    before = run()
    with pycolmap.Database.open(scene.reference_database) as database:
        for image in database.read_all_images():
            if image.name not in chosen:
                (scene.raw / image.name).unlink()
                database.update_keypoints(image.image_id, database.read_keypoints(image.image_id) + 5)
    for old, new in zip(before, run(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_pairs_the_reference_never_matched_are_matched(scene, tmp_path):
    names = read_json(scene.splits)["pool"]
    with pycolmap.Database.open(scene.reference_database) as database:
        database.clear_matches()
        database.clear_two_view_geometries()
    size = scene.reference_database.stat().st_size
    paths = (scene.reference_sparse, scene.reference_database, scene.raw)
    points, _ = triangulate_subset(*paths, names[:2], tmp_path / "work", SfmOptions())
    assert len(points) > 10
    assert scene.reference_database.stat().st_size == size
    with pycolmap.Database.open(scene.reference_database) as database:
        assert database.num_matches() == 0


def test_one_frame_has_a_pose_but_no_points(scene, tmp_path):
    out = PoseFiles(tmp_path / "n1")
    out.root.mkdir()
    out.points.write_text("left over")
    numbers = make_poses(scene, out, SPEC, PoseRequest("1"))
    assert len(read_json(out.poses)["poses"]) == 1
    assert numbers["points"] == 0
    assert not out.points.exists()


def test_subset_poses_are_aligned_and_keep_their_own_focal_length(scene, tmp_path, monkeypatch):
    calls = fake_reconstruct(scene, lambda names, poses: poses, monkeypatch, focal=88.0)
    out = PoseFiles(tmp_path / "n4")
    request = PoseRequest("4", policy="subset", mapper="global", sfm_mask="card", sfm_seed=3)
    numbers = make_poses(scene, out, SPEC, request)
    value, truth = read_json(out.poses), scene_poses(scene)
    for name, pose in value["poses"].items():
        np.testing.assert_allclose(pose, truth[name], atol=1e-9)
    assert value["camera"]["fx"] == 88.0
    assert value["focal_ratio"] == numbers["focal_ratio"] == pytest.approx(1.1)
    assert value["alignment"]["outliers"] == []
    np.testing.assert_allclose(cloud_of(out).vertices, [[0.1, 0.2, 0.3]], atol=1e-6)
    assert (calls["image_dir"], calls["mask_dir"]) == (scene.frames, scene.masks("card"))
    options = calls["options"]
    assert (options.mapper, options.seed, options.camera_model) == ("global", 3, "SIMPLE_PINHOLE")


def test_a_camera_far_off_is_named_and_leaves_the_training_list(scene, tmp_path, monkeypatch):
    def move(names, poses):
        poses[names[2]][:3, 3] += 1.0
        return poses

    fake_reconstruct(scene, move, monkeypatch)
    out = PoseFiles(tmp_path / "n8")
    numbers = make_poses(scene, out, SPEC, PoseRequest("8", policy="subset"))
    value = read_json(out.poses)
    wrong = read_json(scene.splits)["pool"][2]
    assert value["alignment"]["outliers"] == [wrong]
    assert wrong not in value["poses"]
    assert (numbers["registered"], numbers["trained"]) == (8, 7)
    assert numbers["gap_ratio"] == 2.0


def test_fewer_than_half_registered_is_infeasible(scene, tmp_path, monkeypatch):
    fake_reconstruct(scene, lambda names, poses: {n: poses[n] for n in names[:3]}, monkeypatch)
    out = PoseFiles(tmp_path / "n8")
    with pytest.raises(Infeasible, match="3 of 8 frames, fewer than 4") as error:
        make_poses(scene, out, SPEC, PoseRequest("8", policy="subset"))
    assert len(error.value.numbers["unregistered"]) == 5
    assert not out.poses.exists()


def test_residuals_above_the_limits_are_infeasible(scene, tmp_path, monkeypatch):
    def shake(names, poses):
        rng = np.random.default_rng(0)
        for name in names:
            poses[name][:3, :3] @= Rotation.from_rotvec(rng.normal(size=3) * 0.5).as_matrix()
        return poses

    fake_reconstruct(scene, shake, monkeypatch)
    with pytest.raises(Infeasible) as error:
        make_poses(scene, PoseFiles(tmp_path / "n8"), SPEC, PoseRequest("8", policy="subset"))
    assert error.value.numbers["rotation_median_deg"] > 5


def test_cameras_in_one_place_are_infeasible(scene, tmp_path, monkeypatch):
    def gather(names, poses):
        for name in names:
            poses[name][:3, 3] = 0.0
        return poses

    fake_reconstruct(scene, gather, monkeypatch)
    with pytest.raises(Infeasible, match="no baseline"):
        make_poses(scene, PoseFiles(tmp_path / "n4"), SPEC, PoseRequest("4", policy="subset"))


def test_one_frame_alone_is_infeasible_for_the_subset_policy(scene, tmp_path):
    with pytest.raises(Infeasible, match="one frame cannot be reconstructed by SfM"):
        make_poses(scene, PoseFiles(tmp_path / "n1"), SPEC, PoseRequest("1", policy="subset"))


def test_more_frames_than_the_pool_has_is_infeasible(scene, tmp_path):
    with pytest.raises(Infeasible, match="pool has 8"):
        make_poses(scene, PoseFiles(tmp_path / "n9"), SPEC, PoseRequest("9"))
