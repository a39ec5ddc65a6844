"""What an external method is given: a dataset folder that three families of tools read, and camera files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from camera_paths.formats import read_camera_path, read_trajectory
from data.poses import Camera, project
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles
from methods.external.cameras import write_cameras, write_nerfbaselines
from methods.external.dataset import write_dataset
from methods.runner.views import View, held_out_views

from .runner_ball import poses_around
from .runner_ball import write_dataset as write_ball

OFF_CENTRE = Camera(32, 24, 28.0, 28.5, 15.25, 12.5)


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFiles:
    root = tmp_path / "study"
    root.mkdir()
    return write_ball(root)


def test_it_holds_the_training_frames_and_no_test_frame(dataset: DatasetFiles, tmp_path: Path):
    write_dataset(dataset, tmp_path / "out")
    meta, given = read_json(dataset.transforms), read_json(tmp_path / "out/transforms.json")
    names = [f"images/{Path(name).name}" for name in meta["train_filenames"]]
    assert sorted(f"images/{p.name}" for p in (tmp_path / "out/images").iterdir()) == names
    assert [frame["file_path"] for frame in given["frames"]] == names
    assert all(given[f"{split}_filenames"] == names for split in ("train", "val", "test"))
    test = [Path(name).name for name in meta["test_filenames"]]
    texts = [p.read_text() for p in (tmp_path / "out").rglob("*") if p.suffix in (".txt", ".json")]
    assert not any(name in text for name in test for text in texts)
    by_name = {Path(f["file_path"]).name: f for f in meta["frames"]}
    for frame in given["frames"]:
        original = by_name[Path(frame["file_path"]).name]
        assert {k: v for k, v in frame.items() if k != "file_path"} == {
            k: v for k, v in original.items() if k != "file_path"
        }


def test_pictures_take_no_room_a_second_time(dataset: DatasetFiles, tmp_path: Path):
    write_dataset(dataset, tmp_path / "out")
    ours, theirs = (folder / "images/frame_00003.png" for folder in (tmp_path / "out", dataset.root))
    assert ours.samefile(theirs)
    assert not ours.is_symlink()  # a container sees what is in the folder, not what it points to


def test_where_files_cannot_be_linked_they_are_copied(dataset: DatasetFiles, tmp_path: Path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr("os.link", refuse)
    write_dataset(dataset, tmp_path / "out")
    ours, theirs = (folder / "images/frame_00003.png" for folder in (tmp_path / "out", dataset.root))
    assert not ours.samefile(theirs)
    assert ours.read_bytes() == theirs.read_bytes()


def test_masks_come_with_it(dataset: DatasetFiles, tmp_path: Path):
    meta = read_json(dataset.transforms)
    for k, frame in enumerate(meta["frames"]):
        Image.new("L", (32, 24), k).save(dataset.root / f"m{k}.png")
        frame["mask_path"] = f"m{k}.png"
    dataset.transforms.write_text(json.dumps(meta))
    write_dataset(dataset, tmp_path / "out")
    for frame in read_json(tmp_path / "out/transforms.json")["frames"]:
        number = int(Path(frame["file_path"]).stem.removeprefix("frame_"))
        assert Image.open(tmp_path / "out" / frame["mask_path"]).getpixel((0, 0)) == number


def test_pictures_with_alpha_are_blended_over_the_scenes_background(dataset: DatasetFiles, tmp_path: Path):
    meta = read_json(dataset.transforms)
    for frame in meta["frames"]:
        Image.new("RGBA", (32, 24), (200, 100, 0, 51)).save(dataset.root / frame["file_path"])
    dataset.transforms.write_text(json.dumps(meta | {"background": "white"}))
    write_dataset(dataset, tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out/images/frame_00003.png"))
    assert picture.shape == (24, 32, 3)
    assert (picture == [244, 224, 204]).all()


def test_colmap_reads_the_same_cameras_and_points(dataset: DatasetFiles, tmp_path: Path):
    meta = read_json(dataset.transforms)
    for frame in meta["frames"]:
        frame |= {"fl_y": OFF_CENTRE.fy, "cx": OFF_CENTRE.cx, "cy": OFF_CENTRE.cy}
    dataset.transforms.write_text(json.dumps(meta))
    write_dataset(dataset, tmp_path / "out")
    model = pycolmap.Reconstruction(tmp_path / "out/sparse/0")
    assert (model.num_cameras(), model.num_images(), model.num_points3D()) == (1, 10, 3)
    point = np.array([0.1, -0.2, 0.3])
    for image in model.images.values():
        frame = next(f for f in meta["frames"] if Path(f["file_path"]).name == image.name)
        ours = project(OFF_CENTRE, np.array(frame["transform_matrix"]), point[None])[0, :2]
        np.testing.assert_allclose(image.project_point(point), ours, atol=1e-9)
    found = sorted((tuple(p.xyz.round(6)), tuple(p.color)) for p in model.points3D.values())
    assert found[0] == ((0.0, 0.0, 0.4), (0, 0, 255))


def test_without_points_the_model_has_none(dataset: DatasetFiles, tmp_path: Path):
    meta = {k: v for k, v in read_json(dataset.transforms).items() if k != "ply_file_path"}
    dataset.transforms.write_text(json.dumps(meta))
    write_dataset(dataset, tmp_path / "out")
    assert pycolmap.Reconstruction(tmp_path / "out/sparse/0").num_points3D() == 0
    assert "ply_file_path" not in read_json(tmp_path / "out/transforms.json")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nerfstudios_own_parser_reads_the_same_cameras_and_all_frames(dataset: DatasetFiles, tmp_path: Path):
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    write_dataset(dataset, tmp_path / "out")
    config = NerfstudioDataParserConfig(
        data=tmp_path / "out", orientation_method="none", center_method="none", auto_scale_poses=False
    )
    found = config.setup().get_dataparser_outputs("train")
    frames = read_json(tmp_path / "out/transforms.json")["frames"]
    assert [path.name for path in found.image_filenames] == [Path(f["file_path"]).name for f in frames]
    poses = np.array([f["transform_matrix"] for f in frames])[:, :3]
    np.testing.assert_allclose(found.cameras.camera_to_worlds.numpy(), poses, atol=1e-6)


def views() -> list[View]:
    return [View(f"frame_{k:05d}", OFF_CENTRE, pose) for k, pose in enumerate(poses_around(3))]


def test_a_camera_file_says_name_pose_and_pinhole_exactly(tmp_path: Path):
    write_cameras(tmp_path / "c.json", views(), 10.0)
    for view, entry in zip(views(), read_json(tmp_path / "c.json")["camera_path"], strict=True):
        assert entry["name"] == view.name
        assert np.array_equal(np.array(entry["camera_to_world"]).reshape(4, 4), view.pose)
        pinhole = [entry[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")]
        assert Camera(*pinhole) == view.camera


def test_other_tools_read_the_camera_files(tmp_path: Path):
    write_cameras(tmp_path / "c.json", views(), 10.0)
    write_nerfbaselines(tmp_path / "t.json", views(), 10.0)
    path, trajectory = read_camera_path(tmp_path / "c.json"), read_trajectory(tmp_path / "t.json")
    for found in (path, trajectory):
        np.testing.assert_allclose(found.poses, [view.pose for view in views()], atol=1e-12)
        assert found.fps == pytest.approx(10)
    assert trajectory.cameras == (OFF_CENTRE,) * 3
    assert path.cameras[0].fy == pytest.approx(OFF_CENTRE.fy)


def test_test_cameras_carry_the_names_of_their_frames(dataset: DatasetFiles, tmp_path: Path):
    write_cameras(tmp_path / "c.json", held_out_views(dataset), 10.0)
    names = [entry["name"] for entry in read_json(tmp_path / "c.json")["camera_path"]]
    assert names == ["frame_00004", "frame_00009"]
