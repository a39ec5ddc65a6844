"""World units: the truth's metres, those that a capture says, or the frame of its poses."""

from __future__ import annotations

import numpy as np
import pytest

from data.poses import Sim3
from data.synthetic.capture import make_capture
from data.world import given_from_scene, world_from_scene
from fieldbook.errors import UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import SceneFiles

TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
SCENE_FROM_GIVEN = Sim3(0.5, TURN, np.array([1.0, 2, 3]))
WORLD_FROM_GIVEN = Sim3(300.0, TURN @ TURN, np.array([-5.0, 0, 7]))
POINTS = np.random.default_rng(0).normal(size=(20, 3))


def write_scene(root, reference: dict) -> SceneFiles:
    files = SceneFiles(root)
    write_json(files.scene, {"scene_from_colmap": SCENE_FROM_GIVEN.to_json()})
    write_json(files.reference_poses, reference)
    return files


def test_without_a_word_the_world_is_the_frame_of_the_given_poses(tmp_path):
    files = write_scene(tmp_path, {"poses": {}})
    np.testing.assert_allclose(world_from_scene(files).points(SCENE_FROM_GIVEN.points(POINTS)), POINTS, atol=1e-12)
    np.testing.assert_allclose(given_from_scene(files).points(SCENE_FROM_GIVEN.points(POINTS)), POINTS, atol=1e-12)


def test_a_capture_may_say_how_large_its_world_is(tmp_path):
    files = write_scene(tmp_path, {"poses": {}, "world": WORLD_FROM_GIVEN.to_json()})
    world = world_from_scene(files)
    np.testing.assert_allclose(
        world.points(SCENE_FROM_GIVEN.points(POINTS)), WORLD_FROM_GIVEN.points(POINTS), atol=1e-9
    )
    assert world.scale == pytest.approx(600)


def test_a_synthetic_capture_is_in_metres(tmp_path):
    files = SceneFiles(tmp_path)
    make_capture(files, {"frames": 4, "size": [32, 32]})
    true = read_json(files.truth / "scene.json")["truth_from_camera"]
    colmap_from_truth = Sim3(7.0, TURN, np.array([4.0, 0, 1]))
    poses = {f"{name}.png": colmap_from_truth.poses(np.array(pose)).tolist() for name, pose in true.items()}
    files = write_scene(tmp_path, {"poses": poses, "world": WORLD_FROM_GIVEN.to_json()})
    write_json(files.capture, {"truth": True})
    scene = SCENE_FROM_GIVEN.points(colmap_from_truth.points(POINTS))
    np.testing.assert_allclose(world_from_scene(files).points(scene), POINTS, atol=1e-6)


@pytest.mark.parametrize(
    "world", [{"scale": 0, "rotation": TURN.tolist(), "translation": [0, 0, 0]}, [1], {"scale": 1}]
)
def test_a_world_that_is_none_is_the_files_mistake(tmp_path, world):
    with pytest.raises(UserError, match="world"):
        world_from_scene(write_scene(tmp_path, {"poses": {}, "world": world}))
