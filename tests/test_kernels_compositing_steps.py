"""Rendering without gradients, a few samples at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.kernels import reference
from methods.kernels.compositing import CompositeState, composite, composite_alive_

from .kernels_composites import COUNTS, generator, samples, starts, state_of


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("step", [1, 4, 20, 200])
def test_steps_add_up_to_the_whole(device, step, channels):
    given = samples(COUNTS, channels, opaque=0.05)
    value, rgb, t_start, t_end, offsets = (v.to(device) for v in given[:5])
    whole = composite(value, rgb, t_start, t_end, offsets, early_stop=0.01)
    state = state_of(len(COUNTS), channels, device)
    alive = torch.arange(len(COUNTS), device=device)
    done = torch.zeros(len(COUNTS), dtype=torch.int64)
    while len(alive):
        ids = alive.cpu()
        counts = (torch.tensor(COUNTS)[ids] - done[ids]).clamp(max=step)
        first = offsets.cpu()[ids] + done[ids]
        take = torch.cat([torch.arange(a, a + n) for a, n in zip(first, counts, strict=True)]).to(device)
        part = [v[take] for v in (value, rgb, t_start, t_end)]
        alive = composite_alive_(starts(counts.tolist()).to(device), alive, *part, state, step, early_stop=0.01)
        done[ids] += counts
    # T is taken from 1 - opacity at every step: a rounding of 1 (2^-24), up to 130 times.
    for got, want in ((state.rgb, whole.rgb), (state.opacity, whole.opacity), (state.depth, whole.depth)):
        torch.testing.assert_close(got, want, rtol=0, atol=130 * 2**-22)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    early_stop=st.sampled_from([0.0, 1e-4, 0.1]),
    seed=st.integers(0, 10**6),
)
def test_a_step_equals_the_twins(device, counts, early_stop, seed):
    value, rgb, t_start, t_end, offsets, _ = samples(counts, opaque=0.3, seed=seed)
    alive = torch.randperm(10, generator=generator(seed))[: len(counts)]
    ours = CompositeState(*(torch.rand(s, generator=generator(seed)) * 0.5 for s in ((10, 3), (10,), (10,))))
    state = CompositeState(*(v.to(device) for v in (ours.rgb, ours.opacity, ours.depth)))
    truth = tuple(v.double().clone() for v in (ours.rgb, ours.opacity, ours.depth))
    part = [v.to(device) for v in (value, rgb, t_start, t_end)]
    kept = composite_alive_(offsets.to(device), alive.to(device), *part, state, 4, early_stop)
    doubles = [v.double() for v in (value, rgb, t_start, t_end)]
    assert kept.cpu().equal(reference.composite_alive_(offsets, alive, *doubles, truth, 4, early_stop))
    for got, want in zip((state.rgb, state.opacity, state.depth), truth, strict=True):
        torch.testing.assert_close(got.cpu().double(), want, rtol=0, atol=40 * 2**-24)


def test_rays_go_on_while_they_get_all_samples_and_let_light_through(device):
    counts, opaque = [2, 1, 0, 2, 2], 1e6
    density = torch.tensor([0.0, 0.1, 0.1, 0.0, opaque, opaque, 0.0], device=device)
    t_start = torch.arange(7.0, device=device)
    state, alive = state_of(9, 3, device), torch.tensor([8, 7, 6, 5, 4], device=device)
    rgb = torch.ones(7, 3, device=device)
    kept = composite_alive_(starts(counts).to(device), alive, density, rgb, t_start, t_start + 1, state, 2)
    assert kept.tolist() == [8]
    assert (state.opacity.cpu() > 0).tolist() == [False] * 4 + [True, True, False, True, True]


def test_a_step_refuses_what_does_not_fit():
    value, rgb, t_start, t_end, offsets, _ = samples([2, 2])
    part, alive = [value, rgb, t_start, t_end], torch.tensor([0, 3])
    with pytest.raises(ValueError, match=r"alive must be 0\.\.2"):
        composite_alive_(offsets, alive, *part, state_of(3, 3, "cpu"), 2)
    with pytest.raises(ValueError, match="alive must be"):
        composite_alive_(offsets, alive[:1], *part, state_of(4, 3, "cpu"), 2)
    with pytest.raises(ValueError, match="rgb must be"):
        composite_alive_(offsets, alive, *part, state_of(4, 4, "cpu"), 2)
    spread = CompositeState(torch.zeros(3, 4).T, torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="contiguous"):
        composite_alive_(offsets, alive, *part, spread, 2)
    value[1] = math.nan
    with pytest.raises(ValueError, match="density has 1 values"):
        composite_alive_(offsets, alive, *part, state_of(4, 3, "cpu"), 2)
