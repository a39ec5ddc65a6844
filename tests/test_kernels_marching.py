"""Rays through boxes and occupancy grids: the published numbers, and kernels that equal their twins bit by bit."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import marching, ray_points, reference
from methods.kernels.library import load
from methods.kernels.marching import MISS, March, Samples, march, march_alive, ray_aabb
from methods.kernels.occupancy import morton3d

RAD_NERF = March(
    half=1, resolution=128, step_min=2 * math.sqrt(3) / 128, max_samples=16, sample_at="start", layout="morton"
)
SMALL = March(half=0.7, resolution=16, step_min=0.03, centre=(0.1, 0.2, -0.3), max_samples=50)
DOWN = (torch.tensor([[0.0, 0, 2]]), torch.tensor([[0.0, 0, -1]]))


@pytest.fixture(autouse=True)
def compiled_kernels() -> None:
    """Without a compiler the tests that take no device would compare the twins with themselves."""
    load("cpu")


def rays(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Origins about the grid, half of them outside; some rays run along an axis plane or an axis."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.randn(number, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(number, 3, generator=generator) - origins, dim=-1)
    directions[::7, 0] = 0.0
    directions[::11, 1:] = 0.0
    return origins, torch.where((directions == 0).all(-1, keepdim=True), torch.ones(3), directions)


def grid(spec: March, filled: float, seed: int = 0) -> Tensor:
    """Occupancy with a share of the cells filled, in lumps, so that blocks are empty too."""
    generator = torch.Generator().manual_seed(seed)
    shape = (spec.cascades, *(spec.resolution,) * 3)
    cells = torch.rand(shape, generator=generator) < filled
    lumps = torch.rand(spec.cascades, *(-(-spec.resolution // 8),) * 3, generator=generator) < 0.5
    for axis in (1, 2, 3):
        lumps = lumps.repeat_interleave(8, axis)
    cells &= lumps[tuple(slice(n) for n in shape)]
    return cells if spec.layout == "linear" else bits(cells)


def bits(cells: Tensor) -> Tensor:
    """The same cells as bits in Morton order: cell k is bit k % 8 of byte k // 8."""
    level, *index = cells.nonzero().unbind(-1)
    flat = torch.zeros(cells.numel(), dtype=torch.uint8)
    flat[level * cells[0].numel() + morton3d(torch.stack(index, dim=-1))] = 1
    return (flat.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(-1).to(torch.uint8)


def marched(
    spec: March, number: int = 64, filled: float = 0.3, seed: int = 0, **more
) -> tuple[dict[str, Any], Samples]:
    """Arguments of a march through a random grid, and its samples."""
    origins, directions = rays(number, seed)
    near, far = ray_aabb(origins, directions, spec.aabb, 0.05)
    noise = torch.rand(number, generator=torch.Generator().manual_seed(seed))
    given = {"origins": origins, "directions": directions, "near": near, "far": far}
    given |= {"occupied": grid(spec, filled, seed), "spec": spec, "noise": noise}
    return given, march(**given, **more)


def on(given: dict[str, Any], device: str) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}


def assert_same(made: Samples, want: Samples) -> None:
    for name, value in vars(made).items():
        assert torch.equal(value.cpu(), getattr(want, name)), name


# --- rays and boxes


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


# --- kernel and twin


@st.composite
def marches(draw) -> March:
    cascades = draw(st.integers(1, 4))
    layout = draw(st.sampled_from(["linear", "morton"]))
    sides = [4, 8, 16] if layout == "morton" else [4, 12, 16, 20, 32] if cascades > 1 else [1, 2, 3, 5, 8, 10, 16]
    return March(
        half=draw(st.sampled_from([0.5, 0.7, 1.0, 3.0])),
        resolution=draw(st.sampled_from(sides)),
        step_min=draw(st.sampled_from([0.01, 0.03, 0.25])),
        step_max=draw(st.sampled_from([0.25, 1.0])),
        centre=draw(st.sampled_from([(0.0, 0.0, 0.0), (0.1, 0.2, -0.3)])),
        cascades=cascades,
        cone_angle=draw(st.sampled_from([0.0, 0.004, 0.03, 0.5])),
        max_samples=draw(st.sampled_from([1, 7, 200])),
        sample_at=draw(st.sampled_from(["midpoint", "start"])),
        layout=layout,
    )


@settings(max_examples=60, deadline=None)
@given(
    spec=marches(), number=st.integers(0, 40), filled=st.sampled_from([0.0, 0.1, 0.7, 1.0]), seed=st.integers(0, 10**6)
)
def test_a_march_equals_its_twin_bit_by_bit(spec, number, filled, seed):
    given, made = marched(spec, number, filled, seed)
    assert_same(made, reference.march(**given))


@settings(max_examples=30, deadline=None)
@given(spec=marches(), number=st.integers(1, 40), n_samples=st.integers(1, 9), seed=st.integers(0, 10**6))
def test_a_march_of_living_rays_equals_its_twin_bit_by_bit(spec, number, n_samples, seed):
    origins, directions, near, far, occupied, *_ = marched(spec, number, 0.4, seed)[0].values()
    alive = torch.randperm(number, generator=torch.Generator().manual_seed(seed))[: number * 2 // 3]
    made_t, want_t = near.clone(), near.clone()
    for _ in range(3):
        made = march_alive(origins, directions, made_t, far, alive, occupied, spec, n_samples)
        want = reference.march_alive(origins, directions, want_t, far, alive, occupied, spec, n_samples)
        assert_same(made, want)
        assert torch.equal(made_t, want_t)


@pytest.mark.gpu
@settings(max_examples=40, deadline=None)
@given(spec=marches(), number=st.integers(0, 300), seed=st.integers(0, 10**6))
def test_a_march_on_a_gpu_equals_the_one_on_a_cpu(spec, number, seed):
    given, want = marched(spec, number, 0.3, seed)
    assert_same(march(**on(given, "cuda")), want)
    given = {k: given[k] for k in ("origins", "directions", "far", "occupied", "spec")}
    given |= {"t": torch.rand(number) * 3, "alive": torch.arange(0, number, 2), "n_samples": 5}
    there = on(given, "cuda")
    assert_same(march_alive(**there), march_alive(**given))
    assert torch.equal(there["t"].cpu(), given["t"])


def test_a_march_in_float32_is_near_that_in_float64():
    # All cells are occupied and the box lies well beyond near and far, so no step hangs on a rounding.
    spec = dataclasses.replace(SMALL, half=8, max_samples=1000)
    origins, directions = rays(50)
    near, far, noise = torch.full((50,), 0.05), torch.full((50,), 3.0), torch.linspace(0, 0.99, 50)
    occupied = torch.ones(spec.shape, dtype=torch.bool)
    made = march(origins, directions, near, far, occupied, spec, noise)
    origins, directions, near, far, noise = (v.double() for v in (origins, directions, near, far, noise))
    want = reference.march(origins, directions, near, far, occupied, spec, noise)
    assert torch.equal(made.offsets, want.offsets)
    # One rounding of t <= 3, and step_min itself is rounded: 100 steps of it.
    assert torch.allclose(made.t_start.double(), want.t_start, rtol=0, atol=4e-7)
    assert torch.allclose(made.t_end.double(), want.t_end, rtol=0, atol=4e-7)


def test_without_a_compiler_the_twins_run(monkeypatch):
    given, want = marched(SMALL)
    origins, directions, near, far, occupied, *_ = given.values()
    points = ray_points.ray_points(origins, directions, want)
    for module in (marching, ray_points):
        monkeypatch.setattr(module, "has_kernels", lambda device: False)
    assert_same(march(**given), want)
    t, alive = near.clone(), torch.arange(0, 64, 3)
    made = march_alive(origins, directions, t, far, alive, occupied, SMALL, 4)
    assert set(made.ray_index.tolist()) <= set(alive.tolist())
    assert not torch.equal(t, near)
    # The kernel rounds once, the twin twice.
    assert torch.allclose(ray_points.ray_points(origins, directions, want), points, rtol=0, atol=5e-7)


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


def test_threads_and_repetition_do_not_change_a_byte():
    threads = torch.get_num_threads()
    try:
        made = []
        for number in (1, 2, 1):
            torch.set_num_threads(number)
            made.append(marched(dataclasses.replace(SMALL, max_samples=300), 500)[1])
    finally:
        torch.set_num_threads(threads)
    assert_same(made[1], made[0])
    assert_same(made[2], made[0])


def test_views_are_marched_like_copies():
    given, want = marched(SMALL)
    for name in ("origins", "directions", "near", "far", "occupied", "noise"):
        spread = torch.stack([given[name]] * 2, dim=-1)[..., 0]
        assert not spread.is_contiguous()
        assert_same(march(**{**given, name: spread}), want)
    odd = torch.cat([torch.zeros(1, dtype=torch.uint8), bits(given["occupied"])])[1:]  # its words do not lie on words
    assert_same(march(**{**given, "occupied": odd, "spec": dataclasses.replace(SMALL, layout="morton")}), want)


@pytest.mark.parametrize("cascades", [1, 3])
def test_bits_in_morton_order_are_the_same_grid(cascades):
    spec = dataclasses.replace(SMALL, cascades=cascades)
    given, want = marched(spec)
    spec = dataclasses.replace(spec, layout="morton")
    assert_same(march(**{**given, "occupied": bits(given["occupied"]), "spec": spec}), want)


# --- nothing to do, and too much


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


# --- points


def test_points_equal_their_twin_forward_and_backward(device):
    given, samples = marched(SMALL)
    upstream = torch.randn(len(samples), 3, generator=torch.Generator().manual_seed(0))
    made, want = [], []
    for into, function, dtype, where in (
        (made, ray_points.ray_points, torch.float32, device),
        (want, reference.ray_points, torch.float64, "cpu"),
    ):
        inputs = (given["origins"], given["directions"], samples.midpoints)
        origins, directions, t = (v.to(where, dtype, copy=True).requires_grad_() for v in inputs)
        out = function(origins, directions, Samples(**on(vars(samples), where)), t)
        out.backward(upstream.to(where, dtype))
        into += [out.detach(), origins.grad, directions.grad, t.grad]
    for a, b in zip(made, want, strict=True):
        # Sums of up to 50 terms of size up to 4.
        assert torch.allclose(a.cpu().double(), b, rtol=1e-5, atol=1e-5)
    assert torch.count_nonzero(want[1]) > 0


def test_points_are_those_of_the_midpoints_and_of_living_rays():
    origins, directions, near, far, occupied, *_ = marched(SMALL)[0].values()
    alive = torch.tensor([60, 2, 31])
    samples = march_alive(origins, directions, near.clone(), far, alive, occupied, SMALL, 6)
    made = ray_points.ray_points(origins, directions.requires_grad_(), samples)
    assert torch.allclose(made, reference.ray_points(origins, directions, samples), rtol=0, atol=5e-7)
    (grad,) = torch.autograd.grad(made.sum(), directions)
    want = torch.zeros(64).index_add_(0, samples.ray_index, samples.midpoints)
    # Sums of up to 6 terms of size 4.
    assert torch.allclose(grad[:, 0], want, rtol=1e-5, atol=1e-6)


def test_samples_of_other_rays_are_refused():
    none = torch.zeros(0)
    offsets = torch.tensor([0, 0, 0, 0, 1])
    samples = Samples(offsets, torch.tensor([3]), none.new_ones(1), none.new_ones(1), torch.tensor(0))
    with pytest.raises(ValueError, match="of these 3 rays; ray_index goes from 3 to 3"):
        ray_points.ray_points(torch.zeros(3, 3), torch.ones(3, 3), samples)


def test_gradients_of_the_points_twin_are_exact():
    _, samples = marched(SMALL, 5)
    origins, directions = (v.double().requires_grad_() for v in rays(5))
    t = samples.midpoints.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o, d, t: reference.ray_points(o, d, samples, t), (origins, directions, t))


def test_points_and_marches_keep_torchs_rules_for_operators():
    given, samples = marched(SMALL, 8)
    origins, directions, near, far, occupied, spec, noise = given.values()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    t = samples.midpoints.requires_grad_()
    torch.library.opcheck(
        torch.ops.fieldbook.ray_points, (origins, directions, t, samples.ray_index, samples.offsets), test_utils=checks
    )
    arguments = (origins, directions, near, far, occupied, noise, spec.packed, -1)
    torch.library.opcheck(torch.ops.fieldbook.march, arguments, test_utils=checks)


def test_points_compile_whole():
    given, samples = marched(SMALL, 8)
    directions = given["directions"]

    def loss(origins: Tensor) -> Tensor:
        return ray_points.ray_points(origins, directions, samples, samples.t_start).square().sum()

    origins = given["origins"].requires_grad_()
    torch._dynamo.reset()
    whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (made,), (want,) = (torch.autograd.grad(f(origins), origins) for f in (whole, loss))
    assert torch.equal(made, want)


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


def test_a_box_inside_out_is_an_error():
    with pytest.raises(ValueError, match="three minima, then three maxima"):
        ray_aabb(*DOWN, (1, 1, 1, -1, -1, -1))


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


@pytest.mark.parametrize("name", ["ray_index", "offsets"])
@pytest.mark.parametrize("wrong", [lambda v: v.int(), lambda v: v.float(), lambda v: v[:-1], lambda v: v + 1])
def test_points_of_samples_that_are_not_packed_are_refused(name, wrong):
    """Every one of these once read or wrote beyond a buffer."""
    origins, directions = DOWN
    origins = origins.expand(2, 3).clone().requires_grad_()
    directions = directions.expand(2, 3)
    t = torch.arange(4.0)
    good = Samples(torch.tensor([0, 1, 4]), torch.tensor([0, 1, 1, 1]), t, t + 1, torch.zeros((), dtype=torch.int64))
    assert ray_points.ray_points(origins, directions, good).shape == (4, 3)
    with pytest.raises((TypeError, ValueError), match=r"offsets|ray_index|packed"):
        ray_points.ray_points(origins, directions, dataclasses.replace(good, **{name: wrong(getattr(good, name))}))


def test_a_ray_index_that_contradicts_the_offsets_is_refused_where_it_decides_a_gradient():
    origins = torch.zeros(2, 3, requires_grad=True)
    t = torch.arange(3.0)
    mixed = Samples(torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]), t, t + 1, torch.zeros((), dtype=torch.int64))
    with pytest.raises(ValueError, match="packed"):
        ray_points.ray_points(origins, torch.ones(2, 3), mixed)
    with torch.no_grad():
        assert ray_points.ray_points(origins, torch.ones(2, 3), mixed).shape == (3, 3)
