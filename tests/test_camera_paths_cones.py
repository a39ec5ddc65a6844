"""Cones, orbits and spirals: every camera where the spec says, looking at the POI, with a steady roll."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from camera_paths.cones import cone, cone_distance, even_azimuths_rad, ring, upright
from camera_paths.orbits import orbit, spherical
from camera_paths.spiral import spiral
from data.poses import angle_between_rad, rotation_angle_rad

ANGLE_RAD = st.floats(0, np.radians(85))
DISTANCE = st.floats(0.05, 20)
VIEWS = st.integers(1, 24)
ROLL = st.sampled_from(["fixed", "follow"])
Z = np.array([0.0, 0.0, 1.0])


@st.composite
def unit_vectors(draw):
    v = np.array([draw(st.floats(-1, 1)) for _ in range(3)])
    assume(np.linalg.norm(v) > 0.1)
    return v / np.linalg.norm(v)


def assert_rigid_and_looking_at_origin(poses):
    rotations, eyes = poses[:, :3, :3], poses[:, :3, 3]
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (len(poses), 1, 1)), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-9)
    np.testing.assert_array_equal(poses[:, 3], np.tile([0, 0, 0, 1], (len(poses), 1)))
    np.testing.assert_allclose(rotations[:, :, 2], eyes / np.linalg.norm(eyes, axis=1, keepdims=True), atol=1e-9)


@given(unit_vectors(), ANGLE_RAD, DISTANCE, VIEWS, ROLL)
def test_cone_cameras_look_at_the_poi_from_the_right_height_and_radius(axis, angle_rad, distance, views, roll):
    poses = cone(axis, angle_rad, distance, views, roll)
    assert poses.shape == (views, 4, 4)
    assert_rigid_and_looking_at_origin(poses)
    heights = poses[:, :3, 3] @ axis
    radii = np.linalg.norm(poses[:, :3, 3] - heights[:, None] * axis, axis=1)
    np.testing.assert_allclose(heights, distance * np.cos(angle_rad), atol=1e-9 * distance)
    np.testing.assert_allclose(radii, distance * np.sin(angle_rad), atol=1e-9 * distance)


@given(ANGLE_RAD, DISTANCE)
def test_cone_of_a_height_has_that_height_and_radius_d_tan_a(angle_rad, height):
    eye = cone(Z, angle_rad, cone_distance(angle_rad, height, None), 1, "fixed")[0, :3, 3]
    assert eye @ Z == pytest.approx(height)
    assert np.linalg.norm(eye[:2]) == pytest.approx(height * np.tan(angle_rad), abs=1e-9)


def test_cone_distance_takes_a_distance_as_it_is_and_refuses_neither():
    assert cone_distance(1.0, None, 2.5) == 2.5
    with pytest.raises(ValueError, match="height or a distance"):
        cone_distance(1.0, None, None)


@given(unit_vectors(), st.floats(0.05, np.radians(85)), st.integers(2, 24), ROLL)
def test_neighbouring_cone_cameras_are_all_equally_far_apart(axis, angle_rad, views, roll):
    eyes = cone(axis, angle_rad, 1.0, views, roll)[:, :3, 3]
    steps = np.linalg.norm(np.roll(eyes, -1, axis=0) - eyes, axis=1)
    np.testing.assert_allclose(steps, 2 * np.sin(angle_rad) * np.sin(np.pi / views), atol=1e-9)


@given(unit_vectors(), ANGLE_RAD, st.integers(1, 12))
def test_fixed_roll_keeps_the_captures_up_upright_in_every_view(axis, angle_rad, views):
    up = upright(axis)
    poses = cone(axis, angle_rad, 1.0, views, "fixed")
    for right, camera_up, backward in poses[:, :3, :3].transpose(0, 2, 1):
        if np.linalg.norm(np.cross(up, backward)) > 1e-6:  # else no up is seen, any roll is right
            assert abs(right @ up) < 1e-6
            assert camera_up @ up > 0


@given(unit_vectors(), st.floats(0, 1e-3), ROLL)
def test_cone_poses_are_continuous_through_angle_zero(axis, angle_rad, roll):
    beta = angle_between_rad(axis, upright(axis))
    assume(min(beta, np.pi - beta) > 0.05)
    at_zero, small = (cone(axis, a, 1.0, 8, roll) for a in (0.0, angle_rad))
    np.testing.assert_allclose(small[:, :3, 3], at_zero[:, :3, 3], atol=1.001 * angle_rad + 1e-9)
    turn = rotation_angle_rad(small[:, :3, :3] @ at_zero[:, :3, :3].transpose(0, 2, 1))
    # Roll grows like cot(beta) times the angle, with beta the angle between view and up.
    assert turn.max() <= angle_rad * (1 + 1.5 / np.tan(0.04)) + 1e-7


def test_small_steps_of_the_angle_stay_small_steps_of_the_pose():
    axis = np.array([0.6, 0.0, 0.8])
    for roll in ("fixed", "follow"):
        cones = np.stack([cone(axis, a, 1.0, 8, roll) for a in np.radians(np.arange(0, 20, 0.1))])
        turn = rotation_angle_rad(cones[1:, :, :3, :3] @ cones[:-1, :, :3, :3].swapaxes(-1, -2))
        assert np.degrees(turn).max() < 0.5


@pytest.mark.parametrize("axis", [Z, -Z, np.array([0, np.sin(0.05), np.cos(0.05)])])
def test_an_axis_along_up_takes_the_documented_up(axis):
    pose = cone(axis, 0.0, 1.0, 1, "fixed")[0]
    np.testing.assert_allclose(pose[:3, 1], [-1, 0, 0], atol=0.06)


@given(unit_vectors(), st.integers(2, 12))
def test_at_angle_zero_fixed_views_coincide_and_following_views_turn_evenly(axis, views):
    fixed, follow = (cone(axis, 0.0, 1.0, views, roll) for roll in ("fixed", "follow"))
    np.testing.assert_allclose(fixed, np.tile(fixed[:1], (views, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(follow[0], fixed[0], atol=1e-9)
    steps = rotation_angle_rad(np.roll(follow, -1, axis=0)[:, :3, :3] @ follow[:, :3, :3].swapaxes(-1, -2))
    np.testing.assert_allclose(steps, 2 * np.pi / views, atol=1e-6)


@given(unit_vectors(), ANGLE_RAD, VIEWS)
def test_following_cameras_are_one_camera_turned_about_the_axis(axis, angle_rad, views):
    poses = cone(axis, angle_rad, 1.0, views, "follow")
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    for pose, phi in zip(poses, even_azimuths_rad(views), strict=True):
        turn = np.eye(4)
        turn[:3, :3] = np.eye(3) + np.sin(phi) * k + (1 - np.cos(phi)) * k @ k  # Rodrigues
        np.testing.assert_allclose(pose, turn @ poses[0], atol=1e-9)


def test_a_view_along_up_itself_still_has_a_pose():
    axis = np.array([np.sin(0.5), 0.0, np.cos(0.5)])
    poses = cone(axis, 0.5, 1.0, 2, "fixed")  # azimuth 180 degrees looks straight down
    np.testing.assert_allclose(poses[1, :3, 3], Z, atol=1e-12)
    assert_rigid_and_looking_at_origin(poses)


@given(unit_vectors(), st.floats(-np.pi / 2, np.pi / 2), DISTANCE, st.integers(2, 30), st.floats(-2, 2))
def test_orbit_keeps_elevation_distance_and_level(pole, elevation_rad, distance, views, turns):
    poses = orbit(pole, distance, elevation_rad, views, turns, 0.3)
    assert_rigid_and_looking_at_origin(poses)
    np.testing.assert_allclose(poses[:, :3, 3] @ pole, distance * np.sin(elevation_rad), atol=1e-9 * distance)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), distance)
    np.testing.assert_allclose(poses[:, :3, 0] @ pole, 0, atol=1e-9)


def test_orbit_starts_at_its_azimuth_and_turns_counter_clockwise():
    poses = orbit(Z, 1.0, 0.0, 4, 1.0, np.radians(90))
    np.testing.assert_allclose(poses[:2, :3, 3], [[0, 1, 0], [-1, 0, 0]], atol=1e-12)


@given(st.floats(0.1, 5), st.floats(-0.95, 0.95), st.integers(2, 40))
def test_spherical_is_a_level_circle_of_radius_sqrt_d2_minus_h2(distance, ratio, views):
    height = ratio * distance
    poses = spherical(distance, height, views)
    assert_rigid_and_looking_at_origin(poses)
    np.testing.assert_allclose(poses[:, 2, 3], height, atol=1e-9)
    np.testing.assert_allclose(np.hypot(*poses[:, :2, 3].T), np.sqrt(distance**2 - height**2))
    assert (poses[:, 2, 1] > 0).all()


@given(unit_vectors(), st.floats(0.5, 5), st.floats(0.01, 0.4), st.floats(0, 0.4))
def test_spiral_stays_within_its_radii_about_the_axis(axis, distance, radius, depth):
    poses = spiral(axis, distance, (radius, depth), 2.0, 0.5, 40)
    assert_rigid_and_looking_at_origin(poses)
    along = poses[:, :3, 3] @ axis
    sideways = np.linalg.norm(poses[:, :3, 3] - along[:, None] * axis, axis=1)
    np.testing.assert_allclose(sideways, radius, atol=1e-9)
    assert along.min() >= distance - depth - 1e-9
    assert np.ptp(along) == pytest.approx(2 * depth, rel=0.05, abs=1e-9)


def test_spiral_closes_where_turns_and_depth_swings_are_whole():
    poses = spiral(Z, 1.0, (0.2, 0.1), 2.0, 0.5, 400)
    steps = np.linalg.norm(np.roll(poses, -1, axis=0)[:, :3, 3] - poses[:, :3, 3], axis=1)
    assert steps.max() < 1.5 * np.median(steps)


def test_ring_at_the_poles_is_the_limit_of_rings_near_them():
    for polar in (0.0, np.pi):
        near = ring(Z, abs(polar - 1e-7), 1.0, even_azimuths_rad(5))
        np.testing.assert_allclose(ring(Z, polar, 1.0, even_azimuths_rad(5)), near, atol=1e-6)
