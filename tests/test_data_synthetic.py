"""Properties of the synthetic capture: its video, its truth, and views rendered afterwards."""

import hashlib
import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import trimesh
from PIL import Image

from data.poses import Camera, Sim3, look_at, project
from data.synthetic.capture import make_capture, synthetic_camera
from data.synthetic.path import arc_poses, smooth_noise
from data.synthetic.render import load_scene, ray_directions, render_all, render_depths, render_views
from data.synthetic.scene import build_scene
from data.synthetic.things import DESK_HALF
from data.synthetic.truth import render_path_truth, truth_from_scene, truth_masks
from fieldbook.errors import UserError
from fieldbook.files import read_json, sha256_file, write_json
from fieldbook.layout import SceneFiles

SPEC = {"kind": "synthetic", "seed": 3, "frames": 6, "size": [96, 64]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    out = SceneFiles(tmp_path_factory.mktemp("scene"))
    make_capture(out, SPEC)
    return out


@pytest.fixture(scope="module")
def made(files):
    return read_json(files.truth / "scene.json")


@pytest.fixture(scope="module")
def poses(made):
    return np.array(list(made["truth_from_camera"].values()))


@pytest.fixture(scope="module")
def camera(made):
    return Camera(**made["camera"])


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def psnr(a, b):
    return -10 * np.log10(max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-6) / 255**2)


def view_from(made, azimuth_deg, elevation_deg, distance=0.2):
    a, e = np.radians([azimuth_deg, elevation_deg])
    centre = np.array(made["card_centre"])
    eye = centre + distance * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    return look_at(eye, centre, np.array([0.0, 0.0, 1.0]))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(files, tmp_path):
    build_scene.cache_clear()  # else the second capture would use the first one's scene
    again, other = SceneFiles(tmp_path / "again"), SceneFiles(tmp_path / "other")
    make_capture(again, SPEC)
    make_capture(other, SPEC | {"seed": 4})
    for path in ("source.mp4", "truth/scene.json", "truth/mesh.ply", "truth/depth/frame_00003.npy"):
        first, same, changed = (sha256_file(f.root / path) for f in (files, again, other))
        assert first == same != changed, path


def test_the_card_is_filmed_as_it_ever_was(files, made, poses):
    """So that studies stay comparable. Poses and depths are pinned as numbers: BLAS may round their last digit."""
    masks = b"".join(path.read_bytes() for path in sorted((files.truth / "masks").iterdir()))
    assert hashlib.sha256(masks).hexdigest() == "c895b1611e3117a3852c9921d293ca94d53e6a9bf450d1ddcd07699a9b92a813"
    mesh = sha256_file(files.truth / "mesh.ply")
    assert mesh == "427cc0d159e10af703f1c43cd868928b44fb34b68835f192dddfb7a9e821a660"
    keys = "seed units depth fps texels_per_metre camera card_centre card_normal card_size card_corners truth_from_card"
    assert list(made) == [*keys.split(), "light_direction", "truth_from_camera"]
    pose = [[0.989935, -0.112615, 0.08571, 0.028951], [0.1411, 0.832093, -0.536388, -0.147229]]
    assert np.allclose(poses[3, :2], pose, atol=1e-6)
    assert np.load(files.truth / "depth" / "frame_00003.npy").mean() == pytest.approx(0.265686, abs=1e-6)
    blocks = decoded(files.source_video)[3].astype(float).reshape(2, 32, 3, 32, 3).mean(axis=(1, 3))
    expected = [[[135.6, 112.3, 87.5], [151.1, 139.1, 125.2], [159.4, 146.1, 127.9]],
                [[178.4, 162.7, 143.5], [171.8, 142.2, 113.1], [155.0, 124.3, 95.5]]]  # fmt: skip
    assert np.allclose(blocks, expected, atol=0.1)


def test_the_card_alone_is_a_closed_plate(files, made):
    card = trimesh.load(files.truth_object, process=False)
    assert card.is_watertight
    assert card.is_winding_consistent
    assert (card.body_count, card.euler_number) == (1, 2)
    width, height = made["card_size"]
    corners_missing = (4 - np.pi) * 0.00318**2
    assert card.volume == pytest.approx((width * height - corners_missing) * 0.00076, rel=0.005)
    assert np.allclose(card.bounds[:, 2], [0, 0.00076], atol=1e-7)
    local = np.linalg.inv(np.array(made["truth_from_card"])) @ np.c_[card.vertices, np.ones(len(card.vertices))].T
    assert np.allclose(np.abs(local[:2]).max(axis=1), np.array(made["card_size"]) / 2, atol=1e-6)
    at_faces = card.vertex_normals[card.faces].mean(axis=1)
    assert ((at_faces * card.face_normals).sum(axis=1)).min() > 0.5


def test_the_video_has_exactly_the_frames_and_the_size_asked_for(files):
    assert [picture.shape for picture in decoded(files.source_video)] == [(64, 96, 3)] * 6


def test_every_frame_has_a_pose_a_depth_and_a_mask(files, made):
    names = [f"frame_{k:05d}" for k in range(6)]
    assert list(made["truth_from_camera"]) == names
    for name in names:
        depth = np.load(files.truth / "depth" / f"{name}.npy")
        mask = np.asarray(Image.open(files.truth / "masks" / f"{name}.png"))
        assert depth.dtype == np.float32
        assert depth.shape == mask.shape == (64, 96)
        assert set(np.unique(mask)) == {0, 255}


def test_a_view_from_a_frames_pose_is_the_videos_frame_up_to_compression(files, camera, poses):
    film = decoded(files.source_video)
    views = list(render_views(files.truth, camera, poses, supersample=3))
    matched = [psnr(view, picture) for view, picture in zip(views, film, strict=True)]
    shifted = [psnr(view, picture) for view, picture in zip(views[1:], film, strict=False)]
    # Half-size chroma costs these tiny, colourful pictures most of what is missing.
    assert min(matched) > 27
    assert min(matched) > max(shifted) + 8


def test_the_scene_is_rebuilt_from_its_json_alone(files, made, camera, poses, tmp_path):
    write_json(tmp_path / "scene.json", {k: made[k] for k in ("seed", "texels_per_metre")})
    here, there = (next(render_views(folder, camera, poses[:1])) for folder in (files.truth, tmp_path))
    assert np.array_equal(here, there)


def test_rays_agree_with_the_projection(camera, poses):
    x, y = np.array([0.5, 40.25, 95.5]), np.array([0.5, 30.0, 63.5])
    points = poses[0, :3, 3] + 0.7 * ray_directions(camera, poses[0], x, y).astype(float)
    assert np.allclose(project(camera, poses[0], points)[:, :2], np.stack([x, y], axis=1), atol=1e-3)


def test_the_mask_is_the_projected_card(files, made, poses):
    camera = synthetic_camera(320, 240)
    card, (width, height) = np.array(made["truth_from_card"]), made["card_size"]
    assert width / height == pytest.approx(85.60 / 53.98)
    for pose, (_, mask) in zip(poses, render_depths(files.truth, camera, poses), strict=True):
        corners = project(camera, pose, np.array(made["card_corners"]))[:, :2]
        polygon = np.zeros((240, 320), np.uint8)
        # OpenCV's integer points are pixel centres: ours are at +0.5; 4 fractional bits.
        cv2.fillPoly(polygon, [np.round((corners - 0.5) * 16).astype(np.int32)], 255, shift=4)
        both, either = ((mask > 0) & (polygon > 0)).sum(), ((mask > 0) | (polygon > 0)).sum()
        assert both / either > 0.95  # the rounded corners, and fillPoly's thick border, are missing
    assert card[2, 3] == pytest.approx(0.00076)


def test_depth_on_card_and_desk_is_the_distance_to_their_planes(files, made, camera, poses):
    y, x = (axis.ravel() + 0.5 for axis in np.indices((64, 96)))
    normal, centre = np.array(made["card_normal"]), np.array(made["card_centre"])
    for pose, (depth, mask) in zip(poses, render_depths(files.truth, camera, poses), strict=True):
        rays = ray_directions(camera, pose, x, y).astype(float)
        on_card = depth.ravel()[mask.ravel() > 0]
        plane = (normal @ (centre - pose[:3, 3]) / (rays @ normal))[mask.ravel() > 0]
        top = np.abs(on_card - plane) < 1e-5
        assert top.mean() > 0.95  # the card's thin edge is in the mask, too
        desk = pose[2, 3] / -rays[:, 2]
        reached = np.abs(pose[:2, 3] + desk[:, None] * rays[:, :2]).max(axis=1) < DESK_HALF
        error = depth.ravel() - desk
        assert (error[reached] < 1e-5).all()  # nothing is below the desk's top within its edges
        assert (np.abs(error[reached]) < 1e-5).mean() > 0.3


def test_depth_is_consistent_between_two_views(files, camera, poses):
    """A point seen in one view is, in the other, at the depth seen there or hidden by something nearer."""
    (depth, _), (other, _) = render_depths(files.truth, camera, poses[:2])
    y, x = (axis.ravel() + 0.5 for axis in np.indices(depth.shape))
    points = poses[0, :3, 3] + depth.reshape(-1, 1) * ray_directions(camera, poses[0], x, y).astype(float)
    pixels = project(camera, poses[1], points)
    column, row = np.floor(pixels[:, 0]).astype(int), np.floor(pixels[:, 1]).astype(int)
    inside = (column >= 0) & (column < 96) & (row >= 0) & (row < 64) & (pixels[:, 2] > 0)
    expected = np.linalg.norm(points - poses[1, :3, 3], axis=1)[inside]
    seen = other[row[inside], column[inside]]
    assert np.median(np.abs(seen - expected) / expected) < 0.01
    assert np.mean(seen > 1.05 * expected) < 0.05


def test_only_the_seal_changes_colour_with_the_view(files, made):
    """The same card points from two sides: paper keeps its colour, the seal does not."""
    card = np.array(made["truth_from_card"])
    camera = synthetic_camera(320, 240)
    scene = load_scene(files.truth)
    poses = np.stack([view_from(made, azimuth, 55) for azimuth in (-120, -90)])
    views = [view.rgb.astype(float) for view in render_all(scene, camera, poses)]
    w, h = made["card_size"]

    def mean_colours(u, v, radius):
        offsets = radius * np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)])
        local = np.array([[(u - 0.5) * w + a, (0.5 - v) * h + b, 0.0] for a, b in offsets])
        points = local @ card[:3, :3].T + card[:3, 3]
        pixels = [project(camera, pose, points)[:, :2].astype(int) for pose in poses]
        return [picture[p[:, 1], p[:, 0]].mean(axis=0) for picture, p in zip(views, pixels, strict=True)]

    left, right = mean_colours(0.862, 0.36, 0.003)
    assert np.abs(left - right).max() > 40
    left, right = mean_colours(0.5, 0.066, 0.001)
    assert np.abs(left - right).max() < 25


@pytest.mark.parametrize("seed", range(6))
def test_the_operator_aims_five_to_ten_percent_beside_the_card(seed):
    target = np.array([0.003, -0.002, 0.0008])
    poses = arc_poses(seed, 60, target)
    to_target = target - poses[:, :3, 3]
    distance = np.linalg.norm(to_target, axis=1)
    along = (to_target * -poses[:, :3, 2]).sum(axis=1)
    miss = np.sqrt(distance**2 - along**2) / distance
    assert miss.min() > 0.05
    assert miss.max() < 0.10


@pytest.mark.parametrize("seed", range(6))
def test_the_path_is_an_arc_of_proper_poses_at_hand_height(seed):
    poses = arc_poses(seed, 60, np.zeros(3))
    eyes = poses[:, :3, 3]
    assert np.allclose(poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2), np.eye(3), atol=1e-12)
    assert np.allclose(np.linalg.det(poses[:, :3, :3]), 1)
    azimuth = np.degrees(np.unwrap(np.arctan2(eyes[:, 1], eyes[:, 0])))
    elevation = np.degrees(np.arctan2(eyes[:, 2], np.linalg.norm(eyes[:, :2], axis=1)))
    assert 100 < np.ptp(azimuth) < 140
    assert elevation.min() > 34
    assert elevation.max() < 61
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert steps.max() < 0.05 * 0.27 * 2  # smooth: no step is more than 6 degrees of arc
    assert np.abs(poses[:, 2, 0]).max() > 0.005  # the hand rolls


def test_a_longer_recording_is_the_same_movement():
    assert np.allclose(arc_poses(5, 11, np.zeros(3))[::2], arc_poses(5, 6, np.zeros(3)))


def test_noise_is_bounded_and_smooth():
    values = smooth_noise(np.random.default_rng(0), 400, 1, 4)
    assert np.abs(values).max() <= 1
    assert np.abs(np.diff(values)).max() < 2 * np.pi * 4 / 399


def test_filtering_agrees_with_many_rays_per_pixel(files, poses):
    """One filtered ray inside surfaces, nine at borders, against 36 rays everywhere without reductions."""
    scene = load_scene(files.truth)
    coarse, fine = synthetic_camera(96, 64), synthetic_camera(576, 384)
    unfiltered = replace(scene, density=scene.density * 1e-6)
    view = next(render_all(scene, coarse, poses[:1], 3)).rgb
    many = next(render_all(unfiltered, fine, poses[:1], 1)).rgb.astype(float)
    assert psnr(view, many.reshape(64, 6, 96, 6, 3).mean(axis=(1, 3))) > 28


@pytest.mark.parametrize(
    ("key", "value"), [("seed", -1), ("frames", 1), ("size", [31, 64]), ("size", [65, 64]), ("size", [64])]
)
def test_a_bad_spec_is_named(key, value, tmp_path):
    with pytest.raises(UserError, match=f"capture.{key} is .*allowed"):
        make_capture(SceneFiles(tmp_path), SPEC | {key: value})


@pytest.fixture
def reconstructed(files, made, camera, poses, tmp_path):
    """The same scene as COLMAP might give it: turned, shrunk, with the last frame lost, then a scene frame."""
    truth_from_colmap = Sim3(
        0.31, look_at(np.array([1.0, 2, 3]), np.zeros(3), np.eye(3)[2])[:3, :3], np.array([0.1, 0, 2])
    )
    scene_from_colmap = Sim3(1.7, np.eye(3)[[1, 2, 0]], np.array([0.3, -1, 0.2]))
    root = SceneFiles(tmp_path / "scene")
    root.root.mkdir()
    (root.root / "truth").symlink_to(files.truth)
    names = [f"{name}.png" for name in made["truth_from_camera"]]
    colmap = truth_from_colmap.inverse().poses(poses)
    listed = dict(zip(names[:-1], colmap.tolist(), strict=False))
    write_json(root.reference_poses, {"camera": camera.to_json(), "poses": listed})
    write_json(root.scene, {"scene_from_colmap": scene_from_colmap.to_json()})
    write_json(root.frames_index, {"frames": [{"name": name} for name in names]})
    return root, truth_from_colmap @ scene_from_colmap.inverse()


def test_truth_from_scene_undoes_the_reconstructions_frame(reconstructed):
    root, expected = reconstructed
    found, points = truth_from_scene(root), np.random.default_rng(0).normal(size=(20, 3))
    assert np.allclose(found.points(points), expected.points(points), atol=1e-9)


def test_path_truth_shows_the_view_that_the_scene_pose_means(reconstructed, camera, poses, files, tmp_path):
    root, expected = reconstructed
    render_path_truth(root, camera, expected.inverse().poses(poses[2:3]), tmp_path / "out", ["view_000"])
    picture = np.asarray(Image.open(tmp_path / "out" / "view_000.png"))
    assert psnr(picture, next(render_views(files.truth, camera, poses[2:3], 3))) > 45
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["view_000.png"]


def test_truth_masks_fit_the_undistorted_frames_and_cover_the_unregistered_one(reconstructed, files, made, tmp_path):
    root, _ = reconstructed
    truth_masks(root, tmp_path / "masks")
    for name in made["truth_from_camera"]:
        ours = np.asarray(Image.open(tmp_path / "masks" / f"{name}.png"))
        filmed = np.asarray(Image.open(files.truth / "masks" / f"{name}.png"))
        assert (ours != filmed).sum() <= 2


def test_the_description_says_where_the_card_is(files, made):
    assert made["units"] == "metres"
    corners = np.array(made["card_corners"])
    assert np.allclose(corners.mean(axis=0), made["card_centre"])
    assert np.linalg.norm(corners[1] - corners[0]) == pytest.approx(made["card_size"][0])
    assert np.allclose((corners - made["card_centre"]) @ made["card_normal"], 0)
    assert json.loads((files.truth / "scene.json").read_text()) == made
