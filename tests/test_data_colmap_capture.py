"""A folder with a COLMAP model: poses, cameras, points and masks are taken, lenses undistorted, mistakes named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh
from PIL import Image

from data.colmap_capture import read_colmap
from data.colmap_model import read_given_model, read_model
from data.masks.sources import make_masks
from data.poses import Camera, Sim3, project
from data.tracks import triangulate_tracks
from fieldbook.cli import main
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import SceneFiles
from fieldbook.scenes import check_scenes, make
from fieldbook.status import read_status

from .posed_folders import (
    RADIUS,
    ball_colour,
    ball_pose,
    colmap_lens,
    film_ball,
    focal_of,
    picture_name,
    write_colmap_folder,
)

SIZE = (64, 48)
OWN = {"masks": {"object": {"kind": "given"}}}
SFM = {"sfm": {"mapper": "incremental", "preset": "default", "matching": "auto", "seed": 0, "threads": 1}}


def capture_of(folder: Path) -> dict:
    return {"capture": {"kind": "colmap", "path": str(folder)}}


def image(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def made(make_scene, root: Path, folder: Path) -> SceneFiles:
    files = make_scene(root, "ball", capture_of(folder))
    splits = {"split": {"test_every": 8, "file": None}, "nested": True}
    assert main(["splits", str(files.root), "--spec", json.dumps(splits)]) == 0
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A single centred pinhole, and names whose order as text is not their order."""
    return write_colmap_folder(tmp_path_factory.mktemp("colmap") / "ball")


@pytest.fixture(scope="module")
def files(folder, make_scene, tmp_path_factory):
    """The scene of ``folder`` after all its stages; tests only read it."""
    return made(make_scene, tmp_path_factory.mktemp("results"), folder)


def test_frames_are_the_pictures_in_natural_order_and_not_a_value_differs(folder, files):
    index = read_json(files.frames_index)["frames"]
    assert [f["name"] for f in index] == [f"frame_{k:05d}.png" for k in range(12)]
    assert [f["source"] for f in index] == [f"IMG_{k}.png" for k in range(12)]
    for frame in index:
        np.testing.assert_array_equal(image(files.frames / frame["name"]), image(folder / "images" / frame["source"]))


def test_the_reference_is_the_model_with_its_poses_points_and_error(files):
    reference, numbers = read_json(files.reference_poses), read_status(files.status("reference")).numbers
    for name, pose in reference["poses"].items():
        np.testing.assert_allclose(pose, ball_pose(int(name[6:11])), atol=1e-9)
    assert reference["camera"]["fx"] == reference["camera"]["fy"] == pytest.approx(focal_of(SIZE))
    assert reference["space"] == "colmap"
    assert "box" not in reference
    assert Sim3.from_json(reference["world"]).to_json() == Sim3(1, np.eye(3), np.zeros(3)).to_json()
    model = read_model(files.reference_sparse)
    assert sorted(image.name for image in model.images.values()) == sorted(reference["poses"])
    assert numbers["points"] == model.num_points3D() > 100
    assert numbers["mean_reprojection_error"] < 1e-6
    assert (numbers["registered"], numbers["requested"], numbers["resampled"]) == (12, 12, 0)


def test_the_scene_has_its_up_and_bounds_from_cameras_and_points_and_a_test_frame(files):
    scene, splits = read_json(files.scene), read_json(files.splits)
    assert splits["test"] == ["frame_00004.png"]
    assert scene["up_source"] == "cameras"
    assert np.linalg.norm(scene["poi_in_colmap"]) < 0.1
    low, high = np.array(scene["bounds"])
    cloud = trimesh.load(files.reference_points)
    assert isinstance(cloud, trimesh.PointCloud)
    sim = Sim3.from_json(scene["scene_from_colmap"])
    back = sim.inverse().points(np.asarray(cloud.vertices))
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), RADIUS, atol=1e-5)
    assert (low < -0.2).all()
    assert (high > 0.25).all()


@pytest.mark.parametrize("policy", ["reference", "subset"])
def test_poses_of_a_subset(files, policy):
    arguments = ["poses", str(files.root), "--count", "6", "--policy", policy, "--spec", json.dumps(SFM)]
    assert main(arguments) == 0
    poses = files.poses("6", policy, "incremental", "none", 0, 0)
    status = read_status(poses.status())
    if policy == "subset":  # COLMAP was asked, and had nothing to hold on to in so coarse pictures
        assert not status.ok
        assert "COLMAP found no model from 6 frames" in status.reason
        return
    sim = Sim3.from_json(read_json(files.scene)["scene_from_colmap"])
    for name, pose in read_json(poses.poses)["poses"].items():
        np.testing.assert_allclose(pose, sim.poses(ball_pose(int(name[6:11]))), atol=1e-9)
    cloud = trimesh.load(poses.points)
    assert isinstance(cloud, trimesh.PointCloud)
    points = sim.inverse().points(np.asarray(cloud.vertices, float))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, atol=1e-5)
    assert status.numbers["points"] == len(points) > 30
    colours = np.asarray(cloud.colors)[:, :3] / 255
    assert np.abs(colours - ball_colour(points / RADIUS)).mean() < 0.05


def test_points_are_placed_by_the_subsets_own_frames_alone(folder, tmp_path):
    names = [picture_name(k, False) for k in range(12)]
    own = names[::3]

    def only_own(model: pycolmap.Reconstruction) -> None:
        for point in model.points3D.values():  # where all frames had put it is of no account
            point.xyz = point.xyz + 3.0

    moved = write_colmap_folder(tmp_path / "moved", points=60, edit=only_own)
    model = tmp_path / "model"
    model.mkdir()
    read_given_model(moved / "sparse" / "0").write(str(model))
    points, colours = triangulate_tracks(model, moved / "images", own)
    assert len(points) > 5
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), RADIUS, atol=1e-6)
    seen = [sum(bool(p @ ball_pose(k)[:3, 3] > 1.05 * RADIUS * RADIUS) for k in range(0, 12, 3)) for p in points]
    assert min(seen) >= 2
    assert colours.shape == points.shape
    assert triangulate_tracks(model, moved / "images", own[:1])[0].shape == (0, 3)


def test_key_points_that_are_off_are_left_out_of_their_points(tmp_path):
    def shift(model: pycolmap.Reconstruction) -> None:
        for point in model.image(5).points2D:
            point.xy = point.xy + np.array([9.0, 0.0])

    names = [picture_name(k, False) for k in range(12)]
    folder, model = write_colmap_folder(tmp_path / "ball", edit=shift), tmp_path / "model"
    model.mkdir()
    read_given_model(folder / "sparse" / "0").write(str(model))
    points, _ = triangulate_tracks(model, folder / "images", names)
    off = np.abs(np.linalg.norm(points, axis=1) - RADIUS)
    assert len(points) > 60
    assert np.quantile(off, 0.9) < 1e-3


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    "models", [("PINHOLE",), ("SIMPLE_RADIAL",), ("RADIAL",), ("OPENCV",), ("OPENCV", "SIMPLE_PINHOLE")]
)
def test_every_lens_becomes_the_one_centred_pinhole(make_scene, tmp_path, models, text):
    folder = write_colmap_folder(tmp_path / "ball", n=4, models=models, text=text, subfolders=True)
    files = make_scene(tmp_path, "ball", capture_of(folder))
    make_masks(files, OWN, "object")
    reference = read_json(files.reference_poses)
    camera = Camera(**reference["camera"])
    assert (camera.width, camera.height, camera.cx, camera.cy) == (64, 48, 32, 24)
    assert camera.fx == camera.fy
    middle = np.array([32, 24])
    rays = lambda p: np.column_stack([(p - middle) / camera.fx, np.ones(len(p))])  # noqa: E731
    order = sorted(range(4), key=lambda k: picture_name(k, True))
    assert [f["file_path"] for f in read_json(files.frames_index)["frames"]] == [picture_name(k, True) for k in order]
    for k, (name, pose) in zip(order, reference["poses"].items(), strict=True):
        np.testing.assert_allclose(pose, ball_pose(k), atol=1e-6)
        rgb, mask = film_ball(rays, np.array(pose), SIZE)
        assert np.abs(image(files.frames / name).astype(int) - rgb).mean() < 1.0  # of 255
        assert np.abs(image(files.masks("object") / name).astype(int) - mask).mean() < 2.0
    numbers = read_status(files.status("reference")).numbers
    assert numbers["resampled"] == 4
    assert 0.85 < numbers["smallest_kept"] <= 1


def test_pictures_of_several_sizes_become_one_size(make_scene, tmp_path):
    folder = write_colmap_folder(tmp_path / "ball", n=5, models=("PINHOLE",) * 2, sizes=(SIZE, (96, 72)))
    files = make_scene(tmp_path, "ball", capture_of(folder))
    assert {image(path).shape for path in files.frames.glob("*.png")} == {(48, 64, 3)}
    assert {image(path).shape for path in files.raw.glob("*.png")} == {(48, 64, 3), (72, 96, 3)}
    reference = read_json(files.reference_poses)
    camera, poses = Camera(**reference["camera"]), [np.array(p) for p in reference["poses"].values()]
    for k, pose in enumerate(poses):  # the ball's middle, in the middle of what is red or blue
        u, v, _ = project(camera, pose, np.zeros((1, 3)))[0]
        rows, columns = np.nonzero(image(files.frames / f"frame_{k:05d}.png").max(-1) > 40)
        assert columns.mean() + 0.5 == pytest.approx(u, abs=0.4)
        assert rows.mean() + 0.5 == pytest.approx(v, abs=0.4)


def test_pictures_without_a_pose_are_left_out_and_counted(folder, make_scene, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for name in ("more.png", "deep/down.jpg"):
        (copy / "images" / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (5, 5)).save(copy / "images" / name)
    files = make_scene(tmp_path, "ball", capture_of(copy))
    assert read_status(files.status("capture")).numbers["left_out"] == 2
    assert len(read_json(files.frames_index)["frames"]) == 12


def test_pictures_are_taken_as_stored_whatever_their_orientation_tag_says(make_scene, tmp_path):
    folder = write_colmap_folder(tmp_path / "ball", n=3)
    path = folder / "images" / "IMG_1.png"
    before, exif = image(path), Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(before).save(path, exif=exif)
    files = make_scene(tmp_path, "ball", capture_of(folder))
    np.testing.assert_array_equal(image(files.frames / "frame_00001.png"), before)


def test_a_model_without_observations_gives_poses_and_no_points_to_methods(make_scene, tmp_path):
    folder = write_colmap_folder(tmp_path / "ball", points=0)
    files = made(make_scene, tmp_path, folder)
    assert main(["poses", str(files.root), "--count", "4", "--spec", json.dumps(SFM)]) == 0
    poses = files.poses("4", "reference", "incremental", "none", 0, 0)
    assert read_status(poses.status()).numbers["points"] == 0
    assert not poses.points.exists()
    assert read_status(files.status("reference")).numbers["mean_reprojection_error"] is None


@pytest.mark.parametrize("where", ["sparse/0", "sparse"])
def test_the_model_may_lie_in_either_folder_and_binary_wins(folder, tmp_path, where):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    model = Path(shutil.move(copy / "sparse" / "0", tmp_path / "model"))
    shutil.rmtree(copy / "sparse")
    (copy / where).parent.mkdir(exist_ok=True)
    shutil.move(model, copy / where)
    for name in ("cameras", "images", "points3D"):
        (copy / where / f"{name}.txt").write_text("not looked at")
    content = read_colmap(copy)
    assert content.sparse == copy / where
    assert len(content.views) == 12


def rewrite(old: str, new: str):
    def damage(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("cameras", rewrite("SIMPLE_PINHOLE 64", "PINHOLES 64"), "unknown model 'PINHOLES'"),
        ("cameras", rewrite("SIMPLE_PINHOLE 64", "PINHOLE 64"), "line 4: a PINHOLE camera has 4 parameters, not 3"),
        ("cameras", rewrite(" 64 48", " 64 nan"), "cameras.txt: line 4: "),
        ("cameras", rewrite("SIMPLE_PINHOLE 64 48 ", "SIMPLE_PINHOLE 64 48 -"), "camera 1 has the focal length -"),
        ("cameras", rewrite("SIMPLE_PINHOLE 64 48 ", "SIMPLE_PINHOLE -64 48 "), "cameras.txt: line 4: "),
        ("cameras", lambda path: path.write_text("# nothing\n"), "is of camera 1, which is not there"),
        ("images", rewrite(" 1 IMG_3.png", " 7 IMG_3.png"), "is of camera 7, which is not there"),
        ("images", rewrite(" 1 IMG_3.png", " 1 IMG_4.png"), "a picture is listed twice"),
        ("images", rewrite(" 1 IMG_3.png", " 1 ../../IMG_3.png"), "not the name of a file without a path that"),
        ("images", rewrite(" 1 IMG_3.png", " 1 /etc/passwd"), "not the name of a file without a path that"),
        ("images", rewrite(" 1 IMG_3.png", ""), "is not an image: number, pose, camera and name"),
        ("images", rewrite(" -1 \n", "\n"), "values are not x, y and point of each observation"),
        ("images", lambda path: path.write_text(""), "COLMAP model without images"),
        ("images", lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not text in UTF-8"),
        ("points3D", lambda path: path.write_text("1 2 3"), "line 1: it is not a point"),
        ("points3D", lambda path: path.write_text("1 nan 3 4 1 2 3 0.5"), "point 1 has a number that is not finite"),
        ("points3D", lambda path: path.write_text("1 2 3 4 1 2 300 0.5"), "points3D.txt: line 1: "),
        ("points3D", lambda path: path.write_text(""), "an image sees a point that is not there"),
        ("points3D", Path.unlink, "has no whole COLMAP model in sparse/0"),
    ],
)
def test_a_mistake_in_a_model_of_text_is_one_line_that_names_it(tmp_path, name, damage, message):
    folder = write_colmap_folder(tmp_path / "ball", n=5, text=True)
    damage(folder / "sparse" / "0" / f"{name}.txt")
    with pytest.raises(UserError) as caught:
        read_colmap(folder)
        read_given_model(folder / "sparse" / "0")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_in_the_folder_are_named(folder, tmp_path):
    with pytest.raises(UserError, match=r"no such folder with a COLMAP model: .*nowhere"):
        read_colmap(tmp_path / "nowhere")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    Image.new("RGB", (32, 24)).save(copy / "images" / "IMG_7.png")
    with pytest.raises(UserError, match=r"IMG_7\.png is 32x24, its camera in .*sparse/0 is 64x48"):
        read_colmap(copy)
    (copy / "images" / "IMG_7.png").unlink()
    (copy / "images" / "IMG_10.png").unlink()
    with pytest.raises(UserError, match=r"images/IMG_7\.png is missing, which .*sparse/0 has a pose for \(2 of 12 are"):
        read_colmap(copy)
    shutil.rmtree(copy / "images")
    with pytest.raises(UserError, match=r"copy/images is missing"):
        read_colmap(copy)
    shutil.rmtree(copy / "sparse")
    with pytest.raises(UserError, match=r"copy has no whole COLMAP model in sparse/0"):
        read_colmap(copy)
    fish = write_colmap_folder(tmp_path / "fish", n=2, models=("OPENCV_FISHEYE",))
    with pytest.raises(UserError, match=r"camera 1 is OPENCV_FISHEYE; allowed are .* image_undistorter"):
        read_colmap(fish)


@pytest.mark.parametrize("mask", ["{}.png", "{}"])
@pytest.mark.parametrize("subfolders", [False, True])
def test_masks_are_found_under_the_names_of_their_pictures(make_scene, tmp_path, mask, subfolders):
    folder = write_colmap_folder(tmp_path / "ball", n=3, mask=mask, subfolders=subfolders)
    files = make_scene(tmp_path, "ball", capture_of(folder))
    make_masks(files, OWN, "object")
    for frame in read_json(files.frames_index)["frames"]:
        np.testing.assert_array_equal(
            image(files.masks("object") / frame["name"]), image(folder / "masks" / mask.format(frame["file_path"]))
        )


def test_the_plan_checks_model_pictures_and_masks(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    scene = {**capture_of(copy), **OWN}
    config = {"study": "s", "results": str(tmp_path / "r"), "scenes": {"ball": scene}, "counts": [11]}
    config["methods"] = [{"method": "nerfacto"}]
    check_scenes(make(config))
    with pytest.raises(UserError, match="12 is more than the pool of scene 'ball': 11 frames"):
        check_scenes(make(config | {"counts": [12]}))
    (copy / "masks" / "IMG_3.png.png").unlink()
    message = r"masks has no mask for IMG_3\.png; put IMG_3\.png\.png or IMG_3\.png there"
    with pytest.raises(UserError, match=message):
        check_scenes(make(config))
    (copy / "images" / "IMG_3.png").unlink()
    with pytest.raises(UserError, match=r"IMG_3\.png is missing"):
        check_scenes(make(config))


def test_the_lenses_of_the_helper_are_what_they_are_called():
    for model in ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE"):
        assert colmap_lens(SIZE, model).verify_params()


def test_pictures_can_be_written_whatever_is_loaded_first(tmp_path):
    code = "import data.colmap_capture, cv2, numpy as np; cv2.imwrite('a.png', np.zeros((480, 640, 3), np.uint8))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a.png").exists()
