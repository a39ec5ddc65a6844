"""The dataset: explicit disjoint splits, each frame with the right camera and pose, files named relatively."""

import numpy as np
import pytest
from PIL import Image

from data.dataset import make_dataset
from data.poses import Camera, Sim3, look_at
from fieldbook.errors import UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import Results

NAMES = [f"frame_{k:05d}.png" for k in range(6)]
TEST, TRAIN = NAMES[2:3], [NAMES[0], NAMES[1], NAMES[5]]
REFERENCE = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)
OWN = Camera(64, 48, 66.0, 66.0, 32.0, 24.0)
SIM = Sim3(0.5, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2.0, 3.0]))


def pose(k):
    return look_at(np.array([3.0, k, 2.0]), np.zeros(3), np.array([0.0, 0, 1]))


@pytest.fixture
def files(tmp_path):
    """A scene with 64x48 frames, 32x24 copies, masks of both sizes, and a subset's poses."""
    results = Results(tmp_path / "results")
    scene, study = results.scene("card"), results.study("s")
    poses = scene.poses("3", "subset", "incremental", "none", 0, 0)
    for folder, size in [(scene.images(0), (64, 48)), (scene.images(32), (32, 24))]:
        folder.mkdir(parents=True)
        for name in NAMES:
            Image.new("RGB", size).save(folder / name)
    for folder in (scene.scaled_masks("card", 0), scene.scaled_masks("card", 32)):
        folder.mkdir(parents=True)
        for name in NAMES:
            Image.new("L", (4, 4)).save(folder / name)
    write_json(scene.frames_index, {"frames": [{"name": n} for n in NAMES]})
    write_json(scene.scene, {"scene_from_colmap": SIM.to_json(), "camera": REFERENCE.to_json()})
    write_json(scene.splits, {"test": TEST})
    write_json(scene.reference_poses, {"poses": {n: pose(k).tolist() for k, n in enumerate(NAMES)}})
    subset = {n: pose(10 + NAMES.index(n)).tolist() for n in TRAIN}
    write_json(poses.poses, {"camera": OWN.to_json(), "poses": subset})
    poses.points.write_bytes(b"ply of the subset")
    return scene, poses, study.dataset("card", "3", 0, poses.root.name, "none")


def frames_of(value):
    return {f["file_path"].rsplit("/", 1)[1]: f for f in value["frames"]}


@pytest.mark.parametrize(("long_side", "size"), [(0, (64, 48)), (32, (32, 24))])
def test_training_frames_have_the_subsets_camera_and_test_frames_the_references(files, long_side, size):
    scene, poses, out = files
    numbers = make_dataset(scene, poses, out, long_side, "none")
    assert numbers == {"train": 3, "test": 1, "w": size[0], "h": size[1], "has_points": 1}
    frames = frames_of(read_json(out.transforms))
    assert sorted(frames) == sorted(TRAIN + TEST)
    for name, frame in frames.items():
        k, factor = NAMES.index(name), size[0] / 64
        focal, expected = (66.0, pose(10 + k)) if name in TRAIN else (60.0, SIM.poses(pose(k)))
        assert (frame["w"], frame["h"]) == size
        assert (frame["fl_x"], frame["cx"], frame["cy"]) == (focal * factor, 32 * factor, 24 * factor)
        np.testing.assert_allclose(frame["transform_matrix"], expected, atol=1e-12)
        assert (out.root / frame["file_path"]).resolve() == (scene.images(long_side) / name).resolve()
        assert "mask_path" not in frame


def test_splits_are_explicit_disjoint_and_val_is_test(files):
    scene, poses, out = files
    make_dataset(scene, poses, out, 0, "none")
    value = read_json(out.transforms)
    train, test = value["train_filenames"], value["test_filenames"]
    assert value["val_filenames"] == test
    assert not set(train) & set(test)
    assert {*train, *test} == {f["file_path"] for f in value["frames"]}
    assert [t.rsplit("/", 1)[1] for t in train] == TRAIN


def test_top_level_keys_name_camera_points_and_scene(files):
    scene, poses, out = files
    make_dataset(scene, poses, out, 0, "none")
    value = read_json(out.transforms)
    assert value["camera_model"] == "OPENCV"
    assert [value[k] for k in ("k1", "k2", "p1", "p2")] == [0, 0, 0, 0]
    assert (out.root / value["scene_json"]).resolve() == scene.scene.resolve()
    assert (out.root / value["ply_file_path"]).read_bytes() == b"ply of the subset"
    assert "background" not in value


def test_without_points_none_are_named_and_old_ones_go(files):
    scene, poses, out = files
    make_dataset(scene, poses, out, 0, "none")
    poses.points.unlink()
    assert make_dataset(scene, poses, out, 0, "none")["has_points"] == 0
    assert "ply_file_path" not in read_json(out.transforms)
    assert not out.points.exists()


@pytest.mark.parametrize("long_side", [0, 32])
def test_every_frame_names_its_mask(files, long_side):
    scene, poses, out = files
    make_dataset(scene, poses, out, long_side, "card")
    for name, frame in frames_of(read_json(out.transforms)).items():
        assert (out.root / frame["mask_path"]).resolve() == scene.scaled_masks("card", long_side) / name


@pytest.mark.parametrize("name", [TRAIN[0], TEST[0]])
def test_a_missing_picture_or_mask_is_named(files, name):
    scene, poses, out = files
    (scene.scaled_masks("card", 0) / name).unlink()
    with pytest.raises(UserError, match=f"no such mask: .*{name}"):
        make_dataset(scene, poses, out, 0, "card")
    (scene.images(0) / name).unlink()
    with pytest.raises(UserError, match=f"no such picture: .*{name}"):
        make_dataset(scene, poses, out, 0, "none")
    assert not out.transforms.exists()


def test_a_frame_in_both_splits_is_refused(files):
    scene, poses, out = files
    write_json(scene.splits, {"test": [TRAIN[1]]})
    with pytest.raises(UserError, match=f"both training and test, {TRAIN[1]}"):
        make_dataset(scene, poses, out, 0, "none")


def test_a_test_frame_without_a_reference_pose_is_refused(files):
    scene, poses, out = files
    write_json(scene.splits, {"test": ["frame_00099.png"]})
    with pytest.raises(UserError, match=r"frame_00099\.png"):
        make_dataset(scene, poses, out, 0, "none")


def test_paths_hold_for_a_relative_results_folder_and_another_working_directory(files, tmp_path, monkeypatch):
    _, poses, _ = files
    monkeypatch.chdir(tmp_path)
    results = Results(tmp_path.relative_to(tmp_path) / "results")
    out = results.study("s").dataset("card", "3", 0, poses.root.name, "none")
    make_dataset(results.scene("card"), poses, out, 0, "none")
    value = read_json(out.transforms)
    assert all((tmp_path / out.root / f["file_path"]).is_file() for f in value["frames"])
    assert all(not f["file_path"].startswith("/") for f in value["frames"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nerfstudio_parses_splits_cameras_and_masks(files):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    scene, poses, out = files
    make_dataset(scene, poses, out, 32, "card")
    config = NerfstudioDataParserConfig(
        data=out.root, orientation_method="none", center_method="none", auto_scale_poses=False
    )
    for split, names in (("train", TRAIN), ("val", TEST), ("test", TEST)):
        outputs = config.setup().get_dataparser_outputs(split)
        assert [p.name for p in outputs.image_filenames] == names
        assert outputs.mask_filenames is not None
        assert [p.name for p in outputs.mask_filenames] == names
        frames = frames_of(read_json(out.transforms))
        expected = np.array([frames[n]["transform_matrix"] for n in names])[:, :3]
        np.testing.assert_allclose(outputs.cameras.camera_to_worlds.numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(outputs.cameras.fx[:, 0].numpy(), [frames[n]["fl_x"] for n in names], rtol=1e-6)
