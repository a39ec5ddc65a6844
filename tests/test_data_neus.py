"""A folder in NeuS's format: matrices taken apart, sparse numbers, pictures of one pinhole, masks, every mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from data.masks.sources import make_masks
from data.neus import decompose, read_neus
from data.posed_source import posed_source
from data.poses import Camera, Sim3, opengl_from_opencv, project
from data.video import extract, ingest
from fieldbook.cli import main
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import SceneFiles
from fieldbook.scenes import check_scenes, make
from fieldbook.status import read_status

from .posed_folders import (
    DISTANCE,
    OFFSET,
    RADIUS,
    SCALE,
    ball_pose,
    film_ball,
    focal_of,
    intrinsics,
    scale_matrix,
    world_matrix,
    write_neus_folder,
)

SIZE = (64, 48)
FRAMES = {"count": "all", "pick": "sharpest"}


def capture_of(folder: Path) -> dict:
    return {"capture": {"kind": "neus", "path": str(folder)}}


def image(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def pinhole_film(camera: Camera, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a centred pinhole sees of the ball, by its own definition."""
    focal, middle = camera.fx, np.array([camera.width / 2, camera.height / 2])
    rays = lambda p: np.column_stack([(p - middle) / focal, np.ones(len(p))])  # noqa: E731
    return film_ball(rays, pose, (camera.width, camera.height))


def centroid(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(mask.shape)
    return np.array([(mask * rows).sum(), (mask * columns).sum()]) / mask.sum()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Numbers with holes; a centred pinhole."""
    return write_neus_folder(tmp_path_factory.mktemp("neus") / "ball", indices=(0, 3, 7, 8, 20))


@pytest.fixture(scope="module")
def files(folder, make_scene, tmp_path_factory):
    """The scene of ``folder`` after all its stages; tests only read it."""
    files = make_scene(tmp_path_factory.mktemp("results"), "ball", capture_of(folder))
    splits = {"split": {"test_every": 3, "file": None}, "nested": True}
    assert main(["splits", str(files.root), "--spec", json.dumps(splits)]) == 0
    return files


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Every picture with intrinsics of its own."""
    return write_neus_folder(tmp_path_factory.mktemp("varied") / "ball", n=4, varied=True)


focal = st.floats(50, 5000)
angles = st.tuples(*[st.floats(-3, 3)] * 3)
vectors = st.tuples(*[st.floats(-5, 5)] * 3)


@given(
    focal,
    st.floats(0.6, 1.7),
    st.floats(-0.2, 0.2),
    st.tuples(st.floats(1, 2000), st.floats(1, 2000)),
    angles,
    vectors,
    st.floats(1e-2, 1e3),
    vectors,
    st.floats(1e-3, 1e3),
    st.booleans(),
)
def test_matrices_put_together_come_apart_again(fx, ratio, skew, middle, turn, centre, scale, offset, factor, negative):
    k = np.array([[fx, skew * fx, middle[0]], [0, ratio * fx, middle[1]], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = Rotation.from_rotvec(turn).as_matrix(), centre
    scale_mat = scale_matrix(scale, 100 * np.array(offset))
    world_mat = world_matrix(k, pose, scale, 100 * np.array(offset)) * (-factor if negative else factor)
    found_k, found_pose = decompose((world_mat @ scale_mat)[:3])
    np.testing.assert_allclose(found_k, k, rtol=1e-6, atol=1e-6 * fx)
    np.testing.assert_allclose(found_pose, pose, atol=1e-6 * max(1, *np.abs(offset)) / min(scale, 1))
    assert found_k[2, 2] == 1
    assert (np.diag(found_k) > 0).all()
    assert found_k[1, 0] == found_k[2, 0] == found_k[2, 1] == 0


def test_pictures_are_found_by_number_and_frames_keep_it(folder, files):
    index = read_json(files.frames_index)["frames"]
    assert [f["name"] for f in index] == [f"frame_{k:05d}.png" for k in (0, 3, 7, 8, 20)]
    assert [f["source"] for f in index] == [f"{k:06d}.png" for k in (0, 3, 7, 8, 20)]
    for frame in index:  # one centred pinhole took them all: not a value differs
        np.testing.assert_array_equal(
            image(files.frames / frame["name"]), image(folder / "image" / f"{frame['index']:06d}.png")
        )


def test_the_reference_is_the_matrices_cameras_in_the_normalised_frame_with_the_world_beside_it(files):
    reference, numbers = read_json(files.reference_poses), read_status(files.status("reference")).numbers
    for name, pose in reference["poses"].items():
        np.testing.assert_allclose(pose, ball_pose(int(name[6:11])), atol=1e-9)
    camera = Camera(**reference["camera"])
    assert (camera.width, camera.height, camera.cx, camera.cy) == (64, 48, 32, 24)
    assert camera.fx == camera.fy == pytest.approx(focal_of(SIZE))
    assert reference["box"] == [[-1, -1, -1], [1, 1, 1]]
    assert (numbers["registered"], numbers["points"], numbers["resampled"], numbers["smallest_kept"]) == (5, 0, 0, 1)
    world = Sim3.from_json(reference["world"])
    np.testing.assert_allclose(world.points(np.array([0.1, 0.2, -0.3])), SCALE * np.array([0.1, 0.2, -0.3]) + OFFSET)
    assert not files.reference_sparse.exists()


def test_test_frames_are_held_out_by_the_rule_and_the_scene_is_the_unit_sphere(files):
    splits, scene = read_json(files.splits), read_json(files.scene)
    assert (splits["test"], len(splits["pool"])) == (["frame_00003.png"], 4)
    np.testing.assert_allclose(scene["poi_in_colmap"], 0, atol=1e-6)
    np.testing.assert_allclose(scene["bounds"], np.array([[-1] * 3, [1] * 3]) / DISTANCE, atol=1e-6)
    assert scene["near"] * DISTANCE <= DISTANCE - 1
    assert scene["far"] * DISTANCE >= DISTANCE + 1


@pytest.mark.parametrize(
    "keys",
    [
        {"matrices": "cameras.npz"},
        {"picture": "{:03d}.jpg"},
        {"picture": "rect_{:d}.PNG"},
        {"edit": lambda mats: mats.update({k: (-3.0 * v).astype(np.float32) for k, v in mats.items() if "world" in k})},
        {"edit": lambda mats: mats.update(camera_mat_0=np.eye(4), object_names=np.array(["a", "b"]))},
    ],
)
def test_what_other_programs_write_is_read_as_well(tmp_path, keys):
    content = read_neus(write_neus_folder(tmp_path / "ball", indices=(2, 30), **keys))
    assert [view.index for view in content.views] == [2, 30]
    for view in content.views:
        np.testing.assert_allclose(view.pose, ball_pose(view.index), atol=1e-4)  # float32 of matrices in millimetres
        assert view.lens.mean_focal_length() == pytest.approx(focal_of(SIZE), rel=1e-4)


def test_pictures_and_masks_with_cameras_of_their_own_become_what_one_pinhole_would_have_filmed(
    varied, make_scene, tmp_path
):
    files = make_scene(tmp_path, "ball", capture_of(varied))
    numbers = make_masks(files, {"masks": {"object": {"kind": "given"}}}, "object")
    assert (numbers["masks"], numbers["soft"], numbers["resized_from_raw"]) == (4, 4, 0)
    reference = read_json(files.reference_poses)
    camera = Camera(**reference["camera"])
    assert (camera.width, camera.height, camera.cx, camera.cy) == (64, 48, 32, 24)
    assert camera.fx == camera.fy
    for name, pose in reference["poses"].items():
        rgb, mask = pinhole_film(camera, np.array(pose))
        assert np.abs(image(files.frames / name).astype(int) - rgb).mean() < 1.0  # of 255; edges of a coarse picture
        soft = image(files.masks("object") / name)
        assert np.abs(soft.astype(int) - mask).mean() < 1.5
        assert np.linalg.norm(centroid(soft) - centroid(mask)) < 0.05  # pixels; half of one, were centres mistaken
        untouched = image(varied / "image" / f"{int(name[6:11]):06d}.png").astype(int)
        assert np.abs(untouched - rgb).mean() > 3  # so that the bound above says something


def test_a_point_is_seen_in_the_same_pixel_content_before_and_after(varied, make_scene, tmp_path):
    files = make_scene(tmp_path, "ball", capture_of(varied))
    reference, k_of = read_json(files.reference_poses), lambda i: intrinsics(SIZE, i, True)
    camera = Camera(**reference["camera"])
    for name, pose in reference["poses"].items():
        pose, before = np.array(pose), image(varied / "image" / f"{int(name[6:11]):06d}.png")
        after = image(files.frames / name)
        towards = pose[:3, 3] / DISTANCE
        normals = towards + 0.5 * np.random.default_rng(0).uniform(-1, 1, (40, 3))
        points = RADIUS * normals / np.linalg.norm(normals, axis=1, keepdims=True)
        in_camera = (points - pose[:3, 3]) @ opengl_from_opencv(pose)[:3, :3] @ k_of(int(name[6:11])).T
        old = np.floor(in_camera[:, :2] / in_camera[:, 2:]).astype(int)
        new = np.floor(project(camera, pose, points)[:, :2]).astype(int)
        inside = (new >= 0).all(1) & (new < SIZE).all(1)
        difference = before[old[:, 1], old[:, 0]].astype(int) - after[new[inside][:, 1], new[inside][:, 0]]
        assert inside.all()
        assert np.median(np.abs(difference)) <= 12  # one pixel's shading


def test_no_pixel_is_invented_and_the_status_says_how_much_is_lost(varied, make_scene, tmp_path):
    files = make_scene(tmp_path, "ball", capture_of(varied))
    numbers, camera = (
        read_status(files.status("reference")).numbers,
        Camera(**read_json(files.reference_poses)["camera"]),
    )
    corners = np.array([[0.5, 0.5], [63.5, 0.5], [0.5, 47.5], [63.5, 47.5]])
    kept = []
    for k in range(4):
        directions = np.column_stack([(corners - [32, 24]) / camera.fx, np.ones(4)])
        places = directions @ intrinsics(SIZE, k, True)[:2].T
        assert (places >= 0.5 - 1e-5).all()
        assert (places <= np.array(SIZE) - 0.5 + 1e-5).all()
        fx, fy = np.diag(intrinsics(SIZE, k, True))[:2]
        kept.append(fx * fy / camera.fx**2)
    assert numbers["smallest_kept"] == pytest.approx(min(kept), abs=1e-3)
    assert numbers["resampled"] == 4
    assert 0.8 < min(kept) < 0.95


def test_soft_masks_stay_soft_where_nothing_is_resampled_and_when_they_are_scaled(folder, files):
    make_masks(files, {"masks": {"object": {"kind": "given"}}}, "object")
    values = {}
    for name in read_json(files.reference_poses)["poses"]:
        values[name] = image(files.masks("object") / name)
        np.testing.assert_array_equal(values[name], image(folder / "mask" / f"{int(name[6:11]):03d}.png"))
    assert main(["images", str(files.root), "--long-side", "32"]) == 0
    from data.images import scale_masks

    scale_masks(files, "object", 32)
    for name, value in values.items():
        averages = value.reshape(24, 2, 32, 2).mean((1, 3))
        assert np.abs(image(files.scaled_masks("object", 32) / name) - averages).max() <= 0.51


def change(key: str, value) -> dict:
    def edit(mats: dict) -> None:
        mats[key] = value(mats[key]) if callable(value) else value

    return {"edit": edit}


def drop(key: str) -> dict:
    return {"edit": lambda mats: mats.pop(key)}


def put(row: int, column: int, number: float):
    def edit(mat: np.ndarray) -> np.ndarray:
        mat = mat.copy()
        mat[row, column] = number
        return mat

    return edit


NO_CAMERA = "gives focal lengths .* which no camera of .*000003.png has, 64x48"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (drop("scale_mat_3"), r"cameras_sphere\.npz has no scale_mat_3; "),
        (drop("world_mat_3"), r"has no world_mat_3; "),
        ({"edit": dict.clear}, r"has no world_mat_0 or any other number"),
        (change("world_mat_3", np.full((4, 4), np.nan)), "world_mat_3 has a number that is not finite"),
        (change("scale_mat_3", put(0, 3, np.inf)), "scale_mat_3 has a number that is not finite"),
        (change("world_mat_3", put(0, 0, 1e200)), "world_mat_3 has a number that is not finite, or above 1e"),
        (change("world_mat_3", np.zeros((4, 4))), "world_mat_3 is singular"),
        (change("world_mat_3", lambda m: m[[0, 0, 2, 3]]), "world_mat_3 is singular"),
        (change("world_mat_3", np.eye(3)), r"world_mat_3 has shape \[3, 3\]"),
        (change("world_mat_3", np.array(["a"])), r"world_mat_3 has shape \[1\]"),
        (change("world_mat_3", np.zeros((1000, 1000))), r"world_mat_3 has 8000128 bytes, which no 4x4 matrix has"),
        (change("scale_mat_3", lambda m: m @ np.diag([1, 1, 2, 1])), "scale_mat_3 is no similarity"),
        (change("scale_mat_3", lambda m: m @ np.diag([1, 1, -1, 1])), "scale_mat_3 is no similarity"),
        (change("scale_mat_3", lambda m: -m), "scale_mat_3 is no similarity"),
        (change("scale_mat_3", np.zeros((4, 4))), "scale_mat_3 is no similarity"),
        (change("scale_mat_3", put(3, 0, 0.5)), "scale_mat_3 is no similarity"),
        (change("scale_mat_3", lambda m: m @ np.diag([1.01, 1.01, 1.01, 1])), "scale_mat_3 differs from scale_mat_0"),
        (change("scale_mat_3", put(1, 3, 0.0)), "scale_mat_3 differs from scale_mat_0"),
        (change("world_mat_3", lambda m: np.diag([2, 2, 1, 1]) @ m), NO_CAMERA),
        (change("world_mat_3", lambda m: np.diag([1, 3, 1, 1]) @ m), NO_CAMERA),
        (change("world_mat_3", np.eye(4)), NO_CAMERA),
        (change("world_mat_9", np.eye(4)), r"has no scale_mat_9"),
        (
            {"edit": lambda m: m.update(world_mat_9=np.eye(4), scale_mat_9=scale_matrix())},
            r"has no picture 000009\.png",
        ),
        ({"edit": lambda m: [m.pop(f"{k}_mat_3") for k in ("world", "scale")]}, "has no world_mat_3 for 000003.png"),
    ],
)
def test_a_mistake_in_the_matrices_is_one_line_that_names_file_and_number(tmp_path, keys, message):
    folder = write_neus_folder(tmp_path / "ball", indices=(0, 3), **keys)
    with pytest.raises(UserError, match=message) as caught:
        read_neus(folder)
    assert "cameras_sphere.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_in_the_matrices_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "touched",))

    folder = write_neus_folder(tmp_path / "ball", n=2, **change("world_mat_0", np.array([Trap()], dtype=object)))
    with pytest.raises(UserError, match=r"cameras_sphere\.npz is not a whole file of NumPy matrices"):
        read_neus(folder)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no archive"])
def test_matrices_that_are_no_archive_are_named(folder, tmp_path, content):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "cameras_sphere.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"cameras_sphere\.npz is not a whole file"):
        read_neus(copy)
    (copy / "cameras_sphere.npz").unlink()
    with pytest.raises(UserError, match=r"copy has no cameras_sphere\.npz or cameras\.npz"):
        read_neus(copy)
    with pytest.raises(UserError, match=r"no such folder in NeuS's format: .*nowhere"):
        read_neus(tmp_path / "nowhere")


def test_mistakes_among_the_pictures_are_named(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    pictures = copy / "image"
    (pictures / "cover.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"cover\.png has no number in its name"):
        read_neus(copy)
    (pictures / "cover.png").rename(pictures / "0003.jpg")
    with pytest.raises(UserError, match=r"0003\.jpg and 000003\.png are both number 3|000003\.png and 0003\.jpg are"):
        read_neus(copy)
    (pictures / "0003.jpg").unlink()
    Image.new("RGB", (63, 48)).save(pictures / "000007.png")
    with pytest.raises(UserError, match=r"000007\.png is 63x48, 000000\.png is 64x48; all must have one size"):
        read_neus(copy)
    (pictures / "000007.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"000007\.png is not a readable image"):
        read_neus(copy)
    shutil.rmtree(pictures)
    with pytest.raises(UserError, match=r"image is missing; it holds the pictures"):
        read_neus(copy)


def damage_mask(folder: Path, what: str) -> None:
    mask = folder / "mask" / "007.png"
    if what == "missing":
        mask.unlink()
    elif what == "size":
        Image.new("L", (32, 24)).save(mask)
    elif what == "ones":
        Image.fromarray(np.ones((48, 64), np.uint8)).save(mask)
    elif what == "damaged":
        mask.write_bytes(b"no picture")
    else:
        shutil.rmtree(mask.parent)


@pytest.mark.parametrize(
    ("what", "message", "planned"),
    [
        ("missing", r"mask has no mask for 000007\.png; put 007\.png there", True),
        ("size", r"007\.png is 32x24, its picture is 64x48", True),
        ("damaged", r"007\.png is not a readable image", True),
        ("folder", r"there is no folder .*mask; put the capture's masks there", True),
        ("ones", r"007\.png has values up to 1 only", False),
    ],
)
def test_mistakes_among_the_masks_are_named_in_the_plan_and_leave_nothing_behind(
    folder, make_scene, tmp_path, what, message, planned
):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    files = make_scene(tmp_path, "ball", capture_of(copy))
    damage_mask(copy, what)
    with pytest.raises(UserError, match=message):
        make_masks(files, {"masks": {"object": {"kind": "given"}}}, "object")
    assert not files.masks("object").exists()
    if planned:
        with pytest.raises(UserError, match=message):
            check_scenes(study(tmp_path / "other", copy, masks={"object": {"kind": "given"}}))


def study(root: Path, folder: Path, **keys):
    scene = {"capture": {"kind": "neus", "path": str(folder)}, **keys}
    counts = [keys.pop("counts", "all")] if "counts" in keys else ["all"]
    scene.pop("counts", None)
    config = {"study": "s", "results": str(root), "scenes": {"ball": scene}, "counts": counts}
    return make(config | {"methods": [{"method": "nerfacto"}]})


def test_the_plan_checks_the_folder_and_the_counts(folder, tmp_path):
    split = {"split": {"test_every": 3}}
    check_scenes(study(tmp_path, folder, counts=4, **split))
    with pytest.raises(UserError, match="5 is more than the pool of scene 'ball': 4 frames"):
        check_scenes(study(tmp_path, folder, counts=5, **split))
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "image" / "000007.png").unlink()
    with pytest.raises(UserError, match=r"has no picture 000007\.png for world_mat_7"):
        check_scenes(study(tmp_path, copy))
    with pytest.raises(UserError, match=r"scenes\.ball\.frames\.count is 3; a neus capture lists its own frames"):
        study(tmp_path, folder, frames={"count": 3})


def test_given_masks_are_refused_for_captures_without_any(folder, tmp_path):
    scene = {"capture": {"kind": "images", "path": str(folder / "image")}, "masks": {"object": {"kind": "given"}}}
    config = {"study": "s", "results": str(tmp_path), "scenes": {"b": scene}, "counts": ["all"]}
    with pytest.raises(UserError, match=r"scenes\.b\.masks: only a neus or colmap capture comes with masks"):
        make(config | {"methods": [{"method": "nerfacto"}]})


def test_a_folder_that_changes_between_capture_and_frames_is_refused(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    files, keys = SceneFiles(tmp_path / "scene"), capture_of(copy) | {"frames": FRAMES}
    assert ingest(files, keys) == {"frame_count": 5, "expected_frame_count": 5, "lost_frames": 0, "left_out": 0}
    assert extract(files, keys) == {"frames": 5, "source_frames": 5}
    mats = dict(np.load(copy / "cameras_sphere.npz"))
    mats["world_mat_3"] = world_matrix(intrinsics(SIZE, 3, False), ball_pose(4))
    np.savez(copy / "cameras_sphere.npz", **mats)
    with pytest.raises(UserError, match=r"is no longer what capture\.json says"):
        extract(files, keys)


def test_a_kind_without_poses_is_not_read_as_one(tmp_path):
    with pytest.raises(UserError, match=r"capture\.kind 'neuss' has no poses"):
        posed_source(tmp_path, {"kind": "neuss"})


def test_the_plan_of_such_a_folder_needs_no_torch(folder):
    code = "import sys; from pathlib import Path; from fieldbook.scenes import _check_posed; "
    code += f"_check_posed('neus', Path({str(folder)!r}), {{'masks': {{'m': {{'kind': 'given'}}}}, 'split': "
    code += "{'test_every': 8}}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
