"""Grid encoding: the published indices, and one kernel that equals its twin in every shape it comes in."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.grid import Grid, Level, grid_encode
from methods.kernels.reference.grid import row_of

NGP_3D = Grid(log2_size=16, kind="tiled", dialect="torch-ngp")
NGP_2D = dataclasses.replace(NGP_3D, dims=2)
SMALL = Grid(levels=4, base=4, growth=2.0, log2_size=9)
DIALECTS = [
    {"dialect": "tcnn"},
    {"dialect": "tcnn", "kind": "tiled"},
    {"dialect": "tcnn", "kind": "dense"},
    {"dialect": "torch-ngp"},
    {"dialect": "torch-ngp", "kind": "tiled"},
    {"dialect": "torch-ngp", "kind": "dense", "align_corners": True},
    {"dialect": "torch-ngp", "kind": "tiled", "align_corners": True},
    {"dialect": "nerfstudio"},
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def positions(points: int, dims: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(points, dims, generator=generator(seed))


def entries(grid: Grid, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(grid.rows, grid.features, generator=generator(seed)) * 2 - 1).to(dtype)


def all_of(encode, x: Tensor, table: Tensor, grid: Grid, upstream: Tensor, mask: int | None = None) -> list[Tensor]:
    """Features, gradient to the table, gradient to x; zeros for none, as the twin has it with all levels off."""
    x, table = x.clone().requires_grad_(), table.clone().requires_grad_()
    out = encode(x, table, grid, mask)
    if out.requires_grad:
        out.backward(upstream.to(out.dtype).to(out.device))
    gradients = (torch.zeros_like(v) if v.grad is None else v.grad for v in (table, x))
    return [v.detach().cpu().double() for v in (out, *gradients)]


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


# --- what others published -------------------------------------------------------------------------------------------


def test_offsets_and_totals_are_torch_ngps():
    assert NGP_3D.offsets[:5] == (0, 4920, 18744, 51512, 117048)
    assert [b - a for a, b in itertools.pairwise(NGP_3D.offsets[4:])] == [65536] * 12
    assert NGP_3D.rows == 903480
    assert NGP_2D.offsets[:11] == (0, 296, 872, 1896, 3832, 7432, 14160, 26936, 50968, 96768, 162304)
    assert NGP_2D.rows == 555520


def test_resolutions_and_growth_are_the_published_ones():
    published = (16, 23, 31, 43, 59, 81, 112, 154, 213, 295, 407, 562, 777, 1073, 1483, 2048)
    assert NGP_3D.resolutions == published
    assert Grid.between(16, 2048, 16).growth == pytest.approx(1.381912879967776, rel=1e-15)
    assert Grid.between(16, 2048, 16).resolutions == published
    fine = Grid.between(32, 2048, 16)
    assert fine.growth == pytest.approx(1.3195079107728942, rel=1e-15)
    assert (fine.resolutions[0], fine.resolutions[-1]) == (32, 2048)


def test_rows_of_a_level_are_a_multiple_of_8_and_hashing_starts_where_they_do_not_suffice():
    grid = Grid(log2_size=16)
    assert all(level.rows % 8 == 0 for level in grid.table)
    assert [level.hashed for level in grid.table] == [resolution**3 > 2**16 for resolution in grid.resolutions]


def test_tiled_rows_are_torch_ngps():
    fine, coarse = NGP_3D.table[9], NGP_3D.table[0]
    assert row_of(torch.tensor([[200, 100, 50], [200, 100, 51]]), fine, 3).tolist() == [29800, 29800]
    assert row_of(torch.tensor([[1, 2, 3]]), coarse, 3).tolist() == [902]


def test_tiled_levels_9_to_15_do_not_see_z(device):
    low = positions(64).to(device)
    high = low.clone()
    high[:, 2] = (low[:, 2] + 0.37) % 1
    table = entries(NGP_3D).to(device)
    change = (grid_encode(low, table, NGP_3D) - grid_encode(high, table, NGP_3D)).abs().view(64, 16, 2).amax(dim=(0, 2))
    # Weights along z add up to 1 but for rounding.
    assert (change[9:] < 1e-6).all()
    assert (change[:9] > 0.1).all()


def test_hashed_rows_are_those_of_the_spatial_hash():
    whole = Level(scale=1.0, shift=0.0, stride=1, rows=2**32, offset=0, hashed=True)
    corners = torch.tensor([[3, 5, 7], [100, 200, 300]])
    assert row_of(corners, whole, 3)[0] == 1191511397
    assert row_of(corners, dataclasses.replace(whole, rows=2**19), 3).tolist() == [329061, 110768]


@pytest.mark.parametrize(("cells", "corner", "row"), [(16, (3, 5, 7), 329061), (512, (100, 200, 300), 110768)])
def test_the_kernel_reads_the_row_of_the_spatial_hash(device, cells, corner, row):
    grid = Grid(levels=1, features=1, base=cells, growth=1.0, dialect="nerfstudio")
    table = torch.zeros(grid.rows, 1, device=device)
    table[row] = 1.0
    x = torch.tensor([corner], device=device) / cells
    assert grid_encode(x, table, grid).item() == 1.0


@pytest.mark.filterwarnings("ignore")  # nerfstudio's imports
@settings(max_examples=30, deadline=None)
@given(base=st.integers(2, 64), ratio=st.integers(2, 128), levels=st.integers(1, 16))
def test_scales_are_nerfstudios(base, ratio, levels):
    from nerfstudio.field_components.encodings import HashEncoding

    assume(levels > 1 or ratio == 2)
    theirs = HashEncoding(levels, base, base * ratio, 4, implementation="torch").scalings
    ours = Grid.between(base, base * ratio, levels, dialect="nerfstudio").table
    assert [level.scale for level in ours] == theirs.tolist()


@pytest.mark.filterwarnings("ignore")  # nerfstudio's imports
def test_features_and_table_gradient_are_nerfstudios(device):
    from nerfstudio.field_components.encodings import HashEncoding

    theirs = HashEncoding(8, 16, 256, 12, hash_init_scale=1.0, implementation="torch")
    grid = Grid.between(16, 256, 8, log2_size=12, dialect="nerfstudio")
    # Not outside [0, 1] and not at its far end: there nerfstudio itself wraps in signed integers, as we do unsigned.
    x = positions(300)
    x[0] = 0.0
    upstream = torch.rand(300, 16, generator=generator(2))
    table = theirs.hash_table.detach().clone().to(device).requires_grad_()
    ours = grid_encode(x.to(device), table, grid)
    ours.backward(upstream.to(device))
    out = theirs.pytorch_fwd(x)
    out.backward(upstream)
    # Both round positions of up to 255 cells to float32, and 8 corners' weights.
    torch.testing.assert_close(ours.cpu(), out, rtol=0, atol=1e-4)
    torch.testing.assert_close(table.grad.cpu(), theirs.hash_table.grad, rtol=0, atol=1e-4)


# --- the twin --------------------------------------------------------------------------------------------------------


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


# --- the kernel against the twin -------------------------------------------------------------------------------------


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


# --- the sink --------------------------------------------------------------------------------------------------------


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


# --- what must not happen --------------------------------------------------------------------------------------------


def test_a_second_derivative_is_refused_and_not_silently_zero(device):
    x = positions(5).to(device).requires_grad_()
    out = grid_encode(x, entries(SMALL).to(device).requires_grad_(), SMALL)
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        slope.square().sum().backward()


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


# --- threads, repeats, torch.compile ---------------------------------------------------------------------------------


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
