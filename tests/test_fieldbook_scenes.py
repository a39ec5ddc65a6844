"""Scenes are shared: a done stage keeps its keys, a failed one can be mended, sources are checked before any job."""

import os

import pytest

from fieldbook.errors import UserError
from fieldbook.files import sha256_file, write_json
from fieldbook.layout import Results, SceneFiles
from fieldbook.scenes import STAGE_KEYS, check_scenes, make, plugin_methods, stage_spec
from fieldbook.status import INFEASIBLE, OK, Status, write_status


@pytest.fixture
def config(tmp_path):
    (tmp_path / "mug.mp4").write_bytes(b"first")
    return {
        "study": "s",
        "results": str(tmp_path / "results"),
        "scenes": {"mug": {"capture": {"kind": "video", "path": str(tmp_path / "mug.mp4")}}},
        "counts": ["all"],
        "methods": [{"method": "nerfacto"}],
    }


@pytest.fixture
def files(tmp_path):
    return Results(tmp_path / "results").scene("mug")


def finish(files: SceneFiles, config, stage: str, state=OK):
    spec = stage_spec(make(config).config["scenes"]["mug"], stage)
    write_status(files.status(stage), Status(state, stage, spec=spec))


@pytest.mark.parametrize(
    ("stage", "change", "key"),
    [
        ("frames", {"frames": {"count": 20}}, "frames"),
        ("reference", {"sfm": {"seed": 3}}, "sfm"),
        ("splits", {"split": {"test_every": 5}}, "split"),
        ("splits", {"nested": False}, "nested"),
        ("scene_frame", {"poi": [0, 0, 1]}, "poi"),
    ],
)
def test_a_key_of_a_done_stage_is_refused_by_name_and_one_of_a_failed_stage_is_not(config, files, stage, change, key):
    finish(files, config, stage)
    check_scenes(make(config))
    config["scenes"]["mug"] |= change
    with pytest.raises(UserError, match=f"'mug'.* was made with {key}: .* is now asked for with {key}: "):
        check_scenes(make(config))
    finish(files, config | {"scenes": {"mug": config["scenes"]["mug"]}}, stage, INFEASIBLE)
    config["scenes"]["mug"] |= {key: make({**config}).config["scenes"]["mug"][key]}
    check_scenes(make(config))


def test_limits_of_the_alignment_are_the_poses_keys_not_the_references(config, files):
    finish(files, config, "reference")
    config["scenes"]["mug"]["sfm"] = {"max_centre_residual": 0.5}
    check_scenes(make(config))


def test_every_key_of_a_scene_belongs_to_a_stage(config):
    scene = make(config).config["scenes"]["mug"]
    assert {key for keys in STAGE_KEYS.values() for key in keys} | {"masks", "surface"} == set(scene)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capture": {"kind": "video", "path": "typo.mp4"}}, "scenes.mug.capture.path: there is no typo.mp4"),
        ({"split": {"file": "typo.json"}}, "scenes.mug.split.file: there is no typo.json"),
        ({"masks": {"m": {"kind": "folder", "path": "typo"}}}, "scenes.mug.masks.m.path: there is no typo"),
    ],
)
def test_a_missing_source_is_refused_before_any_job(config, change, words):
    config["scenes"]["mug"] |= change
    with pytest.raises(UserError, match=words):
        check_scenes(make(config))


@pytest.fixture
def blender(config, write_blender, tmp_path):
    """A config with one blender scene, and its folder."""
    folder = write_blender(tmp_path / "ball")
    config["scenes"]["mug"] = {"capture": {"kind": "blender", "path": str(folder)}}
    return config, folder


def test_a_blender_folder_is_checked_before_any_job(blender):
    config, folder = blender
    check_scenes(make(config))
    (folder / "train" / "r_1.png").unlink()
    with pytest.raises(UserError, match=r"1 of 5 pictures are not there, the first is .*r_1\.png"):
        check_scenes(make(config))
    (folder / "transforms_train.json").unlink()
    with pytest.raises(UserError, match=r"has no transforms_train\.json"):
        check_scenes(make(config))
    config["scenes"]["mug"]["capture"]["path"] = "typo"
    with pytest.raises(UserError, match=r"scenes\.mug\.capture\.path: there is no typo"):
        check_scenes(make(config))


def test_a_count_above_a_blender_folders_training_frames_is_refused_before_any_job(blender, tmp_path):
    config, _ = blender
    config["counts"] = [3]
    check_scenes(make(config))
    config["counts"] = [4]
    with pytest.raises(UserError, match="4 is more than the pool of scene 'mug': 3 frames"):
        check_scenes(make(config))
    (tmp_path / "split.json").write_text("{}")  # says itself how large the pool is, once it is read
    config["scenes"]["mug"]["split"] = {"file": str(tmp_path / "split.json")}
    check_scenes(make(config))


def test_another_background_under_the_old_name_is_refused(blender, files):
    config, _ = blender
    finish(files, config, "capture")
    config["scenes"]["mug"]["capture"]["background"] = "black"
    with pytest.raises(UserError, match=r"'mug'.* was made with capture: .*white.* asked for with capture: .*black"):
        check_scenes(make(config))


def test_a_missing_weights_folder_is_refused(config):
    with pytest.raises(UserError, match="weights: no folder 'nowhere'"):
        check_scenes(make(config | {"weights": "nowhere"}))


def test_a_video_replaced_under_its_name_is_refused_and_a_touched_one_is_not(config, files, tmp_path):
    video = tmp_path / "mug.mp4"
    finish(files, config, "capture")
    write_json(files.capture, {"sha256": sha256_file(video)})
    later = files.capture.stat().st_mtime + 10
    os.utime(video, (later, later))
    check_scenes(make(config))
    video.write_bytes(b"second")
    os.utime(video, (later, later))
    with pytest.raises(UserError, match="is not the file it was made from"):
        check_scenes(make(config))


def test_a_count_above_the_pool_is_refused_as_soon_as_the_pool_is_known(config, files):
    config["counts"] = [30]
    check_scenes(make(config))
    write_json(files.splits, {"pool": ["a"] * 29})
    with pytest.raises(UserError, match="30 is more than the pool of scene 'mug': 29"):
        check_scenes(make(config))


def test_an_unknown_method_is_refused_with_the_nearest_name(config):
    config["methods"] = [{"method": "nerfact"}]
    with pytest.raises(UserError, match=r"no method 'nerfact'.*did you mean 'nerfacto'"):
        make(config)


def test_methods_of_other_packages_are_known_by_name(monkeypatch):
    monkeypatch.setenv("NERFSTUDIO_METHOD_CONFIGS", "my-method=my.module:spec, other=x:y")
    assert {"my-method", "other"} <= plugin_methods()
