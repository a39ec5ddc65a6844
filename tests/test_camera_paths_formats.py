"""Camera-path files: what is written comes back, and says what the other tools read."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from camera_paths.cones import cone
from camera_paths.formats import (
    CameraPath,
    read_camera_path,
    read_trajectory,
    view_names,
    write_camera_path,
    write_trajectory,
)
from data.poses import Camera
from fieldbook.errors import UserError

CAMERA = Camera(640, 480, 500.0, 500.0, 320.0, 240.0)
FORMATS = [(write_camera_path, read_camera_path), (write_trajectory, read_trajectory)]


def a_path(views=3, camera=CAMERA, fps=8.0, angle_rad=0.4):
    return CameraPath.uniform(cone(np.array([0.0, 0.6, 0.8]), angle_rad, 1.3, views, "fixed"), camera, fps)


@pytest.mark.parametrize(("write", "read"), FORMATS)
@given(
    views=st.integers(1, 9),
    angle_rad=st.floats(0, 1.4),
    focal=st.floats(10, 5000),
    width=st.integers(1, 4000),
    height=st.integers(1, 4000),
    fps=st.floats(0.5, 120),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(tmp_path, write, read, views, angle_rad, focal, width, height, fps):
    path = a_path(views, Camera(width, height, focal, focal, width / 2, height / 2), fps, angle_rad)
    write(tmp_path / "p.json", path)
    back = read(tmp_path / "p.json")
    np.testing.assert_allclose(back.poses, path.poses, atol=1e-6)
    for ours, theirs in zip(path.cameras, back.cameras, strict=True):
        np.testing.assert_allclose(list(vars(theirs).values()), list(vars(ours).values()), rtol=1e-6)
    assert back.fps == pytest.approx(fps, rel=1e-6)


def test_camera_path_has_the_keys_that_nerfstudio_reads(tmp_path):
    write_camera_path(tmp_path / "p.json", a_path(views=4, fps=8.0))
    value = json.loads((tmp_path / "p.json").read_text())
    assert value["seconds"] == 0.5
    assert (value["render_width"], value["render_height"]) == (640, 480)
    assert value["camera_type"] == "perspective"
    assert value["keyframes"] == []
    assert "crop" not in value
    frame = value["camera_path"][0]
    assert len(frame["camera_to_world"]) == 16
    assert frame["fov"] == pytest.approx(np.degrees(2 * np.arctan(240 / 500)))
    assert frame["aspect"] == pytest.approx(640 / 480)


def test_trajectory_poses_are_opencv_rows_of_3x4(tmp_path):
    path = a_path(views=1)
    write_trajectory(tmp_path / "p.json", path)
    value = json.loads((tmp_path / "p.json").read_text())
    pose = np.array(value["frames"][0]["pose"]).reshape(3, 4)
    np.testing.assert_allclose(pose[:, 2], -path.poses[0, :3, 2])  # OpenCV looks along +z
    np.testing.assert_allclose(pose[:, 1], -path.poses[0, :3, 1])
    np.testing.assert_allclose(pose[:, 3], path.poses[0, :3, 3])
    assert value["frames"][0]["intrinsics"] == [500.0, 500.0, 320.0, 240.0]
    assert value["frames"][0]["appearance_weights"] == []
    assert value["appearances"] == []
    assert (value["format"], value["camera_model"]) == ("nerfbaselines-v1", "pinhole")
    assert value["image_size"] == [640, 480]


@pytest.mark.parametrize(
    "camera", [Camera(640, 480, 500.0, 501.0, 320.0, 240.0), Camera(640, 480, 500.0, 500.0, 321.0, 240.0)]
)
def test_camera_path_refuses_what_one_field_of_view_cannot_say(tmp_path, camera):
    with pytest.raises(ValueError, match="centred camera with square pixels"):
        write_camera_path(tmp_path / "p.json", a_path(camera=camera))


@pytest.mark.parametrize(("write", "read"), FORMATS)
@pytest.mark.parametrize("change", ["no_views", "other_kind", "missing_key", "bad_number"])
def test_other_files_are_user_errors(tmp_path, write, read, change):
    file = tmp_path / "p.json"
    write(file, a_path())
    value = json.loads(file.read_text())
    frames = "camera_path" if "camera_path" in value else "frames"
    match change:
        case "no_views":
            value[frames] = []
        case "other_kind":
            value["camera_type"] = value["camera_model"] = "fisheye"
        case "missing_key":
            del value["seconds" if "seconds" in value else "fps"]
        case "bad_number":
            value[frames][0] = {"pose": [1], "camera_to_world": [1], "fov": 1, "intrinsics": [1, 1, 1, 1]}
    file.write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"p\.json"):
        read(file)


def test_view_names_count_from_zero_with_three_digits():
    assert view_names(2) == ["view_000", "view_001"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nerfstudio_reads_the_same_cameras(tmp_path):
    camera_paths = pytest.importorskip("nerfstudio.cameras.camera_paths")
    path = a_path()
    write_camera_path(tmp_path / "p.json", path)
    cameras = camera_paths.get_path_from_json(json.loads((tmp_path / "p.json").read_text()))
    np.testing.assert_allclose(cameras.camera_to_worlds.numpy(), path.poses[:, :3], atol=1e-6)
    np.testing.assert_allclose(cameras.fx.numpy(), 500.0, rtol=1e-5)
