"""A folder in Blender format through the data stages: its poses, splits, alpha and box are taken as they stand."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.blender import read_blender
from data.images import scale_images
from data.masks.sources import make_masks
from data.poses import Camera, Sim3, angle_between_rad, project
from data.video import extract, ingest
from fieldbook.cli import main
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, SceneFiles
from fieldbook.status import read_status

SPLITS = {"split": {"test_every": 2, "file": None}, "nested": True}
SFM = {"sfm": {"mapper": "incremental", "preset": "default", "matching": "auto", "seed": 0, "threads": 1}}


@pytest.fixture(scope="module")
def folder(write_blender, tmp_path_factory):
    return write_blender(tmp_path_factory.mktemp("ball"))


def capture_of(folder: Path, background: str = "white") -> dict:
    return {"capture": {"kind": "blender", "path": str(folder), "background": background}}


def finish(files: SceneFiles, splits: dict = SPLITS) -> SceneFiles:
    assert main(["splits", str(files.root), "--spec", json.dumps(splits)]) == 0
    assert main(["images", str(files.root), "--long-side", "8"]) == 0
    assert main(["images", str(files.root), "--long-side", "0"]) == 0
    return files


@pytest.fixture(scope="module")
def files(folder, make_scene, tmp_path_factory):
    """The scene after all its stages; tests only read it."""
    return finish(make_scene(tmp_path_factory.mktemp("results"), "ball", capture_of(folder)))


def changed(folder: Path, tmp_path: Path, edit, name: str = "transforms_train.json") -> Path:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    document = json.loads((copy / name).read_text())
    edit(document)
    (copy / name).write_text(json.dumps(document))
    return copy


def listed(folder: Path) -> list[dict]:
    """Frames of both files, in the order their numbers count."""
    return [f for s in ("train", "test") for f in json.loads((folder / f"transforms_{s}.json").read_text())["frames"]]


def test_frames_keep_their_pixels_and_are_numbered_over_both_lists_with_their_paths(folder, files):
    index = read_json(files.frames_index)
    assert [f["name"] for f in index["frames"]] == [f"frame_{k:05d}.png" for k in range(5)]
    assert [f["index"] for f in index["frames"]] == list(range(5))
    assert [f["file_path"] for f in index["frames"]] == [f["file_path"] for f in listed(folder)]
    assert [f["split"] for f in index["frames"]] == ["train"] * 3 + ["test"] * 2
    for frame in index["frames"]:
        source = np.asarray(Image.open(folder / f"{frame['file_path']}.png"))
        assert source.shape == (16, 16, 4)
        np.testing.assert_array_equal(np.asarray(Image.open(files.frames / frame["name"])), source)
        seen = source[..., :3] * (source[..., 3:] / 255) + 255 * (1 - source[..., 3:] / 255)
        gray = seen @ [0.299, 0.587, 0.114]
        assert frame["exposure"] == pytest.approx(gray.mean() / 255, abs=2 / 255)  # two roundings to 8 bits


def test_the_reference_is_the_files_poses_and_a_centred_pinhole_with_nothing_reconstructed(folder, files):
    reference, numbers = read_json(files.reference_poses), read_status(files.status("reference")).numbers
    assert (numbers["registered"], numbers["requested"], numbers["points"]) == (5, 5, 0)
    for frame, (name, pose) in zip(listed(folder), reference["poses"].items(), strict=True):
        assert name == f"frame_{listed(folder).index(frame):05d}.png"
        np.testing.assert_array_equal(pose, frame["transform_matrix"])
    camera = Camera(**reference["camera"])
    assert (camera.width, camera.height, camera.cx, camera.cy) == (16, 16, 8, 8)
    # The edge of the picture is half the angle of view away from the axis.
    u = project(camera, np.eye(4), np.array([[np.tan(0.35), 0.0, -1.0]]))[0, 0]
    assert u == pytest.approx(16)
    assert camera.fy == camera.fx
    assert not files.reference_sparse.exists()
    assert not files.reference_points.exists()


def test_the_datasets_own_split_wins_over_test_every_and_a_file_over_both(folder, files, make_scene, tmp_path):
    splits = read_json(files.splits)
    names = [f"frame_{k:05d}.png" for k in range(5)]
    assert (splits["pool"], splits["test"], splits["unregistered"]) == (names[:3], names[3:], [])
    own = tmp_path / "split_indices.json"
    own.write_text(json.dumps({"train": [0, 3], "test": [1, 4]}))
    other = make_scene(tmp_path, "ball", capture_of(folder))
    finish(other, {"split": {"test_every": 2, "file": str(own)}, "nested": True})
    splits = read_json(other.splits)
    assert (splits["pool"], splits["test"]) == ([names[0], names[3]], [names[1], names[4]])


def test_the_scene_frame_is_blenders_world_scaled_to_the_cameras(files):
    scene = read_json(files.scene)
    sim = Sim3.from_json(scene["scene_from_colmap"])
    assert (scene["up_source"], scene["axis_source"]) == ("world", "cameras")
    np.testing.assert_array_equal(sim.rotation, np.eye(3))
    np.testing.assert_allclose(scene["poi_in_colmap"], 0, atol=1e-9)  # where every camera looks
    assert sim.scale == pytest.approx(1 / 4)
    np.testing.assert_allclose(scene["bounds"], [[-0.375] * 3, [0.375] * 3], atol=1e-9)
    poses = sim.poses(np.array([p for p in read_json(files.reference_poses)["poses"].values()]))
    towards = (poses[:, :3, 3] / np.linalg.norm(poses[:, :3, 3], axis=1, keepdims=True)).mean(0)
    assert angle_between_rad(np.array(scene["axis"]), towards) == pytest.approx(0, abs=1e-6)
    # NeRF's own near and far of this format are 2 and 6, with cameras 4 from the origin; the box reaches a bit further.
    assert 0 < scene["near"] <= 2 / 4
    assert 6 / 4 <= scene["far"] <= (4 + np.sqrt(3) * 1.5) / 4 + 1e-9


def turned(folder: Path, tmp_path: Path, rotation: np.ndarray, shift=(0.0, 0.0, 0.0)) -> Path:
    """The folder with its whole world, cameras and ball, turned and moved."""
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = rotation, shift
    copy = Path(shutil.copytree(folder, tmp_path / "turned"))
    for split in ("train", "test"):
        path = copy / f"transforms_{split}.json"
        document = json.loads(path.read_text())
        for frame in document["frames"]:
            frame["transform_matrix"] = (move @ np.array(frame["transform_matrix"])).tolist()
        path.write_text(json.dumps(document))
    return copy


def test_where_the_cameras_up_is_not_the_worlds_z_it_takes_its_place(folder, make_scene, tmp_path):
    y_up = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    scene = read_json(make_scene(tmp_path, "ball", capture_of(turned(folder, tmp_path, y_up))).scene)
    assert scene["up_source"] == "cameras"
    up = np.array(scene["scene_from_colmap"]["rotation"]) @ [0.0, 1, 0]
    assert np.degrees(angle_between_rad(up, np.array([0.0, 0, 1]))) < 25  # a mean over five cameras
    assert np.abs(scene["bounds"]).min() >= 0.375


def test_cameras_that_look_beside_the_box_are_the_users_mistake(folder, tmp_path, make_scene, capsys):
    keys = capture_of(turned(folder, tmp_path, np.eye(3), (0, 0, 5.0)))
    with pytest.raises(AssertionError):  # the stage's exit code is 2
        make_scene(tmp_path, "ball", keys)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "look at (" in said
    assert "5), outside the box from (-1.5, -1.5, -1.5) to (1.5, 1.5, 1.5)" in said


def poses_of(files: SceneFiles, policy: str, count: str = "2"):
    arguments = ["poses", str(files.root), "--count", count, "--policy", policy, "--spec", json.dumps(SFM)]
    assert main(arguments) == 0
    return files.poses(count, policy, "incremental", "none", 0, 0)


def test_reference_poses_are_the_given_ones_in_the_scene_frame_and_there_are_no_points(files):
    poses = poses_of(files, "reference")
    value = read_json(poses.poses)
    assert sorted(value["poses"]) == ["frame_00000.png", "frame_00002.png"]
    sim, reference = Sim3.from_json(read_json(files.scene)["scene_from_colmap"]), read_json(files.reference_poses)
    for name, pose in value["poses"].items():
        np.testing.assert_allclose(pose, sim.poses(np.array(reference["poses"][name])))
    numbers = read_status(poses.status()).numbers
    assert (numbers["requested"], numbers["trained"], numbers["points"], numbers["focal_ratio"]) == (2, 2, 0, 1)
    assert not poses.points.exists()


def test_subset_poses_are_infeasible_with_the_reason_and_so_is_what_follows(files, tmp_path):
    poses = poses_of(files, "subset")
    status = read_status(poses.status())
    assert not status.ok
    assert "came with its poses, so there is nothing to reconstruct" in status.reason
    assert status.numbers == {"requested": 2}
    out = ["dataset", str(tmp_path / "d"), "--scene", str(files.root), "--poses", str(poses.root)]
    assert main([*out, "--long-side", "8"]) == 0
    assert read_status(DatasetFiles(tmp_path / "d").status()).reason == status.reason


@pytest.mark.parametrize("long_side", [0, 8])
def test_the_dataset_names_its_background_and_no_points(files, tmp_path, long_side):
    poses = poses_of(files, "reference", "all")
    command = ["dataset", str(tmp_path), "--scene", str(files.root), "--poses", str(poses.root)]
    assert main([*command, "--long-side", str(long_side)]) == 0
    value = read_json(tmp_path / "transforms.json")
    assert value["background"] == "white"
    assert "ply_file_path" not in value
    assert (len(value["train_filenames"]), len(value["test_filenames"])) == (3, 2)
    side = long_side or 16
    for frame in value["frames"]:
        assert np.asarray(Image.open(tmp_path / frame["file_path"])).shape == (side, side, 4)
        assert frame["fl_x"] == pytest.approx(side / 2 / np.tan(0.35))
    assert read_status(DatasetFiles(tmp_path).status()).numbers["has_points"] == 0


def test_pictures_without_alpha_have_no_background(write_blender, make_scene, tmp_path):
    files = make_scene(tmp_path, "ball", capture_of(write_blender(tmp_path / "rgb", mode="RGB"), "black"))
    assert read_json(files.capture)["background"] is None
    assert read_json(files.frames_index)["background"] is None
    assert np.asarray(Image.open(files.frames / "frame_00000.png")).shape == (16, 16, 3)
    assert scale_images(files, 8) == {"width": 8, "height": 8}


def test_an_alpha_mask_keeps_what_is_at_least_half_opaque_and_its_sheet_shows_the_background(files):
    spec = {"masks": {"ball": {"kind": "alpha"}}}
    numbers = make_masks(files, spec, "ball")
    assert (numbers["masks"], numbers["empty"], numbers["resized_from_raw"]) == (5, 0, 0)
    for path in sorted(files.frames.glob("*.png")):
        alpha = np.asarray(Image.open(path))[..., 3]
        assert set(np.unique(alpha)) == {0, 128, 255}
        np.testing.assert_array_equal(np.asarray(Image.open(files.masks("ball") / path.name)) > 0, alpha > 0)
    sheet = cv2.imread(str(files.masks("ball") / "contact_sheet.jpg"))
    # What the mask drops is shown at a quarter of its brightness: white at 63, black would be 0. JPEG is off by a few.
    assert np.abs(sheet[:20, :20].astype(int) - 63).max() < 10


def test_an_alpha_mask_of_pictures_without_alpha_is_refused(write_blender, make_scene, tmp_path):
    files = make_scene(tmp_path, "ball", capture_of(write_blender(tmp_path / "rgb", mode="RGB")))
    with pytest.raises(UserError, match="has no alpha channel"):
        make_masks(files, {"masks": {"ball": {"kind": "alpha"}}}, "ball")
    assert not files.masks("ball").exists()


def test_a_folder_that_changes_between_capture_and_frames_is_refused(folder, tmp_path):
    def move(document):
        document["frames"][1]["transform_matrix"][0][3] += 0.5

    copy = changed(folder, tmp_path, lambda document: None)
    files, keys = SceneFiles(tmp_path / "scene"), capture_of(copy) | {"frames": {"count": "all", "pick": "sharpest"}}
    ingest(files, keys)
    assert extract(files, keys) == {"frames": 5, "source_frames": 5}
    document = json.loads((copy / "transforms_test.json").read_text())
    move(document)
    (copy / "transforms_test.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"is no longer what capture\.json says"):
        extract(files, keys)
    with pytest.raises(UserError, match=r"frames\.count is 3; a blender capture lists its own frames"):
        extract(files, keys | {"frames": {"count": 3, "pick": "even"}})


def test_a_file_path_may_carry_its_ending(folder, tmp_path):
    def edit(document):
        for frame in document["frames"]:
            frame["file_path"] += ".png"

    copy = changed(folder, tmp_path, edit)
    assert read_blender(copy).frames[0].picture == copy / "train" / "r_0.png"


def first(**keys):
    return lambda document: document["frames"][0].update(keys)


NOT_PROPER = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
SCALED = [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 4], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("camera_angle_x"), r"transforms_train\.json has no camera_angle_x; give the horizontal angle"),
        (lambda d: d.update(camera_angle_x=40), "has camera_angle_x 40; .* between 0 and pi"),
        (lambda d: d.update(camera_angle_x="0.7"), "has camera_angle_x '0.7'"),
        (lambda d: d.update(camera_angle_x=0.8), r"camera_angle_x 0\.7, transforms_train\.json has 0\.8; one camera"),
        (lambda d: d.update(frames=[]), r"transforms_train\.json lists no frames"),
        (lambda d: d.pop("frames"), "lists no frames"),
        (first(file_path=""), "a frame has no file_path"),
        (first(file_path="./train/r_9"), r"1 of 5 pictures are not there, the first is .*train/r_9\.png"),
        (first(file_path="./train/r_1"), r"r_1\.png is listed twice, in train; "),
        (first(file_path="./test/r_1"), r"r_1\.png is listed twice, in train and in test; "),
        (first(transform_matrix=None), r"transform_matrix of \./train/r_0 is no pose"),
        (first(transform_matrix=[[1, 0, 0, 0]] * 3), "is no pose; give 4 rows of 4 numbers"),
        (first(transform_matrix=SCALED), "is no pose"),
        (first(transform_matrix=NOT_PROPER), "is no pose"),
        (first(transform_matrix=[[1, 0, 0, "0"], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "is no pose"),
    ],
)
def test_a_mistake_in_the_files_is_one_line_that_names_it(folder, tmp_path, edit, message):
    with pytest.raises(UserError, match=message) as caught:
        read_blender(changed(folder, tmp_path, edit))
    assert "\n" not in str(caught.value)


def test_a_missing_folder_or_file_is_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"no such folder in Blender format: .*nowhere"):
        read_blender(tmp_path / "nowhere")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "transforms_val.json").unlink()  # is not needed
    assert len(read_blender(copy).frames) == 5
    (copy / "transforms_test.json").unlink()
    with pytest.raises(UserError, match=r"copy has no transforms_test\.json"):
        read_blender(copy)


def test_a_damaged_picture_or_one_of_another_size_is_named(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    Image.new("RGBA", (8, 16)).save(copy / "train" / "r_1.png")
    with pytest.raises(UserError, match=r"train/r_1\.png is 8x16, most .* 16x16"):
        ingest(SceneFiles(tmp_path / "scene"), capture_of(copy))
    (copy / "train" / "r_1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"train/r_1\.png is not a readable image"):
        ingest(SceneFiles(tmp_path / "scene"), capture_of(copy))
