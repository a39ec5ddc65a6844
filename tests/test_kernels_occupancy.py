"""Cells of occupancy grids: decay, threshold, and what cameras see."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import reference
from methods.kernels.marching import March
from methods.kernels.occupancy import mark_unseen_, occupancy_threshold, occupancy_update_

from .kernels_occupancies import NESTED, SPEC, cameras, generator

pytestmark = pytest.mark.usefixtures("compiled_kernels")


def densities(spec: March, seed: int = 0) -> Tensor:
    """Of which a third is 0 and a third was never seen."""
    values = torch.rand(spec.shape, generator=generator(seed))
    kind = torch.randint(3, spec.shape, generator=generator(seed + 1))
    return torch.where(kind == 0, 0.0, torch.where(kind == 1, -1.0, values))


def corners(spec: March) -> Tensor:
    """``[C, H, H, H, 8, 3]``, of the cells in the world."""
    axis = torch.arange(spec.resolution)
    index = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    step = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    unit = (index[..., None, :] + step) / spec.resolution * 2 - 1
    sizes = spec.half * 2 ** torch.arange(spec.cascades)
    return torch.tensor(spec.centre) + unit * sizes[:, None, None, None, None, None]


# --- decay and threshold


@pytest.mark.parametrize("function", [occupancy_update_, reference.occupancy_update_])
def test_a_cell_decays_rises_at_once_or_stays_unseen(function, device):
    density = torch.tensor([0.4, 0.4, -1.0, 0.0, 0.4, 0.7, 0.1, 0.1], device=device).view(1, 2, 2, 2)
    cells = torch.tensor([0, 1, 2, 3, 5], device=device)
    function(density, cells, torch.tensor([0.0, 0.9, 0.9, 0.0, 0.6], device=device), 0.95)
    # Untouched: 4, 6, 7.
    assert density.view(-1).tolist() == pytest.approx([0.38, 0.9, -1.0, 0.0, 0.4, 0.665, 0.1, 0.1], rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), whole=st.booleans())
def test_an_update_equals_its_twin(seed, whole):
    number = 16**3 if whole else seed % 4097
    cells = None if whole else torch.randperm(16**3, generator=generator(seed))[:number]
    values = torch.rand(number, generator=generator(seed))
    made, want = densities(SPEC, seed), densities(SPEC, seed).double()
    occupancy_update_(made, cells, values, 0.9)
    reference.occupancy_update_(want, cells, values.double(), 0.9)
    # One product of rounded factors.
    assert torch.allclose(made.double(), want, rtol=2e-7, atol=0)


def test_the_threshold_is_the_mean_where_that_is_lower(device):
    density = torch.tensor([0.0, 0.1, 0.2, 0.5, -1, -1, -1, -1], device=device).view(1, 2, 2, 2)

    def occupied(threshold: float, **more) -> list[bool]:
        return occupancy_threshold(density, threshold, **more).view(-1).tolist()

    assert occupied(0.15) == [False, False, True, True] + [False] * 4
    assert occupied(0.3) == [False, False, False, True] + [False] * 4  # mean of the seen, 0.2, itself not above it
    assert occupied(0.3, include_unseen=True) == [False, False, True, True] + [False] * 4  # mean of all: 0.1
    assert occupied(-0.5) == [True] * 4 + [False] * 4


def test_a_grid_of_zeros_or_of_unseen_cells_is_empty():
    for value in (0.0, -1.0):
        assert not occupancy_threshold(torch.full(SPEC.shape, value), 0.01).any()


def test_threads_do_not_change_a_grid():
    threads, made = torch.get_num_threads(), []
    density = torch.rand(2, 64, 64, 64, generator=generator()) * 2
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            updated = density.clone()
            occupancy_update_(updated, None, density.flip(0).reshape(-1))
            # With no threshold of its own the mean decides: near it, a last bit would show.
            made.append((updated, occupancy_threshold(updated, math.inf)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[1][1])


# --- what cameras see


def seen(points: Tensor, poses: Tensor, intrinsics: Tensor, min_distance: float = 0.0) -> Tensor:
    """Whether any camera has the points ``[..., 3]`` in its picture, by projecting them."""
    made = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for pose, (fx, fy, cx, cy, width, height) in zip(poses, intrinsics.tolist(), strict=True):
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).unbind(-1)
        u, v = cx + fx * x / -z, cy - fy * y / -z
        made |= (-z > min_distance) & (u >= 0) & (u <= width) & (v >= 0) & (v <= height)
    return made


@pytest.mark.parametrize("min_distance", [0.0, 1.5])
def test_a_cell_of_which_a_camera_sees_a_corner_is_kept(min_distance, device):
    poses, intrinsics = cameras(3)
    density = torch.zeros(NESTED.shape, device=device)
    mark_unseen_(density, NESTED, poses.to(device), intrinsics.to(device), min_distance)
    visible = seen(corners(NESTED), poses, intrinsics, min_distance)
    unseen = density.cpu() == -1
    assert not (unseen & visible.any(-1)).any()
    assert 0.5 < unseen.float().mean() < 0.99
    # What is kept beyond that lies within a cell's size of the view: its neighbours' corners are seen.
    near = torch.nn.functional.max_pool3d(visible.any(-1).float(), 5, 1, 2).bool()
    assert (unseen | near)[0].all()


def test_the_view_is_along_minus_z_and_rows_run_down():
    spec = dataclasses.replace(SPEC, centre=(0.0, 0.0, 0.0), half=1.0)
    pose = torch.eye(4)[None]
    # The lower half of the picture only.
    density = torch.zeros(spec.shape)
    mark_unseen_(density, spec, pose, torch.tensor([[50.0, 50, 50, 0, 100, 50]]))
    kept = density[0] >= 0
    assert kept[8, 4, 1]  # y < 0, z < 0
    assert not kept[8, 4, 14]
    assert not kept[8, 12, 1]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 4))
def test_unseen_cells_equal_their_twins(seed, number):
    poses, intrinsics = cameras(number, seed)
    made, want = densities(NESTED, seed), densities(NESTED, seed).double()
    mark_unseen_(made, NESTED, poses, intrinsics, 0.3)
    reference.mark_unseen_(want, NESTED, poses.double(), intrinsics.double(), 0.3)
    # A ball that touches a plane to within float32's rounding may fall to either side.
    assert ((made < 0) != (want < 0)).sum() <= 2
    if number == 0:
        assert (made == -1).all()


# --- mistakes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: occupancy_update_(d, None, torch.zeros(3)), ValueError, "values must be"),
        (lambda d: occupancy_update_(d, torch.tensor([4096]), torch.zeros(1)), ValueError, "cells must be 0..4095"),
        (lambda d: occupancy_update_(d, torch.tensor([-1]), torch.zeros(1)), ValueError, "cells must be 0..4095"),
        (lambda d: occupancy_update_(d, torch.tensor([1.0]), torch.zeros(1)), TypeError, "cells must be torch.int64"),
        (
            lambda d: occupancy_update_(d, torch.tensor([1]), torch.tensor([math.nan])),
            ValueError,
            "values has 1 values that are NaN",
        ),
        (
            lambda d: occupancy_update_(d.transpose(1, 2), None, torch.zeros(4096)),
            ValueError,
            "must be contiguous",
        ),
        (lambda d: occupancy_update_(d.double(), None, torch.zeros(4096)), TypeError, "density must be torch.float32"),
        (lambda d: occupancy_threshold(d[0], 0.1), ValueError, "density must be"),
        (lambda d: mark_unseen_(d, NESTED, *cameras(1)), ValueError, "density must be"),
        (lambda d: mark_unseen_(d, SPEC, torch.zeros(1, 2, 4), cameras(1)[1]), ValueError, "camera_to_world must be"),
        (lambda d: mark_unseen_(d, SPEC, cameras(2)[0], cameras(1)[1]), ValueError, "intrinsics must be"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(SPEC.shape))
