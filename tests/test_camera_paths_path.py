"""The path stage: kinds reach their makers, files agree with each other, truth is rendered where there is one."""

import sys
import types

import numpy as np
import pytest

from camera_paths.formats import read_camera_path, read_trajectory
from camera_paths.path import build_path, make_path, path_camera
from camera_paths.spec import PATH_KEYS, check_path_spec
from data.poses import Camera
from fieldbook.errors import UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import PathFiles, SceneFiles

CAMERA = Camera(641, 480, 500.0, 500.0, 320.5, 240.0)
FRAME = {
    "axis": [0.0, 0.6, 0.8],
    "camera": CAMERA.to_json(),
    "camera_distance_mean": 1.1,
    "camera_height_mean": 0.5,
}
CONE = {"kind": "cone", "angle": 30, "distance": 1.0, "views": 3}


def a_scene(root, truth):
    scene = SceneFiles(root / "scene")
    write_json(scene.scene, FRAME)
    write_json(scene.capture, {"truth": truth})
    return scene


@pytest.mark.parametrize("kind", PATH_KEYS)
def test_every_kind_builds_a_path_that_looks_at_the_poi(kind):
    given = {"kind": kind, "views": 7} | ({"angle": 10, "height": 1} if kind == "cone" else {})
    poses = build_path(check_path_spec("p", given), FRAME)
    assert poses.shape == (7, 4, 4)
    eyes = poses[:, :3, 3]
    np.testing.assert_allclose(poses[:, :3, 2], eyes / np.linalg.norm(eyes, axis=1, keepdims=True), atol=1e-9)


def test_cone_stands_on_the_scenes_axis():
    poses = build_path(check_path_spec("p", {**CONE, "height": 0.7, "distance": None}), FRAME)
    np.testing.assert_allclose(poses[:, :3, 3] @ FRAME["axis"], 0.7)


def test_orbit_about_the_axis_differs_from_one_about_up():
    about = {p: build_path(check_path_spec("p", {"kind": "orbit", "about": p}), FRAME) for p in ("up", "axis")}
    np.testing.assert_allclose(about["up"][:, 2, 3], np.sin(np.radians(30)))
    np.testing.assert_allclose(about["axis"][:, :3, 3] @ FRAME["axis"], np.sin(np.radians(30)))


def test_spherical_takes_the_captures_mean_distance_and_height():
    poses = build_path(check_path_spec("p", {"kind": "spherical"}), FRAME)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), 1.1)
    np.testing.assert_allclose(poses[:, 2, 3], 0.5)


def test_spherical_higher_than_its_distance_is_a_user_error():
    with pytest.raises(UserError, match=r"within distance 0\.4"):
        build_path(check_path_spec("p", {"kind": "spherical", "distance": 0.4}), FRAME)


@pytest.mark.parametrize(("long_side", "size"), [(0, (641, 480)), (160, (160, 120))])
def test_path_camera_keeps_the_field_of_view_and_is_centred_and_square(long_side, size):
    camera = path_camera(CAMERA, long_side)
    assert (camera.width, camera.height) == size
    assert camera.fx == camera.fy == pytest.approx(500 * size[1] / 480)
    assert (camera.cx, camera.cy) == (size[0] / 2, size[1] / 2)


def test_make_path_writes_two_files_that_agree(tmp_path):
    out = PathFiles(tmp_path / "paths" / "cone30")
    numbers = make_path(a_scene(tmp_path, truth=False), out, CONE, 320)
    assert numbers == {"views": 3, "width": 320, "height": 240, "truth": 0}
    ours, theirs = read_camera_path(out.camera_path), read_trajectory(out.trajectory)
    np.testing.assert_allclose(ours.poses, theirs.poses, atol=1e-12)
    for a, b in zip(ours.cameras, theirs.cameras, strict=True):
        np.testing.assert_allclose(list(vars(a).values()), list(vars(b).values()))
    assert read_json(out.camera_path)["seconds"] == pytest.approx(0.3)
    assert not out.truth.exists()


def test_make_path_renders_the_truth_of_a_synthetic_capture(tmp_path, monkeypatch):
    calls = []

    def render_path_truth(files, camera, scene_from_camera, out_dir, names):
        calls.append((files, camera, scene_from_camera))
        for name in names:
            (out_dir / f"{name}.png").write_bytes(b"")

    fake = types.SimpleNamespace(render_path_truth=render_path_truth)
    monkeypatch.setitem(sys.modules, "data.synthetic.truth", fake)
    scene, out = a_scene(tmp_path, truth=True), PathFiles(tmp_path / "paths" / "cone30")
    assert make_path(scene, out, CONE, 160)["truth"] == 1
    assert sorted(p.name for p in out.truth.iterdir()) == ["view_000.png", "view_001.png", "view_002.png"]
    (files, camera, poses), back = calls[0], read_camera_path(out.camera_path)
    assert files == scene
    np.testing.assert_allclose(poses, back.poses)
    assert vars(camera) == pytest.approx(vars(back.cameras[0]))


def test_make_path_names_the_path_in_its_errors(tmp_path):
    with pytest.raises(UserError, match="path 'cone30': angle"):
        make_path(a_scene(tmp_path, truth=False), PathFiles(tmp_path / "cone30"), {**CONE, "angle": 90}, 0)
