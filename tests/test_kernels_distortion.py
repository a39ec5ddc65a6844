"""Distortion loss: the sum over all pairs, in linear time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import distortion as module
from methods.kernels import reference
from methods.kernels.distortion import distortion

COUNTS = [0, 1, 5, 64, 0, 15, 16, 17, 130, 33]
"""Of samples per ray: none, fewer than a vector register or a warp holds, exactly so many, more."""


def intervals(counts: list[int], seed: int = 0, far: float = 1.0) -> list[Tensor]:
    """Weights of at most 1 in all, t_start, t_end, offsets; intervals of many lengths with gaps, up to ``far``."""
    make = torch.Generator().manual_seed(seed)
    weights, edges = [torch.zeros(0)], [torch.zeros(0)]
    for n in counts:
        weights.append(torch.rand(n, generator=make).square() / max(n, 1))
        edges.append(far * torch.rand(2 * n, generator=make).sort().values)
    t_start, t_end = torch.cat(edges).view(-1, 2).unbind(-1)
    return [torch.cat(weights), t_start, t_end, torch.tensor([0, *counts]).cumsum(0)]


def loss_and_gradient(function, inputs: list[Tensor]) -> list[Tensor]:
    weights = inputs[0].clone().requires_grad_()
    loss = function(weights, *inputs[1:])
    loss.backward(torch.linspace(-1, 2, len(loss)).to(loss))
    assert weights.grad is not None
    return [v.detach().cpu().double() for v in (loss, weights.grad)]


def check_against_twin(inputs: list[Tensor], device: str, far: float = 1.0) -> None:
    made = loss_and_gradient(distortion, [v.to(device) for v in inputs])
    want = loss_and_gradient(reference.distortion, [v.double() if v.is_floating_point() else v for v in inputs])
    # Sums of up to 130 terms, each a weight of all samples together (at most 1) times a distance (at most `far`), with
    # some roundings (2^-24) each; an upstream gradient of up to 2 and the loss's own 2.
    for got, truth in zip(made, want, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=130 * 2**-22 * far)


def test_two_samples_are_worked_out_by_hand(device):
    # Middles 0.1 and 0.7, lengths 0.2 and 0.4: 2 * 0.5 * 0.25 * 0.6 + (0.25 * 0.2 + 0.0625 * 0.4) / 3 = 0.175.
    weights = torch.tensor([0.5, 0.25], device=device, requires_grad=True)
    t_start, t_end = torch.tensor([0.0, 0.5], device=device), torch.tensor([0.2, 0.9], device=device)
    loss = distortion(weights, t_start, t_end, torch.tensor([0, 2], device=device))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.15 + 0.075 / 3, rel=1e-6)
    # 2 * 0.25 * 0.6 + 2/3 * 0.5 * 0.2; 2 * 0.5 * 0.6 + 2/3 * 0.25 * 0.4.
    assert weights.grad is not None
    assert weights.grad.tolist() == pytest.approx([0.3 + 0.2 / 3, 0.6 + 0.2 / 3], rel=1e-6)


def test_a_single_sample_pays_for_its_length_alone(device):
    weight, t_start, t_end = (torch.tensor([v], device=device) for v in (0.6, 0.2, 0.5))
    made = distortion(weight, t_start, t_end, torch.tensor([0, 1, 1], device=device))
    assert made.tolist() == pytest.approx([0.36 * 0.3 / 3, 0.0], rel=1e-6)


@pytest.mark.filterwarnings("ignore")  # nerfstudio's imports
def test_the_loss_is_nerfstudios(device):
    from nerfstudio.model_components.losses import lossfun_distortion

    edges = torch.rand(20, 49, generator=torch.Generator().manual_seed(0)).sort(dim=-1).values
    weights = torch.rand(20, 48, generator=torch.Generator().manual_seed(1)) / 48
    packed = [v.reshape(-1).to(device) for v in (weights, edges[:, :-1], edges[:, 1:])]
    made = distortion(*packed, (torch.arange(21) * 48).to(device))
    # Both are sums of 48 x 48 terms of at most 1 / 48^2, of distances of at most 1.
    torch.testing.assert_close(made.cpu(), lossfun_distortion(edges, weights), rtol=0, atol=48 * 2**-22)


def test_the_twins_derivatives_are_right():
    weights, t_start, t_end, offsets = (v.double() for v in intervals([3, 0, 1, 5]))
    twin = lambda w: reference.distortion(w, t_start, t_end, offsets.long())  # noqa: E731
    assert torch.autograd.gradcheck(twin, weights.requires_grad_())
    assert torch.autograd.gradgradcheck(twin, weights)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 70), max_size=6), seed=st.integers(0, 10**6), far=st.sampled_from([1e-3, 1, 1e3]))
def test_loss_and_gradient_equal_the_twins(device, counts, seed, far):
    check_against_twin(intervals(counts, seed, far), device, far)


def test_loss_and_gradient_of_long_rays_equal_the_twins(device):
    check_against_twin(intervals(COUNTS), device)


def test_a_ray_far_away_has_the_same_loss(device):
    inputs = intervals(COUNTS)
    near = distortion(*(v.to(device) for v in inputs))
    moved = [inputs[0], inputs[1] + 64.0, inputs[2] + 64.0, inputs[3]]
    # Only what 64 + t itself loses: 64 times 2^-24, for each of two ends.
    torch.testing.assert_close(distortion(*(v.to(device) for v in moved)), near, rtol=0, atol=64 * 2**-23)


@pytest.mark.parametrize("counts", [[], [0], [0, 0]])
def test_no_rays_and_no_samples_give_zeros(device, counts):
    loss, gradient = loss_and_gradient(distortion, [v.to(device) for v in intervals(counts)])
    assert loss.tolist() == [0.0] * len(counts)
    assert gradient.shape == (0,)


def test_inputs_need_not_be_contiguous(device):
    inputs = [v.to(device) for v in intervals(COUNTS)]
    spread = [torch.stack([v, v], dim=-1)[..., 0] for v in inputs]
    assert not any(v.is_contiguous() for v in spread)
    for got, want in zip(*(loss_and_gradient(distortion, v) for v in (spread, inputs)), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("place", "change", "error", "text"),
    [
        (0, lambda v: v.double(), TypeError, "weights must be torch.float32"),
        (0, lambda v: v[1:], ValueError, r"weights must be \[8\], got \[7\]"),
        (1, lambda v: v[:, None], ValueError, "t_start must be"),
        (2, lambda v: v[1:], ValueError, "t_end must be"),
        (3, lambda v: v.int(), TypeError, "offsets must be torch.int64"),
        (3, lambda v: torch.tensor([0, 5, 3, 8]), ValueError, "never fall"),
        (3, lambda v: v + 1, ValueError, "got 1 to 9"),
    ],
)
def test_wrong_tensors_are_refused(place, change, error, text):
    inputs = intervals([3, 5])
    inputs[place] = change(inputs[place])
    with pytest.raises(error, match=text):
        distortion(*inputs)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("compiled", [True, False])
def test_values_that_are_not_finite_are_refused_by_name(monkeypatch, place, bad, compiled):
    if not compiled:
        monkeypatch.setattr(module, "has_kernels", lambda _: False)
    inputs = intervals([3, 5])
    inputs[place][4] = bad
    with pytest.raises(ValueError, match=f"^{('weights', 't_start', 't_end')[place]} has 1 values that are NaN or inf"):
        distortion(*inputs)


def test_without_kernels_the_twin_runs(monkeypatch):
    inputs = intervals(COUNTS)
    made = loss_and_gradient(distortion, inputs)
    monkeypatch.setattr(module, "has_kernels", lambda _: False)
    for got, want in zip(loss_and_gradient(distortion, inputs), made, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=130 * 2**-22)  # both have the kernel's roundings


def test_the_same_bytes_for_any_number_of_threads_and_every_time(with_threads):
    inputs = intervals([(37 * k) % 150 for k in range(300)])
    runs = [with_threads(n, lambda: loss_and_gradient(distortion, inputs)) for n in (1, 2, 1, 2)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_the_ops_keep_torchs_rules(device):
    inputs = [v.to(device) for v in intervals(COUNTS)]
    ops = torch.ops.fieldbook
    torch.library.opcheck(ops.distortion.default, (*inputs, True))
    torch.library.opcheck(ops.distortion.default, (*inputs, False))
    slope, grad = torch.ones_like(inputs[0]), torch.rand(len(COUNTS), device=device)
    torch.library.opcheck(ops.distortion_backward.default, (slope, inputs[3], grad))


def test_a_second_derivative_is_refused_and_not_wrong(device):
    inputs = [v.to(device) for v in intervals([5])]
    inputs[0].requires_grad_()
    (slope,) = torch.autograd.grad(distortion(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        slope.sum().backward()


def test_a_compiled_graph_equals_eager(device):
    inputs = [v.to(device) for v in intervals(COUNTS)]

    def scaled(weights: Tensor, *rest: Tensor) -> Tensor:
        return distortion(weights * 2, *rest).exp()

    torch.compiler.reset()
    compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    for got, want in zip(loss_and_gradient(compiled, inputs), loss_and_gradient(scaled, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # the same operations


@pytest.mark.parametrize("number", [2, 5, 40])
def test_samples_in_falling_order_are_refused(number: int, device: str):
    """The loss by running sums holds for rising middles only; it once came out negative."""
    t = torch.arange(number, device=device).flip(0) / number
    weights, offsets = torch.full((number,), 1 / number, device=device), torch.tensor([0, number], device=device)
    if device == "cpu":
        with pytest.raises(ValueError, match="rise along a ray"):
            distortion(weights, t, t + 0.1, offsets)
    else:
        assert torch.isinf(distortion(weights, t, t + 0.1, offsets)).all()
    each = torch.arange(number + 1, device=device)  # one sample per ray: nothing falls within a ray
    assert torch.isfinite(distortion(weights, t, t + 0.1, each)).all()
