"""Grid encoding: the indices and features that others published."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from methods.kernels.grid import Grid, Level, grid_encode
from methods.kernels.reference.grid import row_of

from .kernels_grids import entries, generator, positions

NGP_3D = Grid(log2_size=16, kind="tiled", dialect="torch-ngp")
NGP_2D = dataclasses.replace(NGP_3D, dims=2)


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
