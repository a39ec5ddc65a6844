"""Marches through occupancy grids: the published samples, and what holds for any."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.marching import MISS, March, march, march_alive, ray_aabb

from .kernels_marches import DOWN, SMALL, assert_same, bits, grid, marched, marches, rays

pytestmark = pytest.mark.usefixtures("compiled_kernels")
RAD_NERF = March(
    half=1, resolution=128, step_min=2 * math.sqrt(3) / 128, max_samples=16, sample_at="start", layout="morton"
)


# --- the published marches


@pytest.mark.parametrize("layout", ["linear", "morton"])
@pytest.mark.parametrize("function", [march, reference.march])
def test_a_march_from_starts_gives_the_published_samples(layout, function):
    spec = dataclasses.replace(RAD_NERF, layout=layout)
    near, far = ray_aabb(*DOWN, spec.aabb, 0.05)

    def go(cells: slice | list[int]) -> Tensor:
        occupied = torch.zeros(1, 128, 128, 128, dtype=torch.bool)
        occupied[..., cells] = True
        occupied = occupied if layout == "linear" else bits(occupied)
        return function(*DOWN, near, far, occupied, spec).t_start

    full = go(slice(None))
    assert full.tolist() == pytest.approx([1 + 0.0270633 * i for i in range(16)], abs=1e-6)
    assert float(full[-1]) == pytest.approx(1.40595, abs=1e-5)
    assert go([80]).tolist() == []  # a step is longer than a cell, and this one lies between two starts
    assert go([80, 81]).tolist() == pytest.approx([1.73071], abs=5e-6)
    assert go([]).tolist() == []


def test_a_march_by_midpoints_looks_half_a_step_on():
    spec = dataclasses.replace(RAD_NERF, layout="linear", sample_at="midpoint")
    near, far = ray_aabb(*DOWN, spec.aabb)
    occupied = torch.zeros(1, 128, 128, 128, dtype=torch.bool)
    occupied[..., 80] = True  # 2 - z in (1.734375, 1.75]; step 27 starts at 1.73071, its midpoint is 1.74424
    made = march(*DOWN, near, far, occupied, spec)
    assert made.t_start.tolist() == pytest.approx([1 + 27 * spec.step_min], abs=1e-6)
    assert made.t_end.tolist() == pytest.approx([1 + 28 * spec.step_min], abs=1e-6)
    assert made.midpoints.tolist() == pytest.approx([1 + 27.5 * spec.step_min], abs=1e-6)


def test_a_hit_a_miss_of_the_box_and_a_miss_of_the_cell(device):
    spec = March(half=1, resolution=8, step_min=0.01)
    occupied = torch.zeros(spec.shape, dtype=torch.bool, device=device)
    occupied[0, 4, 4, 4] = True
    origins = torch.tensor([[0.1, 0.1, 2], [0.1, 3, 2], [-0.6, 0.1, 2]], device=device)
    directions = torch.tensor([[0.0, 0, -1]] * 3, device=device)
    near, far = ray_aabb(origins, directions, spec.aabb)
    made = march(origins, directions, near, far, occupied, spec)
    assert made.counts.tolist() == [25, 0, 0]  # a cell is 0.25 wide: midpoints 1.755, 1.765, .., 1.995
    assert made.ray_index.tolist() == [0] * 25
    assert made.midpoints.tolist() == pytest.approx([1.755 + 0.01 * i for i in range(25)], abs=1e-6)


def upstream_march(origin, direction, near, far, occupied, spec: March) -> tuple[list[float], float]:
    """RAD-NeRF's loop for one ray and one cascade, cell by cell, in float64.

    Also returns how near, in cells, any point came to a face between two of them.
    """
    t, made, margin = near, [], 1.0
    h, dt = spec.resolution, spec.step_min
    while t < far and len(made) < spec.max_samples:
        point = (origin + (t + (dt / 2 if spec.sample_at == "midpoint" else 0)) * direction - spec.centre) / spec.half
        at = (point.clip(-1, 1) + 1) / 2 * h
        margin = min(margin, np.abs(at - at.round().clip(1, h - 1)).min())
        cell = np.clip(np.floor(at), 0, h - 1)
        if occupied[0, *cell.astype(int)]:
            made.append(t)
            t += dt
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            leaves = np.where(direction == 0, np.inf, ((cell + (direction > 0)) - at) / (direction / spec.half * h / 2))
        steps = max(1, math.ceil(leaves.min() / dt - 1e-12))
        t += steps * dt
    return made, margin


@pytest.mark.parametrize("sample_at", ["start", "midpoint"])
@pytest.mark.parametrize("step", [0.013, 0.2])
def test_a_march_equals_the_published_loop(sample_at, step):
    spec = dataclasses.replace(SMALL, sample_at=sample_at, step_min=step, step_max=step)
    origins, directions, near, far, occupied, *_ = marched(spec, 60)[0].values()
    made, compared = march(origins, directions, near, far, occupied, spec), 0
    for i in range(60):
        if near[i] == MISS:
            continue
        o, d, start, end = (v[i].double().numpy() for v in (origins, directions, near, far))
        last = float(end) - (step / 2 if sample_at == "midpoint" else 0)
        want, margin = upstream_march(o, d, float(start), last, occupied.numpy(), spec)
        if margin < 1e-4:
            continue  # a point so near a face may fall into either cell
        compared += 1
        got = made.t_start[made.offsets[i] : made.offsets[i + 1]]
        # float32 at t up to 8.
        assert got.tolist() == pytest.approx(want, abs=2e-6)
    assert compared > 15


# --- properties


@settings(max_examples=30, deadline=None)
@given(spec=marches(), seed=st.integers(0, 10**6))
def test_samples_are_steps_of_their_rays(spec, seed):
    given, made = marched(spec, 40, 0.5, seed)
    near, far = given["near"], given["far"]
    assert made.offsets[0] == 0
    assert made.offsets[-1] == len(made)
    assert torch.equal(made.ray_index, torch.repeat_interleave(torch.arange(40), made.counts))
    assert (made.counts <= spec.max_samples).all()
    assert (made.t_end > made.t_start).all()
    assert (made.t_start >= near[made.ray_index]).all()
    point = made.midpoints if spec.sample_at == "midpoint" else made.t_start
    assert (point < far[made.ray_index] * (1 + 1e-6)).all()
    same_ray = made.ray_index[1:] == made.ray_index[:-1]
    assert (made.t_start[1:] >= made.t_end[:-1])[same_ray].all()
    length = (made.t_start * spec.cone_angle).clamp(spec.step_min, spec.longest)
    # The difference of two t's, each rounded to 24 bits, and a rounded length.
    error = (made.t_end.double() - made.t_start.double() - length.double()).abs()
    assert (error <= made.t_end * 2.0**-23 + length * 2.0**-22).all()


def test_samples_without_gaps_share_their_ends_exactly():
    spec = dataclasses.replace(SMALL, max_samples=1000)
    given, _ = marched(spec, 40)
    made = march(**{**given, "occupied": torch.ones(spec.shape, dtype=torch.bool)})
    same_ray = made.ray_index[1:] == made.ray_index[:-1]
    assert same_ray.sum() > 500
    assert torch.equal(made.t_start[1:][same_ray], made.t_end[:-1][same_ray])


@pytest.mark.parametrize("cone_angle", [0.0, 0.01])
def test_a_step_whose_point_lies_at_far_is_not_taken(cone_angle):
    spec = March(half=1, resolution=8, step_min=0.125, cone_angle=cone_angle, sample_at="start")
    origins, directions = torch.tensor([[0.1, 0.1, -0.9]]), torch.tensor([[0.0, 0, 1]])
    full = torch.ones(spec.shape, dtype=torch.bool)
    made = march(origins, directions, torch.zeros(1), torch.ones(1), full, spec)
    assert made.t_start.tolist() == [0.125 * i for i in range(8)]


def test_nothing_is_occupied_outside_the_last_cascade():
    spec = March(half=1, resolution=8, step_min=0.25, cascades=2, sample_at="start")
    occupied = torch.ones(spec.shape, dtype=torch.bool)
    origins, directions = torch.tensor([[0.0, 0, -10]]), torch.tensor([[0.0, 0, 1]])
    made = march(origins, directions, torch.zeros(1), torch.full((1,), 100.0), occupied, spec)
    assert made.t_start.tolist() == [8 + 0.25 * i for i in range(17)]  # both faces, z = -2 and z = 2, belong to it


def test_a_point_belongs_to_the_smallest_cascade_that_holds_it():
    spec = March(half=1, resolution=4, step_min=0.125, cascades=3, sample_at="start")
    origins, directions = torch.tensor([[0.1, 0.1, 0.0]]), torch.tensor([[0.0, 0, 1]])
    starts = []
    for cascade in range(3):
        occupied = torch.zeros(spec.shape, dtype=torch.bool)
        occupied[cascade] = True
        made = march(origins, directions, torch.zeros(1), torch.full((1,), 10.0), occupied, spec).t_start
        starts.append((float(made.min()), float(made.max())))
    # The outer face of each counts to the next.
    assert starts == [(0.0, 0.875), (1.0, 1.875), (2.0, 4.0)]


def test_a_point_on_the_face_of_a_cascade_does_not_hide_it():
    # The face x = -1 counts to cascade 1, whose empty cell there reaches into the occupied cascade 0.
    spec = March(half=1, resolution=8, step_min=0.125, cascades=2, sample_at="start")
    occupied = torch.zeros(spec.shape, dtype=torch.bool)
    occupied[0] = True
    origins, directions = torch.tensor([[-2.0, 0.1, 0.1]]), torch.tensor([[1.0, 0, 0]])
    made = march(origins, directions, torch.zeros(1), torch.full((1,), 4.0), occupied, spec)
    assert made.t_start.tolist() == [1.125 + 0.125 * i for i in range(15)]


def test_long_steps_look_at_coarse_cells():
    # A step as long as two cells of cascade 0 is tested in cascade 1, so that it meets what lies in between.
    spec = March(half=1, resolution=8, step_min=0.5, step_max=0.5, cascades=2, sample_at="start")
    occupied = torch.zeros(spec.shape, dtype=torch.bool)
    occupied[1] = True
    made = march(*DOWN, *ray_aabb(*DOWN, spec.aabb), occupied, spec)
    assert made.t_start.tolist() == [0.5 * i for i in range(8)]


def test_a_capacity_drops_the_rays_that_pass_it_and_all_after():
    given, whole = marched(SMALL, 64, 0.4)
    ends = whole.offsets[1:]
    capacity = int(ends[len(ends) // 2]) + 1
    kept = int((ends <= capacity).sum())
    made = march(**given, capacity=capacity)
    assert 0 < len(made) <= capacity < len(whole)
    assert torch.equal(made.offsets[: kept + 1], whole.offsets[: kept + 1])
    assert (made.offsets[kept:] == made.offsets[kept]).all()
    assert torch.equal(made.t_start, whole.t_start[: len(made)])
    assert int(made.dropped) == int((whole.counts[kept:] > 0).sum()) > 0
    assert_same(made, reference.march(**given, capacity=capacity))
    assert_same(march(**given, capacity=len(whole)), whole)
    nothing = march(**given, capacity=0)
    assert len(nothing) == 0
    assert int(nothing.dropped) == int((whole.counts > 0).sum())


@pytest.mark.parametrize("cone_angle", [0.0, 0.02])
def test_rounds_of_living_rays_join_to_the_whole_march(cone_angle):
    # With a step that float32 holds exactly, t does not depend on where a march began.
    spec = dataclasses.replace(
        SMALL, step_min=2**-5, step_max=1.0, cone_angle=cone_angle, cascades=2, max_samples=10**6
    )
    origins, directions = rays(40)
    near, far = ray_aabb(origins, directions, spec.aabb, 0.05)
    near = torch.where(near < MISS, (near * 32).ceil() / 32, near)
    occupied = grid(spec, 0.4)
    whole = march(origins, directions, near, far, occupied, spec)
    t, rounds = near.clone(), []
    for _ in range(1000):
        rounds.append(march_alive(origins, directions, t, far, torch.arange(40), occupied, spec, 3))
        if not len(rounds[-1]):
            break
    index = torch.cat([r.ray_index for r in rounds])
    order = torch.argsort(index, stable=True)
    assert torch.equal(index[order], whole.ray_index)
    assert torch.equal(torch.cat([r.t_start for r in rounds])[order], whole.t_start)
    assert torch.equal(torch.cat([r.t_end for r in rounds])[order], whole.t_end)
    assert (t >= torch.minimum(far, near)).all()


def test_rays_that_are_not_alive_keep_their_t():
    origins, directions, near, far, occupied, *_ = marched(SMALL)[0].values()
    t = near.clone()
    march_alive(origins, directions, t, far, torch.tensor([3, 9, 5]), occupied, SMALL, 2)
    others = torch.ones(64, dtype=torch.bool)
    others[[3, 9, 5]] = False
    assert torch.equal(t[others], near[others])
