"""Adam for grid tables: torch's numbers where there is a gradient, nothing where there is none, buffers that stay."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.adam import AdamNumbers, GridAdam, adam_step_

NUMBERS = AdamNumbers(lr=1e-2, beta1=0.9, beta2=0.99, epsilon=1e-15, step=3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(size: int, seed: int = 0, empty: float = 0.0) -> list[Tensor]:
    """Parameter, gradient (this share of it zero), first and second moment."""
    gradient = normal(size, seed=seed + 1)
    gradient[torch.rand(size, generator=torch.Generator().manual_seed(seed)) < empty] = 0
    return [normal(size, seed=seed), gradient, normal(size, seed=seed + 2), normal(size, seed=seed + 3).square()]


@pytest.mark.parametrize(
    "options", [{}, {"lr": 0.3, "betas": (0.5, 0.999), "eps": 1e-3}, {"betas": (0.0, 0.0), "eps": 1e-8}]
)
def test_twenty_steps_equal_torchs_adam_where_every_entry_has_a_gradient(device, options):
    defaults = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-15}
    ours = normal(37, 2).to(device).requires_grad_()
    theirs = normal(37, 2).double().requires_grad_()
    optimisers = GridAdam([ours], **options), torch.optim.Adam([theirs], **(defaults | options))
    for step in range(20):
        gradient = normal(37, 2, seed=step + 1)
        ours.grad, theirs.grad = gradient.to(device), gradient.double()
        for optimiser in optimisers:
            optimiser.step()
    # Twenty times a few roundings of numbers of about 1, of which one is a division by a moment's root.
    torch.testing.assert_close(ours.detach().cpu().double(), theirs.detach(), rtol=0, atol=20 * 2**-22)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(0, 100), step=st.integers(1, 10000), empty=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_one_step_equals_the_twin(device, size, step, empty):
    numbers = AdamNumbers(1e-2, 0.9, 0.99, 1e-15, step)
    made = [v.to(device) for v in tensors(size, empty=empty)]
    want = [v.double() for v in tensors(size, empty=empty)]
    adam_step_(*made, numbers)
    reference.adam_step_(*want, numbers)
    for got, truth in zip(made, want, strict=True):
        # The learning rate and the decays are rounded to float32, and then each product.
        torch.testing.assert_close(got.cpu().double(), truth, rtol=2**-20, atol=2**-20)


def test_entries_without_a_gradient_stay_with_their_moments(device):
    before = [v.to(device) for v in tensors(1000, empty=0.9)]
    after = [v.clone() for v in before]
    adam_step_(*after, NUMBERS)
    still = before[1] == 0
    for old, new in zip(before[:1] + before[2:], after[:1] + after[2:], strict=True):
        assert torch.equal(old[still], new[still])
        assert (old[~still] != new[~still]).all()


def test_the_gradient_is_zero_after_a_step(device):
    values = [v.to(device) for v in tensors(100)]
    adam_step_(*values, NUMBERS)
    assert not values[1].any()


def test_the_same_bytes_for_any_number_of_threads(with_threads):
    def run() -> list[Tensor]:
        values = tensors(50_001, empty=0.5)
        adam_step_(*values, NUMBERS)
        return values

    first, second = with_threads(1, run), with_threads(2, run)
    assert all(map(torch.equal, first, second))


# --- the optimiser ---------------------------------------------------------------------------------------------------


def with_gradient(param: Tensor, seed: int) -> None:
    gradient = normal(*param.shape, seed=seed).to(param.device) * (normal(*param.shape, seed=seed + 100) > 0).to(param)
    param.grad = gradient if param.grad is None else param.grad.add_(gradient)


def test_a_step_keeps_the_gradients_buffer_and_clears_it(device):
    param = normal(40).to(device).requires_grad_()
    with_gradient(param, 1)
    buffer = param.grad
    optimiser = GridAdam([param])
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    assert param.grad is buffer
    assert not buffer.any()


def test_zero_grad_clears_what_was_written_since_the_step_and_does_not_touch_a_clean_buffer(device):
    param = normal(40).to(device).requires_grad_()
    with_gradient(param, 1)
    optimiser = GridAdam([param])
    optimiser.step()
    version = param.grad._version
    optimiser.zero_grad()
    assert param.grad._version == version
    with_gradient(param, 2)
    optimiser.zero_grad()
    assert not param.grad.any()


def test_zero_grad_clears_a_gradient_that_no_step_has_used(device):
    param = normal(40).to(device).requires_grad_()
    optimiser = GridAdam([param])
    optimiser.zero_grad()
    assert param.grad is None
    with_gradient(param, 1)
    optimiser.zero_grad()
    assert not param.grad.any()
    param.grad = torch.ones_like(param)  # another buffer than the one that was cleared
    optimiser.zero_grad()
    assert not param.grad.any()


def test_a_state_dict_that_went_through_a_file_goes_on_with_the_same_bytes(device, tmp_path):
    def steps(optimiser: GridAdam, param: Tensor, seeds: range) -> None:
        for seed in seeds:
            with_gradient(param, seed)
            optimiser.step()

    straight = normal(40).to(device).requires_grad_()
    optimiser = GridAdam([straight], lr=3e-2)
    steps(optimiser, straight, range(5))
    torch.save(optimiser.state_dict(), tmp_path / "state")
    resumed = straight.detach().clone().requires_grad_()
    again = GridAdam([resumed])
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    steps(optimiser, straight, range(5, 9))
    steps(again, resumed, range(5, 9))
    assert torch.equal(straight, resumed)


def test_a_copy_of_the_optimiser_works(device):
    param = normal(40).to(device).requires_grad_()
    with_gradient(param, 1)
    optimiser = GridAdam([param])
    optimiser.step()
    twin = copy.deepcopy(optimiser)
    (copied,) = twin.param_groups[0]["params"]
    for each, which in ((optimiser, param), (twin, copied)):
        each.zero_grad()
        with_gradient(which, 2)
        each.step()
    assert torch.equal(param, copied)


def test_a_graph_that_saved_the_old_values_is_refused_after_a_step(device):
    param = normal(40).to(device).requires_grad_()
    loss = param.square().sum()
    with_gradient(param, 1)
    GridAdam([param]).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_closure_is_run_with_gradients(device):
    param = normal(40).to(device).requires_grad_()

    def closure() -> Tensor:
        loss = param.square().sum()
        loss.backward()
        return loss

    before = param.detach().clone()
    assert GridAdam([param]).step(closure) == before.square().sum()
    assert (param != before).all()


def test_parameters_without_a_gradient_are_left_alone(device):
    param = normal(40).to(device).requires_grad_()
    optimiser = GridAdam([param])
    optimiser.step()
    assert not optimiser.state
    assert torch.equal(param.detach().cpu(), normal(40))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "change", "error", "words"),
    [
        (0, lambda v: v.half(), TypeError, "param must be torch.float32, got torch.float16"),
        (1, lambda v: v[1:], ValueError, r"grad must be \[8\], got \[7\]"),
        (1, lambda v: v.double(), TypeError, "grad must be torch.float32"),
        (2, lambda v: v.to("meta"), ValueError, "mean on meta; move one"),
        (3, lambda v: v[:, None], ValueError, r"square must be \[8\], got \[8, 1\]"),
        (3, lambda v: v.repeat(2)[::2], ValueError, "square must be contiguous"),
    ],
)
def test_a_wrong_argument_is_named(which, change, error, words):
    values = tensors(8)
    values[which] = change(values[which])
    with pytest.raises(error, match=words):
        adam_step_(*values, NUMBERS)


@pytest.mark.parametrize(
    "wrong",
    [{"lr": -1.0}, {"lr": math.nan}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"eps": -1e-8}, {"eps": math.inf}],
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Adam: lr and epsilon >= 0, betas in \[0, 1\)"):
        GridAdam([torch.zeros(2, requires_grad=True)], **wrong)


def test_a_step_before_the_first_is_refused():
    with pytest.raises(ValueError, match="step >= 1"):
        AdamNumbers(1e-2, 0.9, 0.99, 1e-15, step=0)
