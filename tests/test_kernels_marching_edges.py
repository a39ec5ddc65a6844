"""Marches with nothing to do, too much to do, or wrong arguments."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from methods.kernels.marching import MISS, March, march, march_alive, ray_aabb

from .kernels_marches import SMALL, rays

pytestmark = pytest.mark.usefixtures("compiled_kernels")


def test_no_rays_no_hits_no_cells(device):
    none = torch.zeros(0, 3, device=device)
    empty = torch.zeros(SMALL.shape, dtype=torch.bool, device=device)
    full = ~empty
    near, far = ray_aabb(none, none, SMALL.aabb)
    assert march(none, none, near, far, full, SMALL).offsets.tolist() == [0]
    origins, directions = (v.to(device) for v in rays(5))
    miss = torch.full((5,), MISS, device=device)
    for near, far, occupied in ((miss, miss, full), (miss * 0, miss * 0, full), (miss * 0, miss, empty)):
        made = march(origins, directions, near, far, occupied, SMALL)
        assert made.offsets.tolist() == [0] * 6
        assert len(made) == 0
    made = march_alive(
        origins, directions, miss * 0, miss, torch.zeros(0, dtype=torch.int64, device=device), full, SMALL, 3
    )
    assert made.offsets.tolist() == [0]


def test_far_before_near_and_a_box_behind_give_no_samples():
    origins, directions = torch.tensor([[0.0, 0, 5], [0, 0, 0]]), torch.tensor([[0.0, 0, 1], [0, 0, 1]])
    spec = March(half=1, resolution=8, step_min=0.1)
    near, far = ray_aabb(origins, directions, spec.aabb, 0.05)
    far[1] = 0.01
    made = march(origins, directions, near, far, torch.ones(spec.shape, dtype=torch.bool), spec)
    assert made.counts.tolist() == [0, 0]


def test_a_ray_without_direction_stays_in_its_cell():
    spec = dataclasses.replace(SMALL, centre=(0.0, 0.0, 0.0), max_samples=7)
    occupied = torch.ones(spec.shape, dtype=torch.bool)
    still = torch.zeros(1, 3)
    made = march(still, still, torch.zeros(1), torch.ones(1), occupied, spec)
    assert made.counts.tolist() == [7]
    assert len(march(still, still, torch.zeros(1), torch.ones(1), ~occupied, spec)) == 0


@pytest.mark.parametrize("far_away", [1e4, 1e8, 1e30, 3e38])
@pytest.mark.parametrize("cone_angle", [0.0, 0.01])
def test_rays_from_far_away_end(far_away, cone_angle):
    """Where a step is lost in t's rounding there are no samples; nothing hangs or leaves its memory."""
    spec = dataclasses.replace(SMALL, cone_angle=cone_angle, cascades=2)
    origins, directions = torch.tensor([[0.0, 0, far_away]]), torch.tensor([[0.0, 0, -1]])
    near = torch.full((1,), far_away - 2 if far_away < 1e5 else 0.0)
    made = march(origins, directions, near, near + 1e38, torch.ones(spec.shape, dtype=torch.bool), spec)
    assert (len(made) > 0) == (far_away < 1e5)


def test_huge_values_stay_inside_the_memory():
    values = torch.tensor([0.0, -0.0, 1e-45, 1e-30, 1.0, -1.0, 1e10, -1e38, 3e38])
    generator = torch.Generator().manual_seed(0)
    origins, directions = (values[torch.randint(len(values), (300, 3), generator=generator)] for _ in range(2))
    near, far = (values[torch.randint(len(values), (300,), generator=generator)] for _ in range(2))
    for cone_angle in (0.0, 0.1):
        spec = dataclasses.replace(SMALL, cone_angle=cone_angle, cascades=3)
        made = march(origins, directions, near, far, torch.ones(spec.shape, dtype=torch.bool), spec)
        assert made.counts.max() <= spec.max_samples


# --- mistakes


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"origins": torch.zeros(4, 2)}, ValueError, "origins must be"),
        ({"origins": torch.zeros(4, 3, dtype=torch.float64)}, TypeError, "origins must be torch.float32"),
        ({"origins": torch.full((4, 3), math.nan)}, ValueError, "origins has 12 values that are NaN"),
        ({"directions": torch.zeros(3, 3)}, ValueError, "directions must be"),
        ({"directions": torch.zeros(4, 3, device="meta")}, ValueError, "move one"),
        ({"near": torch.full((4,), -math.inf)}, ValueError, "near has 4 values"),
        ({"far": torch.zeros(4, 1)}, ValueError, "far must be"),
        ({"occupied": torch.zeros(1, 16, 16, 16)}, TypeError, "occupied must be torch.bool"),
        ({"occupied": torch.zeros(2, 16, 16, 16, dtype=torch.bool)}, ValueError, "occupied must be"),
        ({"noise": torch.zeros(3)}, ValueError, "noise must be"),
        ({"capacity": -1}, ValueError, "capacity must be 0 or more"),
    ],
)
def test_wrong_arguments_of_a_march_are_named(change, error, message):
    origins, directions = rays(4)
    occupied = torch.zeros(SMALL.shape, dtype=torch.bool)
    right = {"origins": origins, "directions": directions, "near": torch.zeros(4), "far": torch.ones(4)}
    with pytest.raises(error, match=message):
        march(**{**right, "occupied": occupied, "spec": SMALL, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alive": torch.tensor([0, 4])}, "alive must be 0..3"),
        ({"alive": torch.tensor([-1])}, "alive must be"),
        ({"n_samples": 0}, "n_samples must be 1 or more"),
        ({"t": torch.zeros(4, 2)[:, 0]}, "must be contiguous"),
    ],
)
def test_wrong_arguments_of_a_march_of_living_rays_are_named(change, message):
    origins, directions = rays(4)
    right = {"origins": origins, "directions": directions, "t": torch.zeros(4), "far": torch.ones(4)}
    right |= {"alive": torch.tensor([1]), "occupied": torch.zeros(SMALL.shape, dtype=torch.bool)}
    with pytest.raises(ValueError, match=message):
        march_alive(**{**right, "spec": SMALL, "n_samples": 2, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"half": 0.0},
        {"half": math.nan},
        {"step_min": 0.0},
        {"step_max": 0.001},
        {"cone_angle": -0.1},
        {"cascades": 0},
        {"cascades": 2, "resolution": 6},
        {"resolution": 12, "layout": "morton"},
        {"resolution": 2048},
        {"max_samples": 0},
        {"centre": (0.0, 0.0)},
        {"sample_at": "end"},
        {"layout": "zyx"},
    ],
)
def test_a_march_that_cannot_be_is_an_error(change):
    with pytest.raises(ValueError, match="march"):
        dataclasses.replace(SMALL, **change)
