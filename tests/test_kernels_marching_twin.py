"""Marches equal their twin bit by bit, on any device, with any layout and number of threads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.kernels import marching, ray_points, reference
from methods.kernels.marching import march, march_alive

from .kernels_marches import SMALL, assert_same, bits, marched, marches, on, rays

pytestmark = pytest.mark.usefixtures("compiled_kernels")


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
