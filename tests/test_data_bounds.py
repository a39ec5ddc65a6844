"""Near, far and bounds of a box hold every point of it that any camera can see, and no more than needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.bounds import MIN_NEAR, bounds_of_ball, bounds_of_box, near_far_of_box
from data.poses import Sim3

BOX = np.array([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]])


@given(st.integers(0, 10_000), st.floats(0.05, 5), st.floats(2.7, 20))
def test_every_point_of_the_box_lies_between_near_and_far(seed, scale, distance):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 3))
    centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
    near, far = near_far_of_box(centres, BOX, scale)
    points = np.concatenate([rng.uniform(BOX[0], BOX[1], (200, 3)), rng.choice([-1.5, 1.5], (8, 3))])
    reach = scale * np.linalg.norm(points[:, None] - centres, axis=-1)
    assert near <= max(reach.min() * (1 + 1e-9), MIN_NEAR)
    assert far >= reach.max() * (1 - 1e-9)
    # The nearest point of a box is the camera, clamped to it; the farthest is a corner.
    nearest = min(np.linalg.norm(c - np.clip(c, *BOX)) for c in centres)
    assert near == pytest.approx(max(scale * nearest, MIN_NEAR))
    assert far <= scale * (distance + np.linalg.norm(BOX[1])) * (1 + 1e-9)


def test_a_camera_inside_the_box_still_has_a_near_plane():
    assert near_far_of_box(np.array([[0.2, 0, 0], [4.0, 0, 0]]), BOX, 0.25)[0] == MIN_NEAR


@given(st.integers(0, 10_000), st.floats(0.05, 5))
def test_bounds_are_the_box_itself_along_the_worlds_axes_and_hold_it_along_others(seed, scale):
    shift = np.random.default_rng(seed).normal(size=3)
    np.testing.assert_allclose(bounds_of_box(Sim3(scale, np.eye(3), shift), BOX), scale * BOX + shift)
    turned = Sim3(scale, Rotation.random(rng=seed).as_matrix(), shift)
    low, high = bounds_of_box(turned, BOX)
    corners = turned.points(np.array([[x, y, z] for x in (-1.5, 1.5) for y in (-1.5, 1.5) for z in (-1.5, 1.5)]))
    assert (corners >= low - 1e-9).all()
    assert (corners <= high + 1e-9).all()
    np.testing.assert_allclose([low, high], [corners.min(0), corners.max(0)])


@given(st.integers(0, 10_000), st.floats(0.05, 5))
def test_bounds_of_a_ball_are_as_large_however_its_world_is_turned(seed, scale):
    shift = np.random.default_rng(seed).normal(size=3)
    turned = Sim3(scale, Rotation.random(rng=seed).as_matrix(), shift)
    low, high = bounds_of_ball(turned, BOX)
    np.testing.assert_allclose(high - low, 3 * scale)
    centre = turned.points(np.zeros((1, 3)))[0]
    np.testing.assert_allclose((low + high) / 2, centre, atol=1e-9)
