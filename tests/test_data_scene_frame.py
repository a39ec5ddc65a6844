"""The scene frame: found whatever frame COLMAP chose, robust to bad aims, honest where it cannot be found."""

import json

import numpy as np
import pycolmap
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from data.point_of_interest import axes_meeting
from data.poses import Sim3, angle_between_rad, look_at, matrix, opengl_from_opencv
from data.robust_geometry import crowded_value, direction_spread_rad, fit_plane, meeting_point
from data.scene_frame import Cloud, make_scene_frame, read_cloud, scene_frame_from
from data.synthetic.path import arc_poses
from fieldbook.errors import Infeasible
from fieldbook.files import write_json
from fieldbook.layout import SceneFiles

NORMAL = np.array([0.0, 0.0, 1.0])
NO_POINTS = np.zeros((0, 3))


def arc(count=24, span_deg=110, elevation_deg=45, distance=2.0, aim=0.0, seed=0):
    """Cameras on an arc about the origin, off their aim by ``aim`` of the distance, steadily plus a wobble."""
    rng = np.random.default_rng(seed)
    steady = rng.uniform(0, 2 * np.pi)
    poses = []
    for azimuth in np.radians(np.linspace(-span_deg / 2, span_deg / 2, count)):
        e = np.radians(elevation_deg) + rng.normal(0, 0.05)
        eye = distance * np.array([np.cos(e) * np.cos(azimuth), np.cos(e) * np.sin(azimuth), np.sin(e)])
        straight = look_at(eye, np.zeros(3), NORMAL)
        heading = steady + rng.normal(0, 0.5)
        target = straight[:3, :2] @ (aim * distance * np.array([np.cos(heading), np.sin(heading)]))
        poses.append(look_at(eye, target, NORMAL))
    return np.stack(poses)


def desk(count=400, size=1.5, clutter=0.2, seed=1):
    rng = np.random.default_rng(seed)
    points = np.column_stack([rng.uniform(-size, size, (count, 2)), rng.normal(0, 0.004, count)])
    lifted = rng.random(count) < clutter
    points[lifted, 2] = rng.uniform(0.05, 0.6, lifted.sum())
    return points


def cloud_of(points, cameras):
    """Every camera sees every point."""
    count = len(points)
    return Cloud(
        points,
        np.zeros((count, 3), np.uint8),
        np.tile(np.arange(count), cameras),
        np.repeat(np.arange(cameras), count),
    )


def frame_of(poses, points, poi=None):
    return scene_frame_from(poses, cloud_of(points, len(poses)), poi)


@st.composite
def similarities(draw):
    rotation = Rotation.random(rng=draw(st.integers(0, 2**31))).as_matrix()
    translation = np.array([draw(st.floats(-50, 50)) for _ in range(3)])
    return Sim3(draw(st.floats(0.02, 50)), rotation, translation)


@given(similarities(), st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_the_frame_does_not_depend_on_colmaps_choice_of_frame(colmap_from_truth, seed):
    poses, points = arc(aim=0.07, seed=seed), desk(seed=seed)
    direct = frame_of(poses, points)
    moved = frame_of(colmap_from_truth.poses(poses), colmap_from_truth.points(points))
    np.testing.assert_allclose(
        moved.scene_from_colmap.poses(colmap_from_truth.poses(poses)),
        direct.scene_from_colmap.poses(poses),
        atol=1e-5,
    )
    np.testing.assert_allclose(moved.axis, direct.axis, atol=1e-5)
    np.testing.assert_allclose(moved.bounds, direct.bounds, atol=1e-5)
    assert (moved.near, moved.far) == pytest.approx((direct.near, direct.far))
    assert moved.axis_source == direct.axis_source


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_poi_is_the_origin_up_is_z_median_distance_is_one(seed):
    poses = arc(aim=0.07, seed=seed)
    frame = frame_of(poses, desk())
    sim = frame.scene_from_colmap
    np.testing.assert_allclose(sim.points(frame.poi_in_colmap), 0, atol=1e-12)
    scene = sim.poses(poses)
    assert np.median(np.linalg.norm(scene[:, :3, 3], axis=1)) == pytest.approx(1)
    up = scene[:, :3, 1].mean(0)
    np.testing.assert_allclose(up / np.linalg.norm(up), [0, 0, 1], atol=1e-9)
    assert np.linalg.det(sim.rotation) == pytest.approx(1)
    directions = scene[:, :3, 3] / np.linalg.norm(scene[:, :3, 3], axis=1, keepdims=True)
    assert directions.mean(0)[1] == pytest.approx(0, abs=1e-9)
    assert directions.mean(0)[0] > 0


# Two draws of six cameras, 619 and 962, throw the aims so far off that the point found lies beside the desk's middle
# and no plane is supported near it: the frame then says that its axis is the cameras'.
@pytest.mark.parametrize(("count", "seeds", "without_plane"), [(6, 1000, 2), (12, 300, 0), (40, 300, 0)])
def test_off_centre_aims_find_the_card_and_the_desks_normal(count, seeds, without_plane):
    misses = 0
    for seed in range(seeds):
        poses = arc(count, aim=0.09, seed=seed)
        frame = frame_of(poses, desk(seed=seed))
        assert frame.axis @ frame.scene_from_colmap.poses(poses)[:, :3, 3].mean(0) > 0
        if frame.axis_source != "plane":
            misses += 1
            continue
        assert np.linalg.norm(frame.poi_in_colmap) < 0.12 * 2.0
        normal = frame.scene_from_colmap.rotation @ NORMAL
        assert np.degrees(angle_between_rad(frame.axis, normal)) < 2
    assert misses <= without_plane


@pytest.mark.parametrize("seed", range(12))
def test_the_synthetic_captures_own_path_finds_its_card(seed):
    card = np.array([0.004, 0.004, 0.0])
    poses = arc_poses(seed, 60, card)
    frame = frame_of(poses, desk(size=0.2, clutter=0.25, seed=seed) * [1, 1, 0.3])
    distance = np.median(np.linalg.norm(poses[:, :3, 3] - card, axis=1))
    assert np.linalg.norm(frame.poi_in_colmap - card) < 0.12 * distance
    normal = frame.scene_from_colmap.rotation @ NORMAL
    assert np.degrees(angle_between_rad(frame.axis, normal)) < 5


def test_a_quarter_of_cameras_looking_elsewhere_does_not_move_the_poi():
    good = arc(24, aim=0.01)
    rng = np.random.default_rng(5)
    astray = [look_at(p[:3, 3], rng.uniform(-3, 3, 3), NORMAL) for p in arc(8, span_deg=60)]
    frame = frame_of(np.concatenate([good, astray]), NO_POINTS)
    assert np.linalg.norm(frame.poi_in_colmap) < 0.05
    share = frame.uncertainty["meeting_inlier_share"]
    assert share is not None
    assert 0.7 < share < 0.95


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_lines_through_a_point_meet_there_and_wobbly_ones_where_least_squares_says(seed):
    rng = np.random.default_rng(seed)
    target, origins = rng.normal(size=3), rng.normal(size=(12, 3)) * 4
    directions = (target - origins) / np.linalg.norm(target - origins, axis=1, keepdims=True)
    np.testing.assert_allclose(meeting_point(origins, directions).point, target, atol=1e-6)
    moved = origins + rng.normal(0, 0.02, (12, 3))

    def naive(x):
        return sum(np.linalg.norm(np.cross(x - o, d)) ** 2 for o, d in zip(moved, directions, strict=True))

    meeting = meeting_point(moved, directions)
    slow = minimize(naive, target, method="BFGS").x
    np.testing.assert_allclose(meeting.point, slow, atol=0.03)
    assert meeting.std < 0.1


def test_direction_spread_of_two_lines_is_half_their_angle():
    for angle_deg in (0.0, 1.0, 30.0):
        a = np.radians(angle_deg)
        lines = np.array([[1.0, 0, 0], [-np.cos(a), -np.sin(a), 0]])
        assert np.degrees(direction_spread_rad(lines)) == pytest.approx(angle_deg / 2, abs=1e-6)


def test_parallel_axes_are_infeasible_with_numbers():
    poses = np.stack([look_at(np.array([x, 0, 5.0]), np.array([x, 0, 0.0]), np.eye(3)[1]) for x in range(6)])
    with pytest.raises(Infeasible, match="nearly parallel") as result:
        frame_of(poses, desk())
    assert result.value.numbers["axis_spread_deg"] < result.value.numbers["needed_deg"]
    assert json.dumps(result.value.numbers)


def test_a_capture_that_looks_outwards_is_infeasible():
    poses = arc(12, span_deg=300)
    poses[:, :3, [0, 2]] *= -1  # turned round where they stand
    with pytest.raises(Infeasible, match="looks outwards") as result:
        frame_of(poses, desk())
    assert result.value.numbers["behind_share"] > 0.5


def test_a_sideways_sweep_with_shaky_aim_is_infeasible():
    rng = np.random.default_rng(2)
    poses = []
    for x in np.linspace(-1, 1, 20):
        eye = np.array([x, 0.0, 5.0])
        poses.append(look_at(eye, eye - np.array([*rng.normal(0, 0.06, 2), 1.0]), np.eye(3)[1]))
    with pytest.raises(Infeasible, match="axes"):
        axes_meeting(np.stack(poses))


def test_one_camera_is_infeasible():
    with pytest.raises(Infeasible, match="one camera"):
        frame_of(arc(1), desk())


@pytest.mark.parametrize("turned", [False, True])
def test_a_given_poi_overrides_whatever_the_axes_do(turned):
    poses = arc(12, aim=0.05)
    poses[:, :3, [0, 2]] *= -1 if turned else 1
    poi = np.array([0.1, -0.2, 0.0])
    frame = frame_of(poses, desk(), poi)
    np.testing.assert_array_equal(frame.poi_in_colmap, poi)
    assert frame.axis_source == "plane"
    assert frame.uncertainty["meeting_rms"] is None
    assert frame_of(poses[:1], NO_POINTS, poi).axis_source == "cameras"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 19])
def test_few_points_fall_back_to_the_mean_direction_to_the_cameras(count):
    poses = arc(12)
    frame = frame_of(poses, desk(count, size=0.3, clutter=0))
    assert frame.axis_source == "cameras"
    directions = frame.scene_from_colmap.poses(poses)[:, :3, 3]
    mean = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).mean(0)
    np.testing.assert_allclose(frame.axis, mean / np.linalg.norm(mean), atol=1e-9)
    assert 0 < frame.near < frame.far


@pytest.mark.parametrize("shape", ["line", "strip", "same", "ball"])
def test_points_that_are_no_plane_give_no_plane(shape):
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(300, 3))
    ball *= 0.4 / np.linalg.norm(ball, axis=1, keepdims=True)
    points = {
        "line": np.linspace(-0.4, 0.4, 50)[:, None] * np.eye(3)[0],
        "strip": rng.normal(0, [0.3, 0.03, 0.0], (100, 3)),
        "same": np.zeros((50, 3)),
        "ball": ball,
    }
    assert frame_of(arc(12), points[shape]).axis_source == "cameras"


@pytest.mark.parametrize("beyond", [-0.4, 0.4])
def test_a_narrow_sweep_that_converges_off_the_surface_is_moved_onto_it(beyond):
    points = np.random.default_rng(0).normal(0, 0.05, (60, 3))
    poses = arc(20, span_deg=30)
    depth = -poses[:, :3, 2].mean(0)
    aim = beyond * depth / np.linalg.norm(depth)
    poses = np.stack([look_at(p[:3, 3], aim, NORMAL) for p in poses])
    np.testing.assert_allclose(axes_meeting(poses).point, aim, atol=1e-6)
    assert np.linalg.norm(frame_of(poses, points).poi_in_colmap) < 0.05
    np.testing.assert_allclose(frame_of(poses, points[:4]).poi_in_colmap, aim, atol=1e-6)


def test_near_and_far_hold_every_observed_point_and_the_poi():
    poses, points = arc(20, aim=0.05), desk()
    frame = frame_of(poses, points)
    sim = frame.scene_from_colmap
    reach = [np.linalg.norm(x - eye) for eye in sim.poses(poses)[:, :3, 3] for x in [*sim.points(points), np.zeros(3)]]
    assert 0 < frame.near <= 0.5 * np.percentile(reach, 1)
    assert frame.near < min(reach)
    assert frame.far > max(reach)
    assert (frame.bounds[0] < 0).all()
    assert (frame.bounds[1] > 0).all()


def test_stray_points_hardly_move_near_far_and_bounds():
    poses, points = arc(20), desk(1000)
    stray = np.concatenate([points, [[500.0, 0, 0], poses[0, :3, 3] * 0.999]])
    clean, dirty = frame_of(poses, points), frame_of(poses, stray)
    assert dirty.far < 1.1 * clean.far
    assert dirty.near > 0.8 * clean.near
    np.testing.assert_allclose(dirty.bounds, clean.bounds, atol=0.1)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_crowded_value_lies_in_the_shortest_half(values):
    found = crowded_value(np.array(values))
    half = len(values) // 2 + 1
    ordered = sorted(values)
    windows = [ordered[k : k + half] for k in range(len(values) - half + 1)]
    shortest = min(w[-1] - w[0] for w in windows)
    assert any(w[0] <= found <= w[-1] for w in windows if w[-1] - w[0] == shortest)


def test_fit_plane_ignores_two_fifths_of_outliers():
    rng = np.random.default_rng(0)
    turn = Rotation.from_rotvec([0.4, -0.3, 0.2]).as_matrix()
    points = np.concatenate([desk(300, 0.5, clutter=0), rng.uniform(-0.5, 0.5, (200, 3))]) @ turn.T
    plane = fit_plane(points, 0.02, np.random.default_rng(0))
    assert plane is not None
    tilt = angle_between_rad(plane.normal, turn @ NORMAL)
    assert np.degrees(min(tilt, np.pi - tilt)) < 0.5
    assert plane.inliers[:300].mean() > 0.98
    assert plane.rms < 0.01 < plane.width


def a_reconstruction(folder, frames=8, points=60):
    """A COLMAP model made by pycolmap, its poses as ``poses.json`` has them."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 1, 1, frames
    options.num_points3D = points
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)
    folder.mkdir(parents=True)
    model.write(str(folder))
    poses = {
        image.name: opengl_from_opencv(matrix(pose.rotation.matrix(), pose.translation))
        for image in model.images.values()
        for pose in [image.cam_from_world().inverse()]
    }
    return model, poses


def test_read_cloud_gives_every_points_observers(tmp_path):
    model, poses = a_reconstruction(tmp_path / "sparse")
    names = sorted(poses)[1:]
    cloud = read_cloud(tmp_path / "sparse", names)
    seen = {(tuple(cloud.points[p]), names[c]) for p, c in zip(cloud.point_of, cloud.camera_of, strict=True)}
    slow = set()
    for point in model.points3D.values():
        for element in point.track.elements:
            name = model.images[element.image_id].name
            if name in names:
                slow.add((tuple(point.xyz), name))
    assert seen == slow
    assert len(cloud.points) == len(cloud.colours) == 60


def test_stage_writes_scene_json_and_the_points_in_the_scene_frame(tmp_path):
    files = SceneFiles(tmp_path)
    model, poses = a_reconstruction(files.reference_sparse)
    camera = {"width": 64, "height": 48, "fx": 50.0, "fy": 50.0, "cx": 32.0, "cy": 24.0}
    write_json(files.reference_poses, {"camera": camera, "poses": {n: p.tolist() for n, p in poses.items()}})
    numbers = make_scene_frame(files, {"poi": None})
    scene = json.loads(files.scene.read_text())
    assert scene["camera"] == camera
    assert (scene["poi"], scene["up"], scene["camera_distance_median"]) == ([0, 0, 0], [0, 0, 1], 1)
    assert np.linalg.norm(scene["axis"]) == pytest.approx(1)
    sim = Sim3.from_json(scene["scene_from_colmap"])
    np.testing.assert_allclose(sim.points(np.array(scene["poi_in_colmap"])), 0, atol=1e-9)
    heights = [sim.poses(p)[2, 3] for p in poses.values()]
    assert scene["camera_height_mean"] == pytest.approx(np.mean(heights))
    cloud = trimesh.load(files.reference_points)
    assert isinstance(cloud, trimesh.PointCloud)
    ours = sim.points(np.array([p.xyz for p in model.points3D.values()]))
    np.testing.assert_allclose(np.sort(np.asarray(cloud.vertices), axis=0), np.sort(ours, axis=0), atol=1e-5)
    assert numbers["points"] == 60
    assert json.dumps(numbers, allow_nan=False)


def test_stage_takes_the_given_poi_and_leaves_no_stale_points(tmp_path):
    files = SceneFiles(tmp_path)
    _, poses = a_reconstruction(files.reference_sparse, points=0)
    camera = {"width": 640, "height": 480, "fx": 320.0, "fy": 320.0, "cx": 320.0, "cy": 240.0}
    write_json(files.reference_poses, {"camera": camera, "poses": {n: p.tolist() for n, p in poses.items()}})
    files.reference_points.write_text("of an earlier try")
    make_scene_frame(files, {"poi": [0.5, 0.0, 0.25]})
    assert json.loads(files.scene.read_text())["poi_in_colmap"] == [0.5, 0.0, 0.25]
    assert not files.reference_points.exists()


def test_a_given_poi_must_be_in_some_picture():
    from data.poses import Camera, look_at
    from data.scene_frame import _require_seen
    from fieldbook.errors import UserError

    camera = Camera(64, 48, 60.0, 60.0, 32.0, 24.0)
    poses = np.stack([look_at(np.array([x, 0, 1.0]), np.zeros(3), np.array([0, 1.0, 0])) for x in (-0.5, 0.5)])
    _require_seen(np.array([0.1, 0.0, 0.0]), camera, poses)
    for poi in ([1e6, 0.0, 0.0], [0.0, 0.0, 9.0]):  # far aside, and behind
        with pytest.raises(UserError, match="in none of the 2 pictures"):
            _require_seen(np.array(poi), camera, poses)
