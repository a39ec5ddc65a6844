"""Numbers of surfaces whose distances are known: concentric balls, shifted squares, nothing at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from data.meshes import Mesh
from data.poses import Camera, Sim3, look_at
from eval.geometry import Comparison, Side, compare
from eval.regions import box_region, region_of, sphere_region
from eval.sampling import sample
from eval.visibility import MaskView, dilated, inside_masks, seen_by

CUBE = np.array([[-1.0] * 3, [1.0] * 3])
IDENTITY = Sim3(1.0, np.eye(3), np.zeros(3))
NO_FACES = np.zeros((0, 3), np.int64)


def ball(radius: float, subdivisions: int = 5) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions, radius=radius)
    return Mesh(np.array(made.vertices), np.array(made.faces))


def square(corner=(0.0, 0.0, 0.0), side: float = 1.0) -> Mesh:
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float) * side + corner
    return Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]))


def of(
    predicted: Mesh, true: Mesh, thresholds=(0.01,), count: int = 4000, region=None, distance="surface", **more
) -> Comparison:
    sides = [Side.of(m, sample(m, count, [0, k], region), distance) for k, m in enumerate((predicted, true))]
    return compare(sides[0], sides[1], tuple(thresholds), **more)


@pytest.mark.parametrize(("radius", "gap"), [(0.5, 0.02), (2.0, -0.3)])
def test_concentric_balls_are_their_gap_apart(radius, gap):
    found = of(ball(radius + gap), ball(radius), thresholds=(0.9 * abs(gap), 1.1 * abs(gap)))
    flat = 0.002 * radius  # of an icosphere's faces below the ball
    for value in (found.accuracy, found.completeness, found.chamfer, found.accuracy_median, found.hausdorff95):
        assert value == pytest.approx(abs(gap), abs=flat)
    assert [s.fscore for s in found.fscores] == [0.0, 1.0]
    assert found.normal_consistency == pytest.approx(1, abs=2e-3)
    assert found.normal_cosine == pytest.approx(1, abs=2e-3)


def test_a_surface_that_is_inside_out_has_the_opposite_normals_and_the_same_distances():
    inner, outer = ball(1.0, 4), ball(1.1, 4)
    turned = Mesh(outer.vertices, outer.faces[:, ::-1])
    right, wrong = of(outer, inner), of(turned, inner)
    assert wrong.normal_cosine == pytest.approx(-right.normal_cosine, abs=1e-3)
    assert wrong.normal_consistency == pytest.approx(right.normal_consistency, abs=1e-3)
    assert wrong.chamfer == pytest.approx(right.chamfer, rel=1e-2)


def test_a_square_above_another_is_its_height_away():
    found = of(square((0, 0, 0.25)), square(), thresholds=(0.2, 0.3))
    for value in (found.accuracy, found.completeness, found.hausdorff95):
        assert value == pytest.approx(0.25)
    assert [(s.precision, s.recall) for s in found.fscores] == [(0, 0), (1, 1)]


@pytest.mark.parametrize("shift", [0.2, 0.5])
def test_a_square_shifted_in_its_plane_is_half_the_squared_shift_away(shift):
    """Within the overlap 0; beyond it, evenly from 0 to the shift: the mean is shift^2 / 2."""
    found = of(square((shift, 0, 0)), square(), thresholds=(0.1,), count=40_000)
    assert found.accuracy == pytest.approx(shift**2 / 2, rel=0.05)
    assert found.completeness == pytest.approx(shift**2 / 2, rel=0.05)
    assert found.hausdorff95 == pytest.approx(shift - 0.05, rel=0.02)
    assert found.fscores[0].precision == pytest.approx(1 - (shift - 0.1), abs=0.01)


def test_half_a_square_is_accurate_but_not_complete():
    half = Mesh(square().vertices * [0.5, 1, 1], square().faces)
    found = of(half, square(), thresholds=(0.1,), count=40_000)
    assert found.accuracy == pytest.approx(0, abs=1e-12)
    assert found.completeness == pytest.approx(0.125, rel=0.03)
    (score,) = found.fscores
    assert (score.precision, score.recall) == (1.0, pytest.approx(0.6, abs=0.01))
    assert score.fscore == pytest.approx(2 * score.recall / (1 + score.recall))


def test_swapping_the_sides_swaps_accuracy_and_completeness():
    a, b = square((0.3, 0.1, 0.05)), square()
    sides = [Side.of(m, sample(m, 2000, [0, k])) for k, m in enumerate((a, b))]
    one, other = compare(*sides, (0.1,)), compare(*sides[::-1], (0.1,))
    assert (one.accuracy, one.completeness) == (other.completeness, other.accuracy)
    assert one.chamfer == other.chamfer
    assert one.fscores[0].precision == other.fscores[0].recall
    assert one.fscores[0].fscore == pytest.approx(other.fscores[0].fscore)


@settings(max_examples=10, deadline=None)
@given(st.floats(0.01, 100), st.floats(-3, 3), st.integers(0, 2**16))
def test_lengths_scale_with_the_surfaces_and_ratios_do_not(scale, angle, seed):
    turn = trimesh.transformations.rotation_matrix(angle, [1, 2, 3])[:3, :3]
    sim = Sim3(scale, turn, np.random.default_rng(seed).normal(size=3))
    a, b = square((0.2, 0.1, 0.3)), square()
    there, moved = of(a, b, count=300), of(a.moved(sim), b.moved(sim), thresholds=(0.01 * scale,), count=300)
    for name, value in there.lengths(scale).items():
        assert moved.lengths()[name] == pytest.approx(value, rel=1e-6), name
    assert moved.fscores[0].fscore == there.fscores[0].fscore
    assert moved.normal_consistency == pytest.approx(there.normal_consistency)


def test_nothing_predicted_is_incomplete_and_scores_0():
    for nothing in (Mesh(np.zeros((0, 3)), NO_FACES), Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]]))):
        found = of(nothing, square()) if nothing.is_points else of(nothing, square(), distance="points")
        assert (found.accuracy, found.completeness, found.chamfer, found.hausdorff95) == (None,) * 4
        assert found.fscores[0].fscore == found.fscores[0].recall == 0.0
        assert found.true_points == 4000


def test_no_truth_is_nothing_to_say():
    found = of(square(), Mesh(np.zeros((0, 3)), NO_FACES))
    assert (found.chamfer, found.fscores, found.true_points) == (None, (), 0)


def test_degenerate_triangles_change_nothing():
    whole = square()
    faces = np.concatenate([whole.faces, [[0, 0, 1], [2, 2, 2], [0, 1, 1]]])
    found = of(Mesh(whole.vertices, faces), square((0, 0, 0.1)))
    assert found.chamfer == pytest.approx(0.1)
    assert found.normal_consistency == pytest.approx(1)


def test_a_cloud_has_distances_but_no_normals_as_dtus_truth():
    cloud = Mesh(sample(square(), 20_000, [9]).points, NO_FACES)
    found = of(square((0, 0, 0.1)), cloud, distance="points", count=20_000)
    assert found.chamfer == pytest.approx(0.1, rel=1e-2)
    assert found.normal_consistency is None


def test_distances_to_points_are_never_below_those_to_the_surface():
    a, b = ball(1.0, 3), ball(1.02, 3)
    to_surface, to_points = of(a, b, count=2000), of(a, b, count=2000, distance="points")
    assert to_points.accuracy > to_surface.accuracy
    assert to_points.completeness > to_surface.completeness


def test_distances_above_the_limit_are_left_out_and_counted():
    two = Mesh(
        np.concatenate([square((0, 0, 0.1)).vertices, square((0, 0, 5)).vertices]),
        np.concatenate([square().faces, square().faces + 4]),
    )
    assert of(two, square()).accuracy == pytest.approx(2.55, rel=0.05)
    found = of(two, square(), max_distance=1.0)
    assert found.accuracy == pytest.approx(0.1)
    assert found.too_far == pytest.approx(2000, rel=0.1)


def test_points_are_spread_evenly_and_the_same_for_the_same_seed():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 3, 5]], float)
    two = Mesh(corners, np.array([[0, 1, 2], [3, 4, 5]]))  # areas 1 : 9
    found = sample(two, 20_000, [1])
    assert (found.points[:, 2] > 1).mean() == pytest.approx(0.9, abs=0.01)
    np.testing.assert_allclose(found.points[found.points[:, 2] > 1].mean(axis=0), [1, 1, 5], atol=0.03)
    np.testing.assert_array_equal(found.points, sample(two, 20_000, [1]).points)
    assert (found.points != sample(two, 20_000, [2]).points).any()


def test_a_region_gets_all_the_points_however_small_its_share_of_the_area():
    room = Mesh(
        np.concatenate([square((-50, -50, -1), 100).vertices, square(side=0.1).vertices]),
        np.concatenate([square().faces, square().faces + 4]),
    )
    region = box_region(np.array([-0.5, -0.5, -0.5]), np.array([0.5, 0.5, 0.5]))
    found = sample(room, 500, [0], region)
    assert len(found.points) == 500
    assert (found.points[:, 2] == 0).all()


def test_a_large_triangle_that_a_region_touches_gives_all_the_points_too():
    region = sphere_region(np.array([3.0, 4.0, 0.0]), 0.01)
    found = sample(square((-50, -50, 0), 100), 2000, [0], region)
    assert len(found.points) == 2000
    np.testing.assert_allclose(found.points.mean(axis=0), [3, 4, 0], atol=1e-3)
    assert (np.linalg.norm(found.points - [3, 4, 0], axis=1) < 0.005).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("turn", [0.0, 30.0])
def test_regions_hold_what_lies_in_them(turn):
    rotation = trimesh.transformations.rotation_matrix(math.radians(turn), [0, 0, 1])[:3, :3]
    points = np.random.default_rng(0).uniform(-3, 3, (5000, 3))
    sim = Sim3(2.0, rotation, np.array([0.1, 0.2, 0.3]))
    inside = sphere_region(np.array([0.5, 0, 0]), 1.2).contains(points)
    np.testing.assert_array_equal(inside, np.linalg.norm(points - [0.5, 0, 0], axis=1) <= 1.2)
    value = {"box": [[-1, -2, -1], [3, 2, 1]], "rotation": rotation.tolist()}
    region = region_of(value, sim, CUBE)
    own = (sim.points(points) - [1, 0, 0]) @ rotation
    np.testing.assert_array_equal(region.contains(points), (np.abs(own) <= [2, 2, 1]).all(axis=1))
    assert region_of("all", sim, CUBE) is None
    cube = region_of("cube", sim, CUBE)
    np.testing.assert_array_equal(cube.contains(points), np.abs(points).max(axis=1) <= 1)


def test_triangles_that_reach_into_a_region_are_never_left_out():
    rng = np.random.default_rng(3)
    triangles = rng.uniform(-3, 3, (500, 1, 3)) + rng.normal(size=(500, 3, 3))
    region = sphere_region(np.array([0.2, 0.1, 0.0]), 0.8)
    weights = rng.dirichlet(np.ones(3), 400)
    within = np.array([region.contains(weights @ t).any() for t in triangles])
    assert not (within & ~region.may_touch(triangles)).any()


def test_a_region_leaves_out_what_is_wrong_elsewhere():
    two = Mesh(
        np.concatenate([square().vertices, square((5, 0, 1)).vertices]),
        np.concatenate([square().faces, square().faces + 4]),
    )
    assert of(two, square()).accuracy > 1
    assert of(two, square(), region=sphere_region(np.array([0.5, 0.5, 0]), 2)).accuracy == pytest.approx(0, abs=1e-12)


CAMERA = Camera(64, 64, 64.0, 64.0, 32.0, 32.0)
UP = np.array([0.0, 1.0, 0.0])
FRONT, SIDE = look_at(np.array([0, 0, 3.0]), np.zeros(3), UP), look_at(np.array([3.0, 0, 0]), np.zeros(3), UP)


def test_masks_keep_what_all_or_some_views_show():
    """The front camera's mask keeps x > 0, the side camera's the upper half; a point behind both is seen by none."""
    right, top = np.zeros((64, 64), bool), np.zeros((64, 64), bool)
    right[:, 32:], top[:32] = True, True
    views = [MaskView(CAMERA, FRONT, right), MaskView(CAMERA, SIDE, top)]
    points = np.array([[0.5, 0.5, 0], [-0.5, 0.5, 0], [0.5, -0.5, 0], [-0.5, -0.5, 0], [9, 0, 9]])
    assert inside_masks(points, views, None).tolist() == [True, False, False, False, False]
    assert inside_masks(points, views, 1).tolist() == [True, True, True, False, False]
    assert inside_masks(points, views, 2).tolist() == [True, False, False, False, False]


def test_a_point_that_one_camera_does_not_have_in_its_picture_is_judged_by_the_others():
    keep = np.ones((64, 64), bool)
    views = [MaskView(CAMERA, FRONT, keep), MaskView(CAMERA, SIDE, ~keep)]
    out_of_the_side_view = np.array([[0.0, 0.0, 1.7]])
    assert inside_masks(out_of_the_side_view, views, None).tolist() == [True]


def test_masks_are_dilated_by_a_disc():
    mask = np.zeros((21, 21), bool)
    mask[10, 10] = True
    y, x = np.indices(mask.shape)
    np.testing.assert_array_equal(dilated(mask, 5), np.hypot(y - 10, x - 10) <= 5)
    assert (dilated(mask, 0) == mask).all()


def test_a_camera_sees_the_near_half_of_a_ball_and_nothing_behind_a_wall():
    surface = ball(1.0, 4)
    points = sample(surface, 3000, [0]).points
    triangles = surface.vertices[surface.faces]
    seen = seen_by(points, [(CAMERA, FRONT)], triangles)
    certain = np.abs(points[:, 2] - 1 / 3) > 0.05  # the horizon of a ball of 1 seen from 3
    np.testing.assert_array_equal(seen[certain], points[certain, 2] > 1 / 3)
    wall = square((-2, -2, 2), 4)
    hidden = np.concatenate([triangles, wall.vertices[wall.faces]])
    assert not seen_by(points, [(CAMERA, FRONT)], hidden).any()
    assert seen_by(points, [(CAMERA, FRONT), (CAMERA, SIDE)], hidden).any()
    assert seen_by(points, [(CAMERA, FRONT)], np.zeros((0, 3, 3))).all(), "a cloud hides nothing"
