"""Grid encoding: one kernel that equals its twin in every shape it comes in."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.grid import Grid, grid_encode

from .kernels_grids import DIALECTS, SMALL, all_of, entries, generator, positions


def check_against_twin(grid: Grid, x: Tensor, device: str = "cpu", mask: int | None = None, half: bool = False) -> None:
    table = entries(grid, dtype=torch.float16 if half else torch.float32)
    upstream = torch.rand(len(x), grid.width, generator=generator(2)) * 2 - 1
    made = all_of(grid_encode, x.to(device), table.to(device), grid, upstream, mask)
    want = all_of(reference.grid_encode, x.double(), table.double(), grid, upstream, mask)
    # A position is rounded to float32 (2^-24 of up to `finest` cells) before its cell is taken off, on each axis; a
    # smooth step is up to 6 times as steep; then come sums of some tens of terms.
    slack = 6 * grid.dims * max(grid.resolutions) * 2**-24 + 2**-20
    for name, got, truth in zip(("features", "table", "x"), made, want, strict=True):
        scale = max(1.0, float(truth.abs().max())) if truth.numel() else 1.0
        coarse = 2**-10 if half and name == "table" else 0.0  # that gradient is rounded to the table's type
        assert torch.isfinite(got).all()
        torch.testing.assert_close(got, truth, rtol=coarse, atol=slack * scale, msg=lambda m, n=name: f"{n}: {m}")


# --- the twin


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_the_twins_first_and_second_derivatives_are_right(dims, interpolation):
    grid = Grid(dims=dims, levels=2, features=2, base=3, growth=1.7, log2_size=4, interpolation=interpolation)
    x = positions(5, dims, seed=3).double()
    for level in grid.table:  # finite differences of 1e-6 must not step into another cell
        assert ((x * level.scale + level.shift) % 1 - 0.5).abs().max() < 0.49
    inputs = (x.requires_grad_(), entries(grid).double().requires_grad_())
    encode = lambda x, table: reference.grid_encode(x, table, grid)  # noqa: E731
    assert torch.autograd.gradcheck(encode, inputs)
    assert torch.autograd.gradgradcheck(encode, inputs)


def test_the_twins_eikonal_gradient_to_the_table_equals_finite_differences():
    grid = dataclasses.replace(SMALL, features=1)
    x = positions(40).double().requires_grad_()
    table = entries(grid).double().requires_grad_()

    def loss(entries: Tensor) -> Tensor:
        out = reference.grid_encode(x, entries, grid).sum()
        (slope,) = torch.autograd.grad(out, x, create_graph=True)
        return (slope.norm(dim=-1) - 1).square().mean()

    (exact,) = torch.autograd.grad(loss(table), table)
    for row in exact.detach().abs().flatten().topk(3).indices.tolist():
        step = torch.zeros_like(table)
        step[row] = 1e-5
        difference = (loss(table + step) - loss(table - step)).item() / 2e-5
        # Central differences: an error of step^2 times a third derivative, and 1e-16 / 1e-5 of rounding.
        assert difference == pytest.approx(exact[row].item(), rel=1e-6)


# --- the kernel against the twin


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: "-".join(map(str, d.values())))
@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_features_and_gradients_equal_the_twins(device, dims, features, dialect, interpolation):
    grid = Grid(dims, 4, features, 4, 1.8, 9, interpolation=interpolation, **dialect)
    check_against_twin(grid, positions(75, dims), device)


@st.composite
def grids(draw) -> Grid:
    shape = {"dims": draw(st.sampled_from([2, 3])), "features": draw(st.sampled_from([1, 2, 4, 8]))}
    sizes = {"levels": draw(st.integers(1, 6)), "base": draw(st.integers(1, 9)), "log2_size": draw(st.integers(3, 12))}
    growth = draw(st.floats(1.0, 2.0))
    smooth = draw(st.sampled_from(["linear", "smoothstep"]))
    return Grid(**shape, **sizes, growth=growth, interpolation=smooth, **draw(st.sampled_from(DIALECTS)))


@settings(max_examples=60, deadline=None)
@given(
    grid=grids(), points=st.integers(0, 70), half=st.booleans(), bits=st.integers(0, 2**6 - 1), seed=st.integers(0, 99)
)
def test_every_grid_and_number_of_points_equals_the_twin(device, grid, points, half, bits, seed):
    check_against_twin(grid, positions(points, grid.dims, seed), device, mask=bits, half=half)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: "-".join(map(str, d.values())))
def test_the_ends_of_the_unit_cube_and_points_outside_equal_the_twin(device, dialect):
    grid = Grid(levels=4, base=4, growth=1.8, log2_size=9, **dialect)
    ends = torch.tensor(list(itertools.product([0.0, 1.0, -0.4, 1.7, -0.0], repeat=3)))
    check_against_twin(grid, ends, device)
