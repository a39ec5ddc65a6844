"""Compositing's kernels equal their twins, gradients and early stop included; the twins equal plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import compositing, reference
from methods.kernels.compositing import composite, composite_alive_, composite_alpha

from .kernels_composites import (
    BOTH,
    COUNTS,
    all_of,
    check_against_twin,
    rounded,
    samples,
    starts,
    state_of,
    upstream,
)

# --- the twin


@pytest.mark.parametrize("early_stop", [0.0, 0.3])
@pytest.mark.parametrize(("twin", "alpha"), [(reference.composite, False), (reference.composite_alpha, True)])
def test_the_twins_derivatives_are_right(twin, alpha, early_stop):
    value, rgb, t_start, t_end, offsets, extra = samples([3, 0, 5], opaque=0.3, alpha=alpha, seed=1)
    inputs = tuple(v.double().requires_grad_() for v in (value, rgb, extra))

    def render(value: Tensor, rgb: Tensor, extra: Tensor) -> tuple:
        return twin(value, rgb, t_start.double(), t_end.double(), offsets, extra, early_stop)

    assert torch.autograd.gradcheck(render, inputs)
    assert torch.autograd.gradgradcheck(render, inputs)


def test_the_twin_equals_a_loop():
    value, rgb, t_start, t_end, offsets, extra = (v.double() for v in samples(COUNTS, opaque=0.1))
    out = reference.composite(value, rgb, t_start, t_end, offsets.long(), extra, early_stop=0.05)
    for ray in range(len(COUNTS)):
        left, sums = 1.0, torch.zeros(6, dtype=torch.float64)
        for i in range(int(offsets[ray]), int(offsets[ray + 1])):
            alpha = 1 - math.exp(-value[i] * (t_end[i] - t_start[i])) if left >= 0.05 else 0.0
            weight = left * alpha
            assert out[3][i] == pytest.approx(weight, rel=1e-12)
            middle, used = 0.5 * (t_start[i] + t_end[i]), float(left >= 0.05)
            rest = torch.stack([weight + 0 * middle, weight * middle, used * extra[i]])
            sums += torch.cat([weight * rgb[i], rest])
            left *= 1 - alpha
        made = torch.stack([*out[0][ray], out[1][ray], out[2][ray], out[4][ray]])
        torch.testing.assert_close(made, sums, rtol=1e-12, atol=1e-12)


# --- the kernels against their twins


@BOTH
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 15, 16])
@pytest.mark.parametrize("early_stop", [0.0, 0.01])
def test_outputs_and_gradients_equal_the_twins(device, kernel, twin, channels, early_stop):
    given = samples(COUNTS, channels, alpha=kernel is composite_alpha)
    check_against_twin(kernel, twin, given, COUNTS, early_stop, device)


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 70), max_size=6),
    opaque=st.sampled_from([1e-5, 0.01, 0.1, 0.5, 5.0]),
    early_stop=st.sampled_from([0.0, 1e-4, 0.1, 0.7]),
    seed=st.integers(0, 10**6),
)
def test_outputs_and_gradients_equal_the_twins_for_any_rays(device, kernel, twin, counts, opaque, early_stop, seed):
    is_alpha = kernel is composite_alpha
    given = samples(counts, opaque=opaque, alpha=is_alpha, seed=seed)
    value, t_start, t_end, offsets = (given[k].double() for k in (0, 2, 3, 4))
    survive = 1 - value if is_alpha else torch.exp(-value * (t_end - t_start))
    for a, b in zip(offsets[:-1].int(), offsets[1:].int(), strict=True):
        # Where T meets the threshold but for rounding, either answer is right.
        assume(not ((survive[a:b].cumprod(0) - early_stop).abs() < 1e-5 * early_stop).any())
    check_against_twin(kernel, twin, given, counts, early_stop, device)


@pytest.mark.parametrize("output", range(5))
def test_each_output_alone_has_its_gradient(device, output):
    given, grads = samples(COUNTS), upstream(COUNTS)

    def alone(render, inputs: list) -> list[Tensor]:
        wants = [v.clone().requires_grad_() for v in (inputs[0], inputs[1], inputs[5])]
        out = render(wants[0], wants[1], *inputs[2:5], wants[2], 0.01)
        out[output].backward(grads[output].to(out[output]))
        zeros = (torch.zeros_like(w) if w.grad is None else w.grad for w in wants)
        return [v.cpu().double() for v in zeros]

    made = alone(composite, [v.to(device) for v in given])
    want = alone(reference.composite, [v.double() if v.is_floating_point() else v for v in given])
    slack = rounded(given, grads, max(COUNTS), density=True)[5:]
    for got, truth, allowed in zip(made, want, slack, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=allowed)


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_wants_a_gradient_gets_one(device, wanted):
    value, rgb, t_start, t_end, offsets, extra = (v.to(device) for v in samples(COUNTS))
    inputs = [v.requires_grad_(want) for v, want in zip((value, rgb, extra), wanted, strict=True)]
    out = composite(inputs[0], inputs[1], t_start, t_end, offsets, inputs[2])
    torch.autograd.backward(list(out), [torch.ones_like(v) for v in out])
    assert [v.grad is not None for v in inputs] == list(wanted)


def test_without_kernels_the_twins_run(monkeypatch):
    given, grads = samples(COUNTS), upstream(COUNTS)
    value, rgb, t_start, t_end, _, _ = samples([2, 1])
    step = (starts([2, 1]), torch.tensor([1, 0]), value, rgb, t_start, t_end)

    def run() -> list[Tensor]:
        state = state_of(2, 3, "cpu")
        kept = composite_alive_(*step, state, 2)
        return [*all_of(composite, given, grads, 0.01), kept.double(), state.rgb.double()]

    with_kernels = run()
    monkeypatch.setattr(compositing, "has_kernels", lambda _: False)
    for got, want in zip(run(), with_kernels, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
