"""Properties of the synthetic object: its surface, its video from all round, its truth."""

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from data.point_of_interest import median_distance
from data.poses import Camera, look_at, project
from data.scene_frame import Cloud, scene_frame_from
from data.synthetic.capture import make_capture, synthetic_camera
from data.synthetic.glaze import charts
from data.synthetic.jug import JugShape, make_jug, on_handle, signed_distance
from data.synthetic.path import ORBIT_DISTANCE, orbit_poses
from data.synthetic.render import load_scene, ray_directions, render_depths, render_views
from data.synthetic.scene import build_scene
from fieldbook.errors import UserError
from fieldbook.files import read_json, sha256_file
from fieldbook.layout import SceneFiles

SPEC = {"kind": "synthetic", "subject": "object", "seed": 3, "frames": 8, "size": [96, 72]}
CENTRE = np.array([0.0, 0.0, 0.062])


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


@pytest.fixture(scope="module")
def surface(files):
    return trimesh.load(files.truth_object, process=False)


def test_the_same_seed_gives_the_same_bytes(files, tmp_path):
    build_scene.cache_clear()  # else the second capture would use the first one's scene
    make_jug.cache_clear()
    again = SceneFiles(tmp_path)
    make_capture(again, SPEC)
    listed = sorted(p.relative_to(files.root) for p in files.root.rglob("*") if p.is_file())
    assert [sha256_file(again.root / p) for p in listed] == [sha256_file(files.root / p) for p in listed]


def test_another_seed_gives_another_jug_and_another_walk():
    assert JugShape.of_seed(3) != JugShape.of_seed(4)
    assert not np.allclose(orbit_poses(3, 8, CENTRE), orbit_poses(4, 8, CENTRE), atol=0.01)


def test_the_surface_is_watertight_with_one_handle_and_normals_that_point_out(surface):
    assert surface.is_watertight
    assert surface.is_winding_consistent
    assert surface.body_count == 1
    assert surface.euler_number == 0  # a torus: the handle
    assert 1e-4 < surface.volume < 1e-3  # positive: faces seen from outside are counter-clockwise
    at_faces = surface.vertex_normals[surface.faces].mean(axis=1)
    assert ((at_faces * surface.face_normals).sum(axis=1)).min() > 0.3
    assert np.allclose(np.linalg.norm(surface.vertex_normals, axis=1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 200, 11))
def test_every_jug_stands_whole_inside_the_grid(seed):
    """A part that floats, or that the grid cuts off, would be another object."""
    jug = make_jug.__wrapped__(seed)
    mesh = trimesh.Trimesh(jug.vertices, jug.faces, process=False)
    assert mesh.is_watertight
    assert (mesh.body_count, mesh.euler_number) == (1, 0)
    assert mesh.area_faces.min() > 1e-10
    assert mesh.bounds[0, 2] == pytest.approx(0, abs=2e-5)
    assert 0.12 < mesh.bounds[1, 2] < 0.133
    # Marching cubes' error, and what keeps needles away.
    assert np.abs(signed_distance(JugShape.of_seed(seed), jug.vertices)).max() < 1e-4


def test_the_surface_has_flat_hollow_and_thin_parts(surface):
    shape = JugShape.of_seed(SPEC["seed"])
    turn = shape.turns_rad[1]
    out = np.array([np.cos(turn), np.sin(turn), 0])
    flat = surface.area_faces[surface.face_normals @ out > 0.9999].sum()
    assert flat > 2e-4  # square metres: the medallion
    below = surface.area_faces[surface.face_normals[:, 2] < -0.9999].sum()
    assert below > 1e-3  # the foot
    thin = on_handle(SPEC["seed"], surface.vertices)
    assert 0.02 < thin.mean() < 0.3
    concave = surface.face_adjacency_angles[~surface.face_adjacency_convex & (surface.face_adjacency_angles > 0.02)]
    assert len(concave) > 1000


def test_the_charts_have_every_face_once():
    jug = make_jug(SPEC["seed"])
    groups = [faces for _, faces in charts(jug, on_handle(SPEC["seed"], jug.vertices).astype(int))]
    assert np.array_equal(np.sort(np.concatenate(groups)), np.arange(len(jug.faces)))


def test_the_description_says_where_the_object_is(made, surface):
    assert made["subject"] == "object"
    assert np.allclose(made["object_centre"], surface.bounds.mean(axis=0), atol=1e-6)
    assert np.allclose(made["object_size"], np.ptp(surface.bounds, axis=0), atol=1e-6)
    away = np.linalg.norm(surface.vertices - made["object_centre"], axis=1)
    assert made["object_radius"] == pytest.approx(away.max(), abs=1e-6)


def test_masks_and_depth_agree_with_rays_cast_at_the_surface_alone(files, made, camera, poses, surface):
    y, x = (axis.ravel() + 0.5 for axis in np.indices((72, 96)))
    for name, pose in zip(made["truth_from_camera"], poses, strict=True):
        mask = np.asarray(Image.open(files.truth / "masks" / f"{name}.png")).ravel() > 0
        depth = np.load(files.truth / "depth" / f"{name}.npy").ravel()
        rays = ray_directions(camera, pose, x, y).astype(float)
        points, ray, _ = surface.ray.intersects_location(np.tile(pose[:3, 3], (len(rays), 1)), rays, False)
        distance = np.full(len(rays), np.inf)
        distance[ray] = np.linalg.norm(points - pose[:3, 3], axis=1)
        both = mask & np.isfinite(distance)
        assert both.sum() > 0.99 * mask.sum()
        assert np.abs(depth - distance)[both].max() < 1e-4
        hidden = ~mask & np.isfinite(distance)  # by something nearer, or on the outline
        assert ((depth < distance - 1e-3)[hidden]).sum() >= hidden.sum() - 3


def test_the_object_takes_more_than_half_of_the_pictures_height_and_is_in_it_whole(files, made):
    heights = []
    for name in made["truth_from_camera"]:
        mask = np.asarray(Image.open(files.truth / "masks" / f"{name}.png")) > 0
        rows = np.flatnonzero(mask.any(axis=1))
        heights.append((rows[-1] - rows[0] + 1) / len(mask))
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()
    assert 0.5 < np.median(heights) < 0.75


@pytest.mark.parametrize("seed", range(8))
def test_the_camera_goes_all_round_at_changing_height_and_looks_at_the_object(seed):
    poses = orbit_poses(seed, 48, CENTRE)
    offset = poses[:, :3, 3] - CENTRE
    azimuth = np.sort(np.degrees(np.arctan2(offset[:, 1], offset[:, 0])))
    assert np.diff(azimuth, append=azimuth[0] + 360).max() < 2 * 360 / 48
    travelled = np.degrees(np.unwrap(np.arctan2(offset[:, 1], offset[:, 0])))
    assert abs(travelled[-1] - travelled[0]) == pytest.approx(360, abs=10)
    distance = np.linalg.norm(offset, axis=1)
    assert np.abs(distance / ORBIT_DISTANCE - 1).max() < 0.07
    elevation = np.degrees(np.arcsin(offset[:, 2] / distance))
    assert elevation.min() > 18
    assert elevation.max() < 48
    assert np.ptp(elevation) > 18
    along = -(offset * -poses[:, :3, 2]).sum(axis=1)
    assert (np.sqrt(distance**2 - along**2) / distance).max() < 0.05
    assert np.allclose(poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2), np.eye(3), atol=1e-12)
    assert np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).max() < 0.06


@pytest.mark.parametrize("seed", range(4))
def test_the_scene_frame_of_a_walk_all_round_is_about_the_object_not_the_desk(seed):
    """The mean view of such a walk is straight down: sliding along it would put the origin on the desk."""
    rng, poses = np.random.default_rng(seed), orbit_poses(seed, 48, CENTRE)
    jug = make_jug(3).vertices
    desk = np.column_stack([rng.uniform(-0.3, 0.3, (4000, 2)), rng.normal(0, 1e-4, 4000)])
    points = np.concatenate([jug[rng.choice(len(jug), 2000)], desk])
    seen = np.repeat(np.arange(len(points)), 2)
    cloud = Cloud(points, np.zeros((len(points), 3), np.uint8), seen, rng.integers(0, 48, len(seen)))
    frame = scene_frame_from(poses, cloud)
    assert np.linalg.norm(frame.poi_in_colmap - CENTRE) < 0.01 * median_distance(poses[:, :3, 3], CENTRE)


@pytest.mark.parametrize("elevation_deg", [18, 45, 75])
def test_there_is_something_to_see_in_every_direction(files, elevation_deg):
    """Also from where nobody filmed: no ray leaves the scene, and nothing beside the object is black."""
    scene, camera = load_scene(files.truth), synthetic_camera(96, 72)
    a = np.radians(np.arange(0, 360, 45))
    e = np.radians(elevation_deg)
    eyes = CENTRE + 0.3 * np.column_stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.full(8, np.sin(e))])
    views = np.stack([look_at(eye, CENTRE, np.eye(3)[2]) for eye in eyes])
    y, x = (axis.ravel() + 0.5 for axis in np.indices((72, 96)))
    for pose in views:
        rays = ray_directions(camera, pose, x, y)
        face = scene.tracer.run(np.tile(pose[:3, 3].astype(np.float32), (len(rays), 1)), rays)
        assert (face < 0).mean() < 1e-3  # hairlines between triangles
    for picture, (depth, mask) in zip(
        render_views(files.truth, camera, views), render_depths(files.truth, camera, views), strict=True
    ):
        assert 0.05 < depth.min() < depth.max() < 6
        beside = picture[mask == 0].max(axis=1)
        assert (beside < 20).mean() < 0.01  # a puzzle's edges, a book's shadow
        assert picture[mask == 0].std() > 20


def test_the_object_looks_the_same_from_both_sides_of_a_point(files, made, surface):
    """Lambertian: what two views see of a point differs only by their filtering."""
    camera, centre = synthetic_camera(640, 480), np.array(made["object_centre"])
    eyes = [centre + 0.2 * np.array([np.cos(a), np.sin(a), 0.6]) for a in (2.0, 2.5)]
    views = np.stack([look_at(eye, centre, np.eye(3)[2]) for eye in eyes])
    pictures = list(render_views(files.truth, camera, views))
    depths = [depth for depth, _ in render_depths(files.truth, camera, views)]
    points = surface.vertices[:: max(1, len(surface.vertices) // 5000)]
    colours, seen = [], np.ones(len(points), bool)
    for pose, picture, depth in zip(views, pictures, depths, strict=True):
        u, v, _ = project(camera, pose, points).T
        column, row = u.astype(int), v.astype(int)
        seen &= np.abs(depth[row, column] - np.linalg.norm(points - pose[:3, 3], axis=1)) < 5e-4
        colours.append(picture[row, column].astype(float))
    difference = np.abs(colours[0] - colours[1])[seen].mean(axis=1)
    assert seen.sum() > 300
    assert np.median(difference) < 15
    shuffled = np.abs(colours[0][seen] - np.roll(colours[1][seen], 7, axis=0)).mean()
    assert difference.mean() < 0.5 * shuffled


def test_the_video_is_what_the_poses_see(files, camera, poses):
    with av.open(str(files.source_video)) as container:
        film = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    assert len(film) == 8
    for picture, view in zip(film, render_views(files.truth, camera, poses, 3), strict=True):
        assert np.abs(picture - view).mean() < 12  # half-size chroma, in a picture full of colours


def test_an_unknown_subject_is_named(tmp_path):
    with pytest.raises(UserError, match=r"capture\.subject is 'jug'; allowed: card, object"):
        make_capture(SceneFiles(tmp_path), SPEC | {"subject": "jug"})
    assert not any(tmp_path.iterdir())
