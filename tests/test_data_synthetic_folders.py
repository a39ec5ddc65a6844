"""The object alone as posed folders: each format's own matrices put its surface where its pictures show it."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.ndimage import binary_dilation

from data.blender import read_blender
from data.synthetic.folders import FORMATS, Views, write_posed_folders, write_sample
from fieldbook.cli import main
from fieldbook.errors import UserError
from fieldbook.files import sha256_file, write_json

VIEWS = Views(train=5, test=2, size=64)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("posed")
    write_json(root / "truth" / "scene.json", {"subject": "object", "seed": 3, "texels_per_metre": 400.0})
    return write_posed_folders(root / "truth", root / "out", views=VIEWS)


def pixels_of(matrix, vertices):
    """``[n, 2]`` column and row of points, by a projection matrix ``[3, 4]``; all must be in front."""
    homogeneous = np.c_[vertices, np.ones(len(vertices))] @ matrix[:3].T
    assert (homogeneous[:, 2] > 0).all()
    return homogeneous[:, :2] / homogeneous[:, 2:]


def assert_silhouette(mask, pixels):
    """Every vertex falls into the mask, seen or not, and every pixel of the mask has a vertex near it."""
    column, row = np.floor(pixels).astype(int).T
    hit = np.zeros(mask.shape, bool)
    hit[row, column] = True
    around = np.ones((3, 3), bool)
    assert not (hit & ~binary_dilation(mask, around)).any()
    assert (mask & ~binary_dilation(hit, around)).sum() == 0
    assert 0.05 < mask.mean() < 0.6


def test_blender_matrices_project_the_surface_into_the_alpha(folders):
    folder = folders["blender"]
    surface, read = trimesh.load(folder / "object.ply", process=False), read_blender(folder)
    assert [len(read.of_split(split)) for split in ("train", "test")] == [5, 2]
    assert np.linalg.norm(surface.vertices, axis=1).max() == pytest.approx(1, abs=1e-5)
    for frame in read.frames:
        assert not frame.file_path.endswith(".png")
        picture = np.asarray(Image.open(frame.picture))
        assert picture.shape == (64, 64, 4)
        focal = 32 / np.tan(read.camera_angle_x / 2)
        # By hand: the format's camera looks along -z with y up, pictures have y down.
        local = np.linalg.inv(np.array(frame.matrix))[:3] * np.array([[1], [-1], [-1]])
        matrix = np.array([[focal, 0, 32], [0, focal, 32], [0, 0, 1]]) @ local
        assert_silhouette(picture[..., 3] >= 128, pixels_of(matrix, surface.vertices))


def test_neus_matrices_project_the_surface_into_the_masks(folders):
    folder = folders["neus"]
    surface, cameras = trimesh.load(folder / "object.ply", process=False), np.load(folder / "cameras_sphere.npz")
    assert sorted(p.name for p in (folder / "image").iterdir()) == [f"{k:06d}.png" for k in range(7)]
    split = json.loads((folder / "split_indices.json").read_text())
    assert split == {"train": [0, 1, 2, 3, 4], "test": [5, 6]}
    for k in range(7):
        world, scale = cameras[f"world_mat_{k}"], cameras[f"scale_mat_{k}"]
        mask = np.asarray(Image.open(folder / "mask" / f"{k:03d}.png")) > 127
        assert_silhouette(mask, pixels_of(world, surface.vertices))
        inside = np.c_[surface.vertices, np.ones(len(surface.vertices))] @ np.linalg.inv(scale).T
        assert 0.85 < np.linalg.norm(inside[:, :3], axis=1).max() < 0.95  # in the unit ball, with a margin
        assert_silhouette(mask, pixels_of(world @ scale, inside[:, :3]))
        picture = np.asarray(Image.open(folder / "image" / f"{k:06d}.png"))
        assert picture.shape == (64, 64, 3)
        assert (picture[~binary_dilation(mask, np.ones((3, 3)))] == 0).all()
        assert picture[mask].mean() > 60


def test_both_formats_show_the_same_pictures_and_the_same_surface(folders):
    rgba = np.asarray(Image.open(folders["blender"] / "train" / "r_2.png")).astype(float)
    on_black = rgba[..., :3] * rgba[..., 3:] / 255
    assert np.abs(on_black - np.asarray(Image.open(folders["neus"] / "image" / "000002.png"))).max() <= 1
    unit, metres = (trimesh.load(folders[name] / "object.ply", process=False) for name in FORMATS)
    assert unit.is_watertight
    assert np.array_equal(unit.faces, metres.faces)
    radius = np.linalg.norm(metres.vertices - metres.bounds.mean(axis=0), axis=1).max()
    assert np.allclose(unit.vertices * radius + metres.bounds.mean(axis=0), metres.vertices, atol=1e-6)


def test_cameras_stand_all_round_also_below_and_no_test_camera_is_a_training_camera(folders):
    frames = read_blender(folders["blender"])
    eyes = {s: np.array([f.matrix for f in frames.of_split(s)])[:, :3, 3] for s in ("train", "test")}
    assert np.allclose(np.linalg.norm(np.concatenate(list(eyes.values())), axis=1), 4)
    assert eyes["train"][:, 2].min() < -2 < 2 < eyes["train"][:, 2].max()
    assert np.linalg.norm(eyes["train"][:, None] - eyes["test"][None], axis=-1).min() > 0.3


def test_a_sample_of_the_same_seed_has_the_same_bytes_and_is_never_written_over(folders, tmp_path):
    write_sample(tmp_path / "again", "neus", 3, VIEWS)
    for path in folders["neus"].rglob("*.*"):
        assert sha256_file(tmp_path / "again" / path.relative_to(folders["neus"])) == sha256_file(path)
    with pytest.raises(UserError, match="is there already"):
        write_sample(tmp_path / "again", "neus", 3, VIEWS)


def test_the_command_says_in_one_line_what_is_wrong_and_writes_nothing(tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    for arguments, said in (
        ([str(tmp_path / "photos")], "is there already"),
        (["."], "is there already"),
        ([str(tmp_path / "new"), "--seed", "-1"], "seed is -1; allowed"),
        ([str(tmp_path / "new"), "--size", "8"], "size is 8; allowed"),
        ([str(tmp_path / "new"), "--test", "0"], "test is 0; allowed"),
    ):
        assert main(["sample", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.png"]


def test_a_card_has_no_back_and_is_refused(tmp_path):
    write_json(tmp_path / "scene.json", {"seed": 3, "texels_per_metre": 400.0})
    with pytest.raises(UserError, match="subject: object"):
        write_posed_folders(tmp_path, tmp_path / "out")
