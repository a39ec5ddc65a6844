"""Nearest points on triangles are exact, whatever their sizes and however far the points."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from trimesh.triangles import closest_point

from eval.closest import nearest_on_triangles, nearest_points


def brute_force(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    return np.array(
        [
            np.linalg.norm(closest_point(triangles, np.broadcast_to(p, (len(triangles), 3))) - p, axis=1).min()
            for p in points
        ]
    )


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0])
def test_distances_are_those_of_brute_force(spread):
    rng = np.random.default_rng(1)
    small = rng.normal(size=(400, 3, 3)) * 0.02 + rng.normal(size=(400, 1, 3))
    large = rng.normal(size=(6, 3, 3)) * 3
    needles = rng.normal(size=(20, 1, 3)) + np.linspace(0, 1, 3)[:, None] * rng.normal(size=(20, 1, 3))
    dots = np.repeat(rng.normal(size=(5, 1, 3)), 3, axis=1)
    triangles = np.concatenate([small, large, needles, dots])
    points = rng.normal(size=(300, 3)) * spread + rng.normal(size=(300, 3))
    found = nearest_on_triangles(points, triangles)
    np.testing.assert_allclose(found.distance, brute_force(points, triangles), atol=1e-12)
    own = np.linalg.norm(closest_point(triangles[found.index], points) - points, axis=1)
    np.testing.assert_allclose(own, found.distance, atol=1e-12)


def test_the_middle_of_a_ball_is_as_far_from_all_of_it():
    ball = trimesh.creation.icosphere(4)
    found = nearest_on_triangles(np.zeros((3, 3)), np.asarray(ball.triangles))
    np.testing.assert_allclose(found.distance, brute_force(np.zeros((1, 3)), np.asarray(ball.triangles))[0], atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 7, 33, 100])
def test_any_number_of_triangles_will_do(count):
    rng = np.random.default_rng(count)
    triangles, points = rng.normal(size=(count, 3, 3)), rng.normal(size=(50, 3))
    found = nearest_on_triangles(points, triangles)
    np.testing.assert_allclose(found.distance, brute_force(points, triangles), atol=1e-12)


def test_nothing_is_infinitely_far():
    points = np.zeros((2, 3))
    for found in (nearest_on_triangles(points, np.zeros((0, 3, 3))), nearest_points(points, np.zeros((0, 3)))):
        assert np.isinf(found.distance).all()
        assert (found.index == -1).all()
    assert len(nearest_on_triangles(np.zeros((0, 3)), np.zeros((4, 3, 3))).distance) == 0
