"""A real hand-held capture through COLMAP: every frame registered, and a point of interest that every camera sees."""

import json

import numpy as np
import pytest

from data.poses import Camera, project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(captures, make_scene, tmp_path_factory):
    video = captures / "fox.mp4"
    if not video.exists():
        pytest.skip(f"no {video}")
    return make_scene(tmp_path_factory.mktemp("real"), "fox", {"capture": {"kind": "video", "path": str(video)}})


def test_every_frame_is_registered(files):
    reference = json.loads(files.reference_poses.read_text())
    assert (reference["registered"], reference["requested"]) == (50, 50)
    assert reference["mean_reprojection_error"] < 1


def test_every_camera_sees_the_point_of_interest_in_front_of_it_and_within_near_and_far(files):
    reference, scene = json.loads(files.reference_poses.read_text()), json.loads(files.scene.read_text())
    camera = Camera(**reference["camera"])
    poi, scale = np.array([scene["poi_in_colmap"]]), scene["scene_from_colmap"]["scale"]
    for pose in reference["poses"].values():
        u, v, depth = project(camera, np.array(pose), poi)[0]
        assert scene["near"] < depth * scale < scene["far"]
        assert 0 < u < camera.width
        assert 0 < v < camera.height
