"""Grid encoding at a point and its taps: what the encoding of the shifted points alone gives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.grid import Grid, grid_encode
from methods.kernels.grid_taps import grid_encode_taps
from methods.kernels.taps import gradient_and_laplacian, tap_offsets

from .kernels_grids import DIALECTS, SMALL, entries, generator, positions

NEAR, BETWEEN, FAR = 1e-4, 0.06, 1.3
"""Reach of offsets: nearly all taps in the point's cell; some, at most levels; none, and many outside [0, 1]."""


def offsets_of(count: int, reach: float, dims: int = 3, seed: int = 4) -> Tensor:
    return (torch.rand(count, dims, generator=generator(seed)) * 2 - 1) * reach


def one_by_one(x: Tensor, offsets: Tensor, table: Tensor, grid: Grid, mask=None, sink=None, clamped=False) -> Tensor:
    """The same by ``grid_encode``, of all points and taps in a row."""
    taps = x[:, None] + offsets
    places = torch.cat([x[:, None], taps.clamp(0, 1) if clamped else taps], dim=1)
    return grid_encode(places.flatten(0, 1), table, grid, mask, sink).view(len(x), 1 + len(offsets), grid.width)


def results_of(encode, x: Tensor, offsets: Tensor, table: Tensor, grid: Grid, *more) -> list[Tensor]:
    """Features, gradient to the table, gradient to x."""
    x, table = x.clone().requires_grad_(), table.clone().requires_grad_()
    out = encode(x, offsets, table, grid, *more)
    upstream = torch.rand(out.shape, generator=generator(2)) * 2 - 1
    if out.requires_grad:  # the twin has no graph where every level is off
        out.backward(upstream.to(out))
    gradients = (torch.zeros_like(v) if v.grad is None else v.grad for v in (table, x))
    return [v.detach().cpu().double() for v in (out, *gradients)]


def check_against_encode(grid: Grid, x: Tensor, offsets: Tensor, *more, half: bool = False, device="cpu") -> None:
    table = entries(grid, dtype=torch.float16 if half else torch.float32)
    arguments = (x.to(device), offsets.to(device), table.to(device), grid, *more)
    made, want = results_of(grid_encode_taps, *arguments), results_of(one_by_one, *arguments)
    for name, got, truth in zip(("features", "table", "x"), made, want, strict=True):
        scale = max(1.0, float(truth.abs().max())) if truth.numel() else 1.0
        # The same numbers, added in another order: as many as share a row.
        coarse = 2**-10 if half and name == "table" else 0.0
        torch.testing.assert_close(got, truth, rtol=coarse, atol=1e-5 * scale, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("features", "interpolation"), [(1, "smoothstep"), (2, "linear"), (2, "smoothstep"), (4, "linear"), (8, "linear")]
)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: "-".join(map(str, d.values())))
def test_taps_equal_the_encoding_of_the_shifted_points(device, dims, features, dialect, interpolation):
    grid = Grid(dims, 5, features, 4, 1.8, 9, interpolation=interpolation, **dialect)
    for reach in (NEAR, BETWEEN, FAR):
        check_against_encode(grid, positions(75, dims), offsets_of(4, reach, dims), device=device)


@settings(max_examples=60, deadline=None)
@given(
    points=st.integers(0, 70),
    taps=st.integers(0, 8),
    reach=st.sampled_from([NEAR, 0.01, BETWEEN, FAR]),
    half=st.booleans(),
    clamped=st.booleans(),
    bits=st.integers(0, 2**6 - 1),
    seed=st.integers(0, 99),
)
def test_any_number_of_points_taps_and_levels(device, points, taps, reach, half, clamped, bits, seed):
    grid = Grid(levels=6, base=3, growth=1.9, log2_size=10)
    x, offsets = positions(points, 3, seed), offsets_of(taps, reach, seed=seed)
    check_against_encode(grid, x, offsets, bits, None, clamped, half=half, device=device)


@pytest.mark.parametrize("features", [1, 2, 8])
@pytest.mark.parametrize("kind", ["axes", "tetrahedron"])
def test_a_grid_whose_levels_outgrow_the_caches_equals_the_encoding(features, kind):
    grid = Grid(levels=16, features=features, growth=1.5, log2_size=17)
    check_against_encode(grid, positions(333), tap_offsets(1 / 300, kind))


def test_a_tap_that_just_leaves_the_cell_and_one_that_just_does_not(device):
    """Position 2 of a level is a border: taps to both sides of it, from both sides of it, and along each axis."""
    grid = Grid(levels=1, base=5, growth=1.0, log2_size=9)
    border = (2 - grid.table[0].shift) / grid.table[0].scale
    below, above = (math.nextafter(border, end) for end in (0.0, 1.0))
    x = torch.tensor(list(itertools.product([below - 1e-7, border, above + 1e-7], repeat=3)))
    offsets = torch.cat([torch.eye(3) * 2e-7, torch.eye(3) * -2e-7, torch.zeros(1, 3)])
    check_against_encode(grid, x, offsets, device=device)


@pytest.mark.parametrize("reach", [NEAR, BETWEEN, FAR])
@pytest.mark.parametrize("clamped", [False, True])
def test_the_kernel_equals_the_twin_in_float64(device, reach, clamped):
    x, offsets, table = positions(75), offsets_of(4, reach), entries(SMALL)
    options = (None, None, clamped)
    made = results_of(grid_encode_taps, x.to(device), offsets.to(device), table.to(device), SMALL, *options)
    exact = (x.double(), offsets.double(), table.double())
    want = results_of(reference.grid_encode_taps, *exact, SMALL, *options)
    # A tap is rounded to float32 (2^-24 of up to 2.3), then its position (of up to `finest` cells), on each axis.
    slack = 20 * max(SMALL.resolutions) * 2**-24
    for got, truth in zip(made, want, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=slack * max(1.0, float(truth.abs().max())))


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_the_twins_derivatives_are_right(interpolation):
    grid = Grid(levels=2, features=2, base=3, growth=1.7, log2_size=4, interpolation=interpolation)
    x, offsets = positions(5, seed=3).double(), offsets_of(3, 0.2).double()
    for level in grid.table:  # finite differences of 1e-6 must not step into another cell
        at = torch.cat([x[:, None], x[:, None] + offsets], dim=1) * level.scale + level.shift
        assert ((at % 1) - 0.5).abs().max() < 0.499
    inputs = (x.requires_grad_(), entries(grid).double().requires_grad_())
    encode = lambda x, table: reference.grid_encode_taps(x, offsets, table, grid)  # noqa: E731
    assert torch.autograd.gradcheck(encode, inputs)
    assert torch.autograd.gradgradcheck(encode, inputs)


def test_a_clamped_tap_lies_on_the_face_and_passes_no_gradient_along_the_axis(device):
    x = torch.tensor([[0.9, 0.5, 0.5], [0.99, 0.5, 0.01]], device=device)
    offsets = torch.tensor([[0.05, 0.0, -0.05]], device=device)
    table, upstream = entries(SMALL).to(device), torch.ones(2, 1, SMALL.width, device=device)
    moving = x.clone().requires_grad_()
    tap = grid_encode_taps(moving, offsets, table, SMALL, clamped=True)[:, 1:]
    face = torch.tensor([[0.95, 0.5, 0.45], [1.0, 0.5, 0.0]], device=device).requires_grad_()
    want = grid_encode(face, table, SMALL)
    torch.testing.assert_close(tap[:, 0], want, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(tap, moving, upstream)
    (truth,) = torch.autograd.grad(want, face, upstream[:, 0])
    assert slope[1, 0] == slope[1, 2] == 0
    truth[1, 0] = truth[1, 2] = 0
    torch.testing.assert_close(slope, truth, rtol=1e-4, atol=1e-4)


def test_offsets_of_none_are_the_encoding_itself(device):
    x, table = positions(50).to(device), entries(SMALL).to(device)
    made = grid_encode_taps(x, torch.empty(0, 3, device=device), table, SMALL)
    torch.testing.assert_close(made[:, 0], grid_encode(x, table, SMALL), rtol=1e-6, atol=1e-6)


def test_inputs_that_are_not_contiguous_give_the_same(device):
    x, offsets, table = positions(50).to(device), offsets_of(4, BETWEEN).to(device), entries(SMALL).to(device)
    plain = results_of(grid_encode_taps, x, offsets, table, SMALL)
    x, offsets, table = turned = tuple(v.T.contiguous().T for v in (x, offsets, table))
    assert not any(v.is_contiguous() for v in turned)
    for got, want in zip(results_of(grid_encode_taps, x, offsets, table, SMALL), plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("needs_x", [False, True])
def test_the_sink_gets_the_gradient_in_place_and_autograd_none(device, dtype, needs_x):
    x, offsets = positions(50).to(device), offsets_of(4, BETWEEN).to(device)
    table, sink = entries(SMALL, dtype=dtype).to(device), torch.zeros(SMALL.rows, 2, device=device)
    _, want, want_x = results_of(grid_encode_taps, x, offsets, table.float(), SMALL)
    x.requires_grad_(needs_x)
    table.requires_grad_()
    for count in (1, 2):
        out = grid_encode_taps(x, offsets, table, SMALL, None, sink)
        out.backward((torch.rand(out.shape, generator=generator(2)) * 2 - 1).to(device))
        assert table.grad is None
        torch.testing.assert_close(sink.cpu().double(), want * count, rtol=1e-5, atol=1e-5)
    if x.grad is not None:
        torch.testing.assert_close(x.grad.cpu().double(), 2 * want_x, rtol=1e-5, atol=1e-4)
    assert (x.grad is not None) == needs_x


def test_the_same_bytes_for_any_number_of_threads_and_every_time(with_threads):
    grid = Grid(levels=7, base=4, growth=1.6, log2_size=11)
    x, offsets, table = positions(3001), offsets_of(4, BETWEEN), entries(grid)
    runs = [with_threads(n, lambda: results_of(grid_encode_taps, x, offsets, table, grid)) for n in (1, 2, 1, 2)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_a_second_derivative_is_refused_and_not_silently_zero(device):
    x = positions(5).to(device).requires_grad_()
    out = grid_encode_taps(x, offsets_of(2, BETWEEN).to(device), entries(SMALL).to(device).requires_grad_(), SMALL)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        slope.square().sum().backward()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: "-".join(map(str, d.values())))
@pytest.mark.parametrize("clamped", [0, 1])
def test_absurd_positions_stay_inside_the_table(device, dialect, clamped):
    grid = Grid(levels=5, base=3, growth=1.9, log2_size=7, **dialect)
    x = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e9, -1e9, 5e-39])
    x = torch.cartesian_prod(x, x, x).to(device)
    offsets = torch.tensor([[1e-3] * 3, [math.inf, 0.0, math.nan], [-3e38] * 3], device=device)
    margin = 1000
    around = torch.zeros((grid.rows + 2 * margin) * 2, device=device)
    sink = around[2 * margin : -2 * margin].view(grid.rows, 2)
    table = entries(grid).to(device).requires_grad_()
    options = [2, 0, int(dialect["dialect"] == "torch-ngp"), 31, clamped]
    out = torch.ops.fieldbook.grid_encode_taps(x.requires_grad_(), offsets, table, grid.packed, sink, options)
    out.sum().backward()
    assert not around[: 2 * margin].any()
    assert not around[-2 * margin :].any()


MISTAKES = {
    "offsets' dims": ({"offsets": torch.zeros(4, 2)}, ValueError, r"offsets must be \[K, 3\], got \[4, 2\]"),
    "offsets' axes": ({"offsets": torch.zeros(3)}, ValueError, r"offsets must be \[K, 3\], got \[3\]"),
    "offsets' type": ({"offsets": torch.zeros(4, 3).double()}, TypeError, "offsets must be torch.float32"),
    "offsets' device": ({"offsets": torch.zeros(4, 3, device="meta")}, ValueError, "offsets on meta; move one"),
    "NaN": ({"offsets": torch.full((4, 3), math.nan)}, ValueError, "offsets has 12 values that are NaN or infinite"),
    "a gradient": ({"offsets": torch.zeros(4, 3, requires_grad=True)}, ValueError, "offsets get no gradient; detach"),
    "x's dims": ({"x": torch.zeros(9, 2)}, ValueError, r"x must be \[N, 3\], got \[9, 2\]"),
    "table's rows": ({"table": torch.zeros(3, 2)}, ValueError, r"table must be \[\d+, 2\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument_is_named(mistake):
    change, error, words = MISTAKES[mistake]
    arguments = {"x": positions(9), "offsets": torch.zeros(4, 3), "table": entries(SMALL), "grid": SMALL}
    with pytest.raises(error, match=words):
        grid_encode_taps(**arguments | change)


def test_the_op_keeps_torchs_rules(device):
    x, table = positions(20).to(device).requires_grad_(), entries(SMALL).to(device).requires_grad_()
    op = torch.ops.fieldbook.grid_encode_taps.default
    torch.library.opcheck(op, (x, offsets_of(3, BETWEEN).to(device), table, SMALL.packed, None, [2, 0, 0, 15, 0]))


def test_numerical_normals_train_the_table_as_the_twin_says(device):
    """The use that this is for: a loss on a distance's gradient by differences reaches the table in one order."""
    x, eps = positions(60), 1 / 64

    def gradient(encode, x: Tensor, table: Tensor) -> Tensor:
        table = table.clone().requires_grad_()
        distance = encode(x, tap_offsets(eps).to(x), table, SMALL).square().sum(dim=-1)
        normal, laplacian = gradient_and_laplacian(distance[:, 0], distance[:, 1:], eps)
        loss = (normal.norm(dim=-1) - 1).square().mean() + 1e-3 * laplacian.abs().mean()
        return torch.autograd.grad(loss, table)[0].cpu().double()

    made = gradient(grid_encode_taps, x.to(device), entries(SMALL).to(device))
    want = gradient(reference.grid_encode_taps, x.double(), entries(SMALL).double())
    assert float((made - want).abs().sum() / want.abs().sum()) < 1e-3  # float32 values over eps^2
