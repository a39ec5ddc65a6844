"""Reconstruction of a rendered room corner: options, determinism, masks, undistortion and the reference stage."""

import json

import cv2
import numpy as np
import pycolmap
import pytest
import trimesh

from data import colmap
from data.align import align_poses
from data.colmap import SfmOptions, image_pairs
from data.poses import Camera, look_at, opengl_from_opencv, project
from data.reference import make_reference
from data.sfm import reconstruct
from data.subset_poses import PoseRequest, make_poses
from data.undistort import centred_pinhole, undistort_image, undistortion_map
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import PoseFiles, SceneFiles

WIDTH, HEIGHT, FOCAL, RADIAL = 320, 240, 300.0, -0.06
SFM = {
    "mapper": "incremental",
    "preset": "default",
    "matching": "auto",
    "seed": 0,
    "threads": 1,
    "max_features": 1000,
    "max_rotation_residual_deg": 5.0,
    "max_centre_residual": 0.1,
}


def lens(radial=RADIAL):
    """The camera that films, SIMPLE_RADIAL."""
    params = [FOCAL, WIDTH / 2, HEIGHT / 2, radial]
    return pycolmap.Camera(model="SIMPLE_RADIAL", width=WIDTH, height=HEIGHT, params=params, camera_id=1)


def texture(rng):
    """Noise at three scales ``[512, 512, 3]``, so that it has corners of every size."""
    layers = [cv2.resize(rng.uniform(size=(s, s, 3)), (512, 512), interpolation=cv2.INTER_CUBIC) for s in (24, 60, 130)]
    out = np.mean(layers, axis=0)
    return ((out - out.min()) / np.ptp(out) * 255).astype(np.float32)


def film(camera, pose, textures):
    """What ``camera`` at ``pose`` (OpenGL) sees of the planes x = 0, y = 0, z = 0, ``[h, w, 3]`` uint8."""
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    rays = np.ones((u.size, 3))
    rays[:, :2] = camera.cam_from_img(np.stack([u.ravel(), v.ravel()], -1))
    rays = rays @ opengl_from_opencv(pose)[:3, :3].T
    distances = np.where(rays < 0, -pose[:3, 3] / np.minimum(rays, -1e-9), np.inf)
    hits = pose[:3, 3] + rays * distances.min(1, keepdims=True)
    picture = np.zeros((u.size, 3), np.float32)
    for axis, plane in enumerate(textures):
        here = distances.argmin(1) == axis
        spots = (np.delete(hits[here], axis, axis=1) * 128).astype(np.float32)
        if here.any():
            picture[here] = cv2.remap(
                plane, spots[:, :1], spots[:, 1:], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )[:, 0]
    return picture.reshape(camera.height, camera.width, 3).round().astype(np.uint8)


def arc(n):
    """Poses of ``n`` cameras that look at the corner from a quarter circle."""
    eyes = [[3 * np.cos(a), 3 * np.sin(a), 1.2 + 0.5 * np.sin(5 * a)] for a in np.radians(np.linspace(15, 75, n))]
    return [look_at(np.array(e), np.array([0.4, 0.4, 0.5]), np.array([0, 0, 1.0])) for e in eyes]


def film_scene(root, n):
    """Raw frames of ``n`` cameras under ``root``; returns the scene's files and the true poses by name."""
    files = SceneFiles(root)
    files.raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    textures = [texture(rng) for _ in range(3)]
    truth = {f"frame_{3 * i:05d}.png": pose for i, pose in enumerate(arc(n))}
    for name, pose in truth.items():
        cv2.imwrite(str(files.raw / name), film(lens(), pose, textures))
    frames = [
        {"name": name, "index": 3 * i, "time_s": 0.1 * i, "sharpness": 1.0, "exposure": 0.5}
        for i, name in enumerate(truth)
    ]
    write_json(files.raw_index, {"width": WIDTH, "height": HEIGHT, "frames": frames})
    return files, truth


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    files, truth = film_scene(tmp_path_factory.mktemp("scene"), 8)
    return files, truth, make_reference(files, {"sfm": SFM})


def keypoints_of(database, name):
    image = database.read_image_with_name(name)
    assert image is not None
    return database.read_keypoints(image.image_id)


def test_the_reference_finds_the_true_cameras_up_to_a_similarity(scene):
    files, truth, numbers = scene
    reference = read_json(files.reference_poses)
    found = align_poses(truth, {n: np.array(p) for n, p in reference["poses"].items()}, unit=3.0)
    assert list(reference["poses"]) == list(truth)
    assert found.outliers == []
    assert found.summary()["rotation_max_deg"] < 0.3
    assert found.summary()["centre_max"] < 0.01
    assert reference["requested"] == reference["registered"] == numbers["registered"] == len(truth)
    assert reference["unregistered"] == []
    assert 0 < reference["mean_reprojection_error"] < 1
    assert numbers["focal"] == reference["camera"]["fx"] == reference["camera"]["fy"]


def test_the_reference_leaves_undistorted_frames_that_its_pinhole_and_points_explain(scene, tmp_path):
    files, truth, _ = scene
    reference = read_json(files.reference_poses)
    assert read_json(files.frames_index) == read_json(files.raw_index)
    assert sorted(p.name for p in files.frames.iterdir()) == sorted(truth)
    assert sorted(p.name for p in files.reference.iterdir()) == ["database.db", "poses.json", "sparse"]
    # The reference's points, projected by the pinhole, must be where SIFT finds key points in the new frames.
    model = pycolmap.Reconstruction(files.reference_sparse)
    name = list(truth)[3]
    image = model.find_image_with_name(name)
    assert image is not None
    points = np.array([model.points3D[p.point3D_id].xyz for p in image.points2D if p.has_point3D()])
    camera = Camera(**reference["camera"])
    pixels = project(camera, np.array(reference["poses"][name]), points)[:, :2]
    colmap.extract(tmp_path / "one.db", files.frames, [name], SfmOptions(camera_model="SIMPLE_PINHOLE"))
    with pycolmap.Database.open(tmp_path / "one.db") as database:
        away = keypoints_of(database, name)[:, :2] - pixels[:, None]
    nearest = away[np.arange(len(away)), np.linalg.norm(away, axis=-1).argmin(1)]
    assert np.median(np.linalg.norm(nearest, axis=1)) < 0.35
    assert np.abs(np.median(nearest, axis=0)).max() < 0.1  # half a pixel of offset would show


@pytest.mark.parametrize("radial", [-0.08, 0.0, 0.05])
def test_undistorting_equals_filming_with_a_pinhole(radial):
    camera, pose = lens(radial), arc(3)[1]
    smooth = [cv2.GaussianBlur(t, (0, 0), 6) for t in (texture(np.random.default_rng(s)) for s in range(3))]
    pinhole = centred_pinhole(camera)
    straight = film(
        pycolmap.Camera(
            model="SIMPLE_PINHOLE", width=WIDTH, height=HEIGHT, params=[pinhole.fx, pinhole.cx, pinhole.cy]
        ),
        pose,
        smooth,
    )
    mended = undistort_image(film(camera, pose, smooth), undistortion_map(camera, pinhole))
    off = np.abs(mended.astype(int) - straight)
    shifted = np.abs(np.roll(mended, 1, 1).astype(int) - straight)[:, 1:]
    assert off.mean() < 0.5
    assert off.mean() < 0.3 * shifted.mean()


@pytest.mark.parametrize("radial", [-0.08, 0.0, 0.05])
def test_the_pinhole_reads_no_pixel_from_outside_and_wastes_no_view(radial):
    camera = lens(radial)
    pinhole = centred_pinhole(camera)
    columns, rows = undistortion_map(camera, pinhole)
    inside = [columns.min(), rows.min(), WIDTH - 1 - columns.max(), HEIGHT - 1 - rows.max()]
    assert min(inside) > -1e-3
    assert min(inside) < 0.01  # some border pixel is used to the last
    assert (pinhole.fx > FOCAL) == (radial > 0)
    if radial == 0:
        assert pinhole.fx == pytest.approx(FOCAL, rel=1e-6)


def test_a_second_run_gives_equal_poses_whatever_order_threads_finish_in(scene, tmp_path):
    files, truth, _ = scene
    names = list(truth)[:5]
    a, b = (reconstruct(files.raw, names, tmp_path / run, SfmOptions.from_spec(SFM)) for run in "ab")
    assert list(a.poses) == list(b.poses) == names
    for name in names:
        np.testing.assert_array_equal(a.poses[name], b.poses[name])
    for x, y in zip(colmap.model_points(a.model), colmap.model_points(b.model), strict=True):
        np.testing.assert_array_equal(x, y)
    with pycolmap.Database.open(a.database) as database:
        assert [image.name for image in sorted(database.read_all_images(), key=lambda i: i.image_id)] == names


def test_masks_remove_features_and_an_image_without_one_is_used_whole(scene, tmp_path):
    files, truth, _ = scene
    names = list(truth)[2:5]
    masks = tmp_path / "masks"
    masks.mkdir()
    left = np.zeros((HEIGHT, WIDTH), np.uint8)
    left[:, : WIDTH // 2] = 255
    for name in names[:2]:
        cv2.imwrite(str(masks / name), left)
    options = SfmOptions.from_spec(SFM, preset="few")
    result = reconstruct(files.raw, names, tmp_path / "work", options, masks)
    with pycolmap.Database.open(result.database) as database:
        reach = [keypoints_of(database, n)[:, 0].max() for n in names]
    assert max(reach[:2]) <= WIDTH / 2 + 1
    assert reach[2] > 0.8 * WIDTH


def test_exhaustive_pairs_are_all_pairs_and_auto_switches_by_size():
    names = [f"{i:03d}" for i in range(41)]
    assert len(image_pairs(names[:40], "auto")) == 40 * 39 // 2
    assert image_pairs(names, "auto") == image_pairs(names, "sequential")
    assert image_pairs(names[:3], "exhaustive") == [("000", "001"), ("000", "002"), ("001", "002")]


@pytest.mark.parametrize("n", [2, 3, 7, 60, 300])
def test_sequential_pairs_join_powers_of_two_and_key_frames_once_each(n):
    names = [f"{i:03d}" for i in range(n)]
    pairs = image_pairs(names, "sequential")
    steps = [int(b) - int(a) for a, b in pairs]
    assert len(set(pairs)) == len(pairs)
    assert min(steps) == 1
    assert steps.count(1) == n - 1
    assert max(steps) >= 0.9 * (n - 1)  # the loop can close
    assert len(pairs) <= n * n.bit_length() + 190


@pytest.mark.parametrize("mapper", ["incremental", "global", "hierarchical"])
def test_every_random_seed_is_set_and_all_values_are_json(mapper):
    values = colmap.option_values(SfmOptions(mapper=mapper, seed=7))
    text = json.dumps(values, allow_nan=False)
    assert '"random_seed": -1' not in text
    assert text.count('"random_seed": 7') >= 3
    assert '"use_gpu": true' not in text


def test_one_frame_and_too_few_for_the_mapper_are_infeasible(tmp_path):
    with pytest.raises(Infeasible, match="one frame cannot be reconstructed by SfM"):
        reconstruct(tmp_path, ["a.png"], tmp_path / "work", SfmOptions())
    with pytest.raises(Infeasible, match="global mapper needs 3") as error:
        reconstruct(tmp_path, ["a.png", "b.png"], tmp_path / "work", SfmOptions(mapper="global"))
    assert error.value.numbers == {"requested": 2, "needed": 3}


@pytest.mark.parametrize("mapper", ["incremental", "global", "hierarchical"])
def test_blank_frames_are_infeasible_not_an_error(tmp_path, mapper):
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(Infeasible, match="no model") as error:
        reconstruct(tmp_path, names, tmp_path / "work", SfmOptions(mapper=mapper))
    assert error.value.numbers["registered"] == 0


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(UserError, match=r"a\.png"):
        reconstruct(tmp_path, ["a.png", "b.png"], tmp_path / "work", SfmOptions())


def test_subset_poses_from_the_pictures_alone_fit_the_scene_frame(scene, tmp_path):
    files, truth, _ = scene
    poses_in_colmap = {n: np.array(p) for n, p in read_json(files.reference_poses)["poses"].items()}
    scene_from_colmap = align_poses(truth, poses_in_colmap, unit=3.0).fixed_from_moving
    write_json(files.scene, {"scene_from_colmap": scene_from_colmap.to_json()})
    pool = list(truth)
    write_json(files.splits, {"pool": pool, "test": [], "nested": True})
    loose = {"sfm": {**SFM, "preset": "few"}}
    out = PoseFiles(tmp_path / "subset")
    numbers = make_poses(files, out, loose, PoseRequest("5", policy="subset"))
    value = read_json(out.poses)
    wanted = [pool[i] for i in (0, 1, 3, 5, 7)]
    assert list(value["poses"]) == wanted
    assert value["space"] == "scene"
    for name in wanted:
        np.testing.assert_allclose(value["poses"][name], truth[name], atol=0.03)
    assert value["focal_ratio"] == pytest.approx(1, abs=0.02) == numbers["focal_ratio"]
    assert value["alignment"]["centre_max"] < 0.03
    cloud = trimesh.load(out.points)
    assert isinstance(cloud, trimesh.PointCloud)
    corner = np.abs(cloud.vertices).min(axis=1)
    assert len(corner) == numbers["points"] > 100
    assert np.median(corner) < 0.01  # the points lie on the planes x = 0, y = 0, z = 0


@pytest.mark.slow
@pytest.mark.parametrize("mapper", ["global", "hierarchical"])
def test_the_other_mappers_find_the_true_cameras_twice_the_same(scene, tmp_path, mapper):
    files, truth, _ = scene
    options = SfmOptions.from_spec(SFM, mapper=mapper)
    a, b = (reconstruct(files.raw, list(truth), tmp_path / run, options) for run in "ab")
    assert align_poses(truth, a.poses, unit=3.0).summary()["rotation_max_deg"] < 0.5
    assert len(a.poses) == len(truth)
    for name in truth:
        np.testing.assert_array_equal(a.poses[name], b.poses[name])
