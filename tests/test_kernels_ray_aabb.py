"""Where rays enter and leave a box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.kernels import reference
from methods.kernels.marching import MISS, ray_aabb

from .kernels_marches import DOWN, rays

pytestmark = pytest.mark.usefixtures("compiled_kernels")


def test_near_and_far_are_the_published_ones(device):
    origins = torch.tensor([[0.0, 0, 2], [0, 2, 2]], device=device)
    directions = torch.tensor([[0.0, 0, -1], [0, 0, -1]], device=device)
    near, far = ray_aabb(origins, directions, (-1, -1, -1, 1, 1, 1), 0.05)
    assert near.tolist() == [1.0, MISS]
    assert far.tolist() == [3.0, MISS]


@pytest.mark.parametrize(
    ("origin", "direction", "near", "far"),
    [
        ((0, 0, 0), (0, 0, 1), 0.2, 1.0),  # inside: near is the smallest allowed
        ((0, 0, 3), (0, 0, 1), 0.2, -2.0),  # box behind: far is not raised
        ((1, 0, 3), (0, 0, -1), 2.0, 4.0),  # along a face
        ((1, 1, 3), (0, 0, -1), 2.0, 4.0),  # along an edge
        ((1.001, 0, 3), (0, 0, -1), MISS, MISS),
        ((0, -1, 0), (1, 0, 0), 0.2, 1.0),  # from a point on a face, along it
        ((0, 0, 3), (0, 0, -2), 1.0, 2.0),  # t counts in the direction's length
        ((0, 0, 0), (0, 0, 0), 0.2, MISS),  # no direction, inside: for ever
        ((0, 0, 3), (0, 0, 0), MISS, MISS),
    ],
)
def test_near_and_far_at_the_edges(origin, direction, near, far, device):
    box = torch.tensor([-1.0, -1, -1, 1, 1, 1])
    for function in (ray_aabb, reference.ray_aabb):
        o, d = (torch.tensor([v], dtype=torch.float32, device=device) for v in (origin, direction))
        made = function(o, d, box, 0.2)
        assert [float(v) for v in made] == pytest.approx([near, far])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 70))
def test_near_and_far_equal_the_twin(seed, number):
    origins, directions = rays(number, seed)
    box = (-0.4, -0.7, -0.2, 0.5, 0.1, 0.9)
    made, want = (f(origins, directions, box) for f in (ray_aabb, reference.ray_aabb))
    assert torch.equal(made[0], want[0])
    assert torch.equal(made[1], want[1])


def test_points_at_near_and_far_lie_on_the_box():
    origins, directions = rays(200)
    low, high = torch.tensor([-0.4, -0.7, -0.2]), torch.tensor([0.5, 0.1, 0.9])
    near, far = ray_aabb(origins, directions, torch.cat([low, high]), -100.0)
    hit = near < MISS
    assert 0 < hit.sum() < 200
    for t in (near, far):
        outside = torch.maximum(low - (point := origins + t[:, None] * directions), point - high).amax(-1)[hit]
        # Rounding of t (up to 4 here) and of the point: a few units in the seventh digit.
        assert outside.abs().max() < 2e-6


def test_a_box_inside_out_is_an_error():
    with pytest.raises(ValueError, match="three minima, then three maxima"):
        ray_aabb(*DOWN, (1, 1, 1, -1, -1, -1))
