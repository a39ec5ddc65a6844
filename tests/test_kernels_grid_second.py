"""The gradient of a grid's features with respect to the positions, and that gradient's own gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import grid_ops, reference
from methods.kernels.grid import Grid, grid_encode, grid_input_gradient

from .kernels_grids import DIALECTS, SMALL, entries, generator, positions


def second_of(gradient, x: Tensor, table: Tensor, grid: Grid, grad: Tensor, along: Tensor, *more) -> list[Tensor]:
    """The gradient [N, D], and those of its product with ``along``: to x, to the table, to ``grad``."""
    leaves = [v.clone().requires_grad_() for v in (x, table, grad)]
    made = gradient(leaves[0], leaves[1], grid, leaves[2], *more)
    linked = made.requires_grad  # the twin has no graph where every level is off
    to_leaves = torch.autograd.grad(made, leaves, along.to(made), allow_unused=True) if linked else [None] * 3
    zeros = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, to_leaves, strict=True)]
    return [v.detach().cpu().double() for v in (made, *zeros)]


def by_autograd(x: Tensor, table: Tensor, grid: Grid, grad: Tensor, mask: int | None = None) -> Tensor:
    return torch.autograd.grad(grid_encode(x, table, grid, mask), x, grad, create_graph=True)[0]


def check_against_twin(
    grid: Grid,
    x: Tensor,
    device: str = "cpu",
    mask: int | None = None,
    half: bool = False,
    gradient=grid_input_gradient,
) -> None:
    table = entries(grid, dtype=torch.float16 if half else torch.float32)
    grad = torch.rand(len(x), grid.width, generator=generator(2)) * 2 - 1
    along = torch.rand(len(x), grid.dims, generator=generator(3)) * 2 - 1
    made = second_of(gradient, *(v.to(device) for v in (x, table)), grid, grad.to(device), along, mask)
    exact = (x.double(), table.double())
    want = second_of(reference.grid_input_gradient, *exact, grid, grad.double(), along, mask)
    # As for the features: a position's rounding of 2^-24 of up to `finest` cells, through slopes of up to 6 per cell.
    slack = 36 * grid.dims * max(grid.resolutions) * 2**-24 + 2**-20
    for name, got, truth in zip(("gradient", "to x", "to table", "to grad"), made, want, strict=True):
        scale = max(1.0, float(truth.abs().max())) if truth.numel() else 1.0
        coarse = 2**-10 if half and name == "to table" else 0.0
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got, truth, rtol=coarse, atol=slack * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: "-".join(map(str, d.values())))
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_the_gradient_and_its_gradients_equal_the_twins(device, dims, features, dialect, interpolation):
    grid = Grid(dims, 4, features, 4, 1.8, 9, interpolation=interpolation, **dialect)
    check_against_twin(grid, positions(75, dims), device)


@settings(max_examples=30, deadline=None)
@given(points=st.integers(0, 40), half=st.booleans(), bits=st.integers(0, 15), seed=st.integers(0, 99))
def test_any_number_of_points_and_any_levels_equal_the_twins(device, points, half, bits, seed):
    check_against_twin(SMALL, positions(points, 3, seed), device, mask=bits, half=half)


def test_autograds_own_double_backward_is_the_same(device):
    check_against_twin(SMALL, positions(60), device, gradient=by_autograd)


def eikonal(x: Tensor, table: Tensor, grid: Grid, sink: Tensor | None = None) -> Tensor:
    """Of a distance that is the squared norm of the features, so that the gradient of features depends on them."""
    features = grid_encode(x, table, grid, None, sink)
    normal = grid_input_gradient(x, table, grid, 2 * features, None, sink)
    return (normal.norm(dim=-1) - 1).square().mean()


def test_an_eikonal_losss_gradient_to_single_entries_equals_finite_differences(device):
    grid = Grid(levels=3, features=2, base=3, growth=1.6, log2_size=8)
    x, table = positions(60).to(device), entries(grid).to(device).requires_grad_()
    (exact,) = torch.autograd.grad(eikonal(x, table, grid), table)
    truth = table.detach().double()

    def loss(step: Tensor) -> float:
        moved = (truth + step).requires_grad_()
        features = reference.grid_encode(x.double(), moved, grid)
        normal = reference.grid_input_gradient(x.double(), moved, grid, 2 * features)
        return (normal.norm(dim=-1) - 1).square().mean().item()

    for row in exact.abs().sum(dim=1).topk(3).indices.tolist():
        step = torch.zeros_like(truth)
        step[row, 0] = 1e-5
        difference = (loss(step) - loss(-step)) / 2e-5
        assert difference == pytest.approx(exact[row, 0].item(), rel=1e-4)


def test_the_sink_gets_both_orders_and_autograd_none(device):
    x, table = positions(60).to(device), entries(SMALL).to(device).requires_grad_()
    (want,) = torch.autograd.grad(eikonal(x, table, SMALL), table)
    sink = torch.zeros_like(table, requires_grad=False)
    eikonal(x, table, SMALL, sink).backward()
    assert table.grad is None
    torch.testing.assert_close(sink, want, rtol=1e-5, atol=1e-5)


def test_both_orders_reach_the_sink_in_one_walk_through_the_table(monkeypatch):
    walks = []
    kernel = grid_ops.compiled("cpu").grid_backward_table
    spy = SimpleNamespace(grid_backward_table=lambda *a: walks.append(a[3].dim()) or kernel(*a))
    names = ("grid_forward", "grid_backward_x")
    vars(spy).update({name: getattr(grid_ops.compiled("cpu"), name) for name in names})
    monkeypatch.setattr(grid_ops, "compiled", lambda _: spy)
    x, table = positions(60), entries(SMALL).requires_grad_()
    eikonal(x, table, SMALL, torch.zeros_like(table, requires_grad=False)).backward()
    assert walks == [2]  # with the features' own gradient


def normals_only(x: Tensor, table: Tensor, grad: Tensor, sink: Tensor | None) -> Tensor:
    return (grid_input_gradient(x, table, SMALL, grad, None, sink).norm(dim=-1) - 1).square().mean()


def check_sink(device: str, loss) -> None:
    """A loss (table, sink) gives the sink what it gives autograd without."""
    table, sink = entries(SMALL).to(device).requires_grad_(), torch.zeros(SMALL.rows, 2, device=device)
    (want,) = torch.autograd.grad(loss(table, None), table)
    loss(table, sink).backward()
    assert table.grad is None
    torch.testing.assert_close(sink, want, rtol=1e-5, atol=1e-5)


def test_a_gradient_without_features_reaches_the_sink_at_the_end_of_the_backward_pass(device):
    x, grad = positions(60).to(device), torch.rand(60, SMALL.width, generator=generator(2)).to(device)
    check_sink(device, lambda table, sink: normals_only(x, table, grad, sink))


def test_several_gradients_and_features_at_the_same_points_all_reach_the_sink(device):
    x = positions(60).to(device)
    grads = [torch.rand(60, SMALL.width, generator=generator(seed)).to(device) for seed in (2, 5)]

    def loss(table: Tensor, sink: Tensor | None) -> Tensor:
        total = torch.stack([normals_only(x, table, grad, sink) for grad in grads]).sum()
        for _ in range(3):
            total = total + grid_encode(x, table, SMALL, None, sink).square().mean()
        return total

    check_sink(device, loss)


def test_other_points_levels_or_grids_are_not_taken_for_the_same(device):
    x, grad = positions(60).to(device), torch.rand(60, SMALL.width, generator=generator(2)).to(device)
    other = Grid(levels=4, base=3, growth=2.0, log2_size=9)
    assert other.rows <= SMALL.rows

    def loss(table: Tensor, sink: Tensor | None) -> Tensor:
        short = slice(0, other.rows)
        total = grid_encode(x, table, SMALL, 0b0011, sink).square().mean() + normals_only(x, table, grad, sink)
        total = total + grid_encode(x.flip(0), table, SMALL, None, sink).mean()
        total = total + grid_encode(x[::2], table, SMALL, None, sink).mean()
        return total + grid_encode(x, table[short], other, None, None if sink is None else sink[short]).square().mean()

    check_sink(device, loss)


def test_a_backward_pass_that_fails_leaves_nothing_to_the_next(device):
    x, table = positions(60).to(device), entries(SMALL).to(device).requires_grad_()
    sink = torch.zeros_like(table, requires_grad=False)

    def fail(_: Tensor) -> None:
        raise KeyboardInterrupt

    features = grid_encode(x, table, SMALL, None, sink)
    features.register_hook(fail)
    normal = grid_input_gradient(x, table, SMALL, 2 * features, None, sink)
    with pytest.raises(KeyboardInterrupt):
        normal.square().sum().backward()
    del features, normal
    assert not grid_ops._DEBTS
    sink.zero_()
    (want,) = torch.autograd.grad(eikonal(x, table, SMALL), table)
    eikonal(x, table, SMALL, sink).backward()
    torch.testing.assert_close(sink, want, rtol=1e-5, atol=1e-5)


def test_a_graph_that_is_kept_gives_the_sink_the_same_again(device):
    x, table = positions(60).to(device), entries(SMALL).to(device).requires_grad_()
    sink = torch.zeros_like(table, requires_grad=False)
    loss = eikonal(x, table, SMALL, sink)
    loss.backward(retain_graph=True)
    once = sink.clone()
    loss.backward()
    torch.testing.assert_close(sink, 2 * once, rtol=1e-5, atol=1e-5)
    assert not grid_ops._DEBTS


def test_no_jacobian_is_stored(device):
    """What is kept for the backward pass are the inputs."""
    kept: list[Tensor] = []
    x, table = positions(50).to(device).requires_grad_(), entries(SMALL).to(device).requires_grad_()
    grad = torch.rand(50, SMALL.width, generator=generator(2)).to(device)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        grid_input_gradient(x, table, SMALL, grad)
    assert {v.data_ptr() for v in kept} <= {v.data_ptr() for v in (x, table, grad, SMALL.packed)}


def test_the_same_bytes_for_any_number_of_threads_and_every_time(with_threads):
    grid = Grid(levels=7, base=4, growth=1.6, log2_size=11)
    x, table, along = positions(3001), entries(grid), torch.rand(3001, 3, generator=generator(3))
    grad = torch.rand(3001, grid.width, generator=generator(2))
    work = lambda: second_of(grid_input_gradient, x, table, grid, grad, along)  # noqa: E731
    runs = [with_threads(n, work) for n in (1, 2, 1, 2)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


@pytest.mark.parametrize("wrong", ["grad's rows", "grad's width", "grad's type", "NaN"])
def test_a_wrong_argument_is_named(wrong):
    x, grad = positions(9), torch.zeros(9, SMALL.width)
    change = {
        "grad's rows": ((x, grad[1:]), ValueError, r"grad must be \[9, 8\]"),
        "grad's width": ((x, grad[:, 1:]), ValueError, r"grad must be \[9, 8\]"),
        "grad's type": ((x, grad.double()), TypeError, "grad must be torch.float32"),
        "NaN": ((x * math.nan, grad), ValueError, "x has 27 values"),
    }
    (x, grad), error, words = change[wrong]
    with pytest.raises(error, match=words):
        grid_input_gradient(x, entries(SMALL), SMALL, grad)


def test_the_op_keeps_torchs_rules(device):
    x, table = positions(20).to(device).requires_grad_(), entries(SMALL).to(device).requires_grad_()
    grad = torch.rand(20, SMALL.width, generator=generator(2)).to(device).requires_grad_()
    op = torch.ops.fieldbook.grid_input_gradient.default
    torch.library.opcheck(op, (x, table, SMALL.packed, None, grad, [2, 0, 0, 15]))
