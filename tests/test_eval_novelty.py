"""Nearest training camera against a loop over all pairs."""

import math

import numpy as np
import pytest

from data.poses import matrix
from eval.novelty import novelty


def _poses(centres):
    rng = np.random.default_rng(1)  # orientations must not matter
    return np.stack([matrix(np.linalg.qr(rng.normal(size=(3, 3)))[0], np.asarray(c, float)) for c in centres])


def test_novelty_is_the_loop_over_all_pairs():
    rng = np.random.default_rng(0)
    views, training = rng.normal(size=(23, 3)), rng.normal(size=(17, 3))
    found = novelty(_poses(views), _poses(training))
    for k, view in enumerate(views):
        angles = [
            math.acos(view @ other / (math.dist(view, (0, 0, 0)) * math.dist(other, (0, 0, 0)))) for other in training
        ]
        best = min(range(len(training)), key=angles.__getitem__)
        assert found.index[k] == best
        assert found.angle_deg[k] == pytest.approx(math.degrees(angles[best]))
        assert found.distance[k] == pytest.approx(math.dist(view, training[best]))


def test_nearest_is_by_angle_not_by_distance():
    found = novelty(_poses([[1, 0, 0]]), _poses([[0.9, 0.5, 0], [5, 0, 0]]))
    assert (found.index[0], found.angle_deg[0], found.distance[0]) == (1, 0.0, 4.0)


def test_tiny_angles_survive():
    found = novelty(_poses([[1, 1e-9, 0]]), _poses([[1, 0, 0]]))
    assert found.angle_deg[0] == pytest.approx(math.degrees(1e-9), rel=1e-6)


def test_equally_near_cameras_give_the_first():
    assert novelty(_poses([[0, 0, 1]]), _poses([[1, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 3]])).index[0] == 2


def test_no_training_camera_and_a_camera_at_the_point_of_interest_are_refused():
    with pytest.raises(ValueError, match="at least one training camera"):
        novelty(_poses([[1, 0, 0]]), np.zeros((0, 4, 4)))
    with pytest.raises(ValueError, match="point of interest"):
        novelty(_poses([[0, 0, 0]]), _poses([[1, 0, 0]]))
