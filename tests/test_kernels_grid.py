"""Grid encoding: points outside, levels off, the gradient's sink, mistakes, and torch's rules."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from methods.kernels.grid import Grid, grid_encode

from .kernels_grids import DIALECTS, SMALL, all_of, entries, generator, positions


def test_points_outside_give_zeros_and_no_gradient_in_torch_ngps_dialect(device):
    grid = dataclasses.replace(SMALL, dialect="torch-ngp")
    x = torch.tensor([[0.5, 0.5, 1.0], [0.5, 0.5, 1.0000001], [-1e-9, 0.5, 0.5], [0.5, 7.0, 0.5]]).to(device)
    upstream = torch.ones(4, grid.width)
    features, table, to_x = all_of(grid_encode, x, entries(grid).to(device), grid, upstream)
    _, inside_only, _ = all_of(grid_encode, x[:1], entries(grid).to(device), grid, upstream[:1])
    assert features[0].abs().min() > 0
    assert not features[1:].any()
    assert not to_x[1:].any()
    assert torch.equal(table, inside_only)


def test_no_points_give_no_features_and_zero_gradients(device):
    features, table, to_x = all_of(
        grid_encode, torch.empty(0, 3, device=device), entries(SMALL).to(device), SMALL, torch.empty(0, 8)
    )
    assert features.shape == (0, 8)
    assert to_x.shape == (0, 3)
    assert not table.any()


@pytest.mark.parametrize("mask", [0, 0b0001, 0b1010, 0b1111, -1])
def test_levels_that_are_off_give_zeros_and_get_no_gradient(device, mask):
    x, table = positions(50).to(device), entries(SMALL).to(device)
    upstream = torch.ones(50, SMALL.width)
    features, to_table, _ = all_of(grid_encode, x, table, SMALL, upstream, mask)
    all_features, all_to_table, _ = all_of(grid_encode, x, table, SMALL, upstream)
    for index, level in enumerate(SMALL.table):
        on = mask >> index & 1
        columns, rows = slice(2 * index, 2 * index + 2), slice(level.offset, level.offset + level.rows)
        assert torch.equal(features[:, columns], all_features[:, columns] * on)
        torch.testing.assert_close(
            to_table[rows], all_to_table[rows] * on, rtol=1e-6, atol=1e-6
        )  # a GPU adds in any order


def test_inputs_that_are_not_contiguous_give_the_same(device):
    x, table, upstream = positions(50), entries(SMALL), torch.rand(50, 8, generator=generator(2))
    plain = all_of(grid_encode, x.to(device), table.to(device), SMALL, upstream)
    x, table, upstream = (v.T.contiguous().to(device).T for v in (x, table, upstream))
    assert not any(v.is_contiguous() for v in (x, table, upstream))
    made = grid_encode(x.requires_grad_(), table.requires_grad_(), SMALL)
    made.backward(upstream)
    for got, want in zip((made, table.grad, x.grad), plain, strict=True):
        torch.testing.assert_close(got.detach().cpu().double(), want, rtol=1e-6, atol=1e-6)


# --- the sink


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_sink_gets_the_gradient_in_place_and_autograd_none(device, dtype):
    x, table = positions(50).to(device), entries(SMALL, dtype=dtype).to(device)
    upstream = torch.rand(50, 8, generator=generator(2)).to(device)
    wanted = table.float().clone().requires_grad_()
    grid_encode(x, wanted, SMALL).backward(upstream)
    sink = torch.zeros(SMALL.rows, 2, device=device)
    table.requires_grad_()
    for count in (1, 2):
        grid_encode(x, table, SMALL, None, sink).backward(upstream)
        assert table.grad is None
        exact = {"rtol": 0, "atol": 0} if device == "cpu" and count == 1 else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(sink, wanted.grad * count, **exact)


def test_a_write_to_the_sink_is_seen_by_version_counters(device):
    sink = torch.zeros(SMALL.rows, 2, device=device)
    before = sink._version
    grid_encode(positions(5).to(device), entries(SMALL).to(device).requires_grad_(), SMALL, None, sink).sum().backward()
    assert sink._version > before


# --- what must not happen


def test_a_third_derivative_is_refused_and_not_silently_zero(device):
    x = positions(5).to(device).requires_grad_()
    out = grid_encode(x, entries(SMALL).to(device).requires_grad_(), SMALL)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        bend.square().sum().backward()


def test_a_gradient_of_a_gradient_with_a_sink_is_refused_with_what_to_use(device):
    x, table = positions(5).to(device).requires_grad_(), entries(SMALL).to(device).requires_grad_()
    out = grid_encode(x, table, SMALL, None, torch.zeros_like(table, requires_grad=False))
    with pytest.raises(RuntimeError, match="use grid_input_gradient"):
        torch.autograd.grad(out.sum(), x, create_graph=True)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: "-".join(map(str, d.values())))
def test_absurd_positions_stay_inside_the_table(device, dialect):
    grid = Grid(levels=5, base=3, growth=1.9, log2_size=7, **dialect)
    x = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 1e9, -1e9, 5e-39])
    x = torch.cartesian_prod(x, x, x).to(device)
    margin = 1000
    around = torch.zeros((grid.rows + 2 * margin) * 2, device=device)
    sink = around[2 * margin : -2 * margin].view(grid.rows, 2)
    encode = torch.ops.fieldbook.grid_encode
    table = entries(grid).to(device).requires_grad_()
    out = encode(x.requires_grad_(), table, grid.packed, sink, [2, 0, dialect["dialect"] == "torch-ngp", 31])
    out.sum().backward()
    assert not around[: 2 * margin].any()
    assert not around[-2 * margin :].any()


MISTAKES = {
    "x's type": (lambda a: a | {"x": a["x"].double()}, TypeError, "x must be torch.float32, got torch.float64"),
    "x's axes": (lambda a: a | {"x": a["x"][0]}, ValueError, r"x must be \[N, 3\], got \[3\]"),
    "x's dims": (lambda a: a | {"x": a["x"][:, :2]}, ValueError, r"x must be \[N, 3\], got \[9, 2\]"),
    "no tensor": (lambda a: a | {"x": [[0.5] * 3]}, TypeError, "x must be a tensor, got list"),
    "table's type": (lambda a: a | {"table": a["table"].bfloat16()}, TypeError, "torch.float16, got torch.bfloat16"),
    "table's rows": (lambda a: a | {"table": a["table"][1:]}, ValueError, r"table must be \[\d+, 2\]"),
    "table's features": (lambda a: a | {"table": a["table"][:, :1]}, ValueError, r"table must be \[\d+, 2\]"),
    "table's device": (lambda a: a | {"table": a["table"].to("meta")}, ValueError, "table on meta; move one"),
    "sink's type": (lambda a: a | {"sink": a["table"].half()}, TypeError, "sink must be torch.float32"),
    "sink's rows": (lambda a: a | {"sink": a["table"][1:]}, ValueError, r"sink must be \[\d+, 2\]"),
    "sink's strides": (lambda a: a | {"sink": a["table"].T.contiguous().T}, ValueError, "sink must be contiguous"),
    "NaN": (lambda a: a | {"x": a["x"] * math.nan}, ValueError, "x has 27 values that are NaN or infinite, of 27"),
    "infinite": (lambda a: a | {"x": a["x"] / 0}, ValueError, "x has 27 values that are NaN or infinite, of 27"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_argument_is_named(mistake):
    change, error, words = MISTAKES[mistake]
    arguments = {"x": positions(9), "table": entries(SMALL), "grid": SMALL, "sink": None}
    with pytest.raises(error, match=words):
        grid_encode(**change(arguments))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"dims": 4}, r"grid dims must be one of \(2, 3\), got 4"),
        ({"features": 3}, "grid features must be one of"),
        ({"kind": "sparse"}, "grid kind must be one of"),
        ({"dialect": "cuda"}, "grid dialect must be one of"),
        ({"interpolation": "cubic"}, "grid interpolation must be one of"),
        ({"levels": 0}, "levels 1..32"),
        ({"levels": 33}, "levels 1..32"),
        ({"base": 0}, "base >= 1"),
        ({"growth": 0.9}, "growth >= 1"),
        ({"growth": math.nan}, "growth >= 1"),
        ({"growth": math.inf}, "at most 4194304 points per axis"),
        ({"growth": 8.0}, "at most 4194304 points per axis"),
        ({"log2_size": 2}, "log2_size 3..30"),
        ({"log2_size": 31}, "log2_size 3..30"),
        ({"align_corners": True}, "belongs to the dialect torch-ngp"),
        ({"dialect": "nerfstudio", "kind": "tiled"}, "hashed levels only"),
        ({"kind": "dense"}, "a table holds at most 2\\^31 - 1"),
    ],
)
def test_a_grid_that_cannot_be_says_why(keys, words):
    with pytest.raises(ValueError, match=words):
        Grid(**keys)


# --- threads, repeats, torch.compile


def test_the_same_bytes_for_any_number_of_threads_and_every_time(with_threads):
    grid = Grid(levels=7, base=4, growth=1.6, log2_size=11)
    x, table, upstream = positions(3001), entries(grid), torch.rand(3001, grid.width, generator=generator(2))
    runs = [with_threads(n, lambda: all_of(grid_encode, x, table, grid, upstream)) for n in (1, 2, 1, 2)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


@pytest.mark.parametrize("sink", [False, True])
def test_the_op_keeps_torchs_rules(device, sink):
    x, table = positions(20).to(device).requires_grad_(), entries(SMALL).to(device).requires_grad_()
    if sink:  # the gradient then goes where torch's comparison does not look
        table.requires_grad_(False)
    into = torch.zeros_like(table, requires_grad=False) if sink else None
    torch.library.opcheck(torch.ops.fieldbook.grid_encode.default, (x, table, SMALL.packed, into, [2, 0, 0, 15]))


def check_compiled(device: str, **options) -> None:
    def encode(x: Tensor, table: Tensor, grid: Grid, mask: int | None) -> Tensor:
        return grid_encode(x * 0.9, table, grid, mask) * 2

    torch.compiler.reset()
    upstream = torch.rand(20, 8, generator=generator(2))
    grid = Grid(levels=4, base=4, growth=2.0, log2_size=9)  # new: nothing of it has been computed for another test
    arguments = (positions(20).to(device), entries(grid).to(device), grid, upstream)
    compiled = all_of(torch.compile(encode, fullgraph=True, **options), *arguments)
    eager = all_of(encode, *arguments)
    for got, want in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)  # fusing may round once less


def test_a_compiled_graph_equals_eager(device):
    check_compiled(device, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method:DeprecationWarning")  # its own import
def test_code_that_torch_compile_generates_equals_eager(device):
    check_compiled(device)
