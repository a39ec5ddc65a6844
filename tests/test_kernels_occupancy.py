"""Upkeep of occupancy grids: Morton order, bits, decay, threshold, what cameras see, and when cells are evaluated."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from methods.kernels import occupancy, reference
from methods.kernels.library import load
from methods.kernels.marching import March, march, ray_aabb
from methods.kernels.occupancy import (
    CHUNK,
    OccupancyGrid,
    mark_unseen_,
    morton3d,
    morton3d_inverse,
    occupancy_threshold,
    occupancy_update_,
    pack_bits,
)

SPEC = March(half=0.8, resolution=16, step_min=0.01, centre=(0.1, -0.2, 0.3))
NESTED = dataclasses.replace(SPEC, cascades=3)


@pytest.fixture(autouse=True)
def compiled_kernels() -> None:
    """Without a compiler the tests that take no device would compare the twins with themselves."""
    load("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# --- Morton order and bits


@pytest.mark.parametrize("function", [morton3d, reference.morton3d])
def test_morton_order_is_the_published_one(function, device):
    coords = torch.tensor([[1, 2, 3], [5, 0, 0], [127, 127, 127], [0, 0, 0], [1023, 1023, 1023]], device=device)
    assert function(coords).tolist() == [53, 65, 2097151, 0, 2**30 - 1]


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 200), seed=st.integers(0, 10**6))
def test_morton_order_and_its_inverse_equal_their_twins(number, seed):
    coords = torch.randint(1024, (number, 3), generator=generator(seed))
    index = morton3d(coords)
    assert torch.equal(index, reference.morton3d(coords))
    assert torch.equal(morton3d(coords.int()), index)
    assert torch.equal(morton3d_inverse(index), coords)
    assert torch.equal(reference.morton3d_inverse(index), coords)


def test_morton_order_fills_a_cube():
    axis = torch.arange(8)
    coords = torch.cartesian_prod(axis, axis, axis)
    assert sorted(morton3d(coords).tolist()) == list(range(512))


@pytest.mark.parametrize("function", [pack_bits, reference.pack_bits])
def test_bits_are_set_strictly_above_the_threshold_lowest_first(function, device):
    density = torch.tensor([0.0, 0.5, 0.51, -1, 0.5, 2, 0, 0] + [1.0] * 8 + [0.0] * 7 + [9.0], device=device)
    assert function(density, 0.5).tolist() == [0b100100, 0b11111111, 0b10000000]


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, 300), threshold=st.sampled_from([0.0, 0.3, -1.0]), seed=st.integers(0, 10**6))
def test_bits_equal_their_twin(number, threshold, seed):
    density = torch.rand(2, 8 * number, generator=generator(seed)).sub(0.5)
    assert torch.equal(pack_bits(density, threshold), reference.pack_bits(density, threshold))


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


def cameras(number: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Turned at random about the centre, with image sides and principal points that differ."""
    turns = torch.linalg.qr(torch.randn(number, 3, 3, generator=generator(seed)))[0]
    turns *= torch.linalg.det(turns)[:, None, None]
    away = 1 + 2 * torch.rand(number, 1, 1, generator=generator(seed))
    poses = torch.cat([turns, turns[:, :, 2:] * away + torch.tensor(SPEC.centre)[:, None]], dim=-1)
    return poses, torch.tensor([[90.0, 120, 30, 25, 50, 60]]).expand(number, 6)


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


# --- the policy


class Field:
    """A ball of density 1 that notes what it was asked for."""

    def __init__(self, centre: Tensor | None = None, radius: float = 0.4):
        self.centre, self.radius = torch.tensor(SPEC.centre) if centre is None else centre, radius
        self.asked: list[tuple[Tensor, float]] = []

    def __call__(self, positions: Tensor, size: float) -> Tensor:
        assert positions.dtype == torch.float32
        assert len(positions) <= CHUNK
        assert not torch.is_grad_enabled()
        self.asked.append((positions, size))
        return ((positions - self.centre).norm(dim=-1) < self.radius).float()

    @property
    def points(self) -> int:
        return sum(len(p) for p, _ in self.asked)


def test_before_the_first_update_every_cell_is_occupied():
    assert OccupancyGrid(NESTED).occupied.all()


def test_updates_come_every_so_often_and_see_all_cells_at_first():
    grid, field = OccupancyGrid(SPEC, every=4, warm_up=8), Field()
    assert [step for step in range(13) if grid.every_step(step, field)] == [0, 4, 8, 12]
    assert [len(p) for p, _ in field.asked[:2]] == [16**3] * 2
    quarter = 16**3 // 4
    for positions, _ in field.asked[2:]:
        # A quarter chosen evenly and the occupied ones, of which there are fewer.
        assert quarter <= len(positions) <= quarter + int(grid.occupied.sum()) + 50


def test_many_occupied_cells_are_sampled_too():
    grid = OccupancyGrid(SPEC, warm_up=1)
    field = Field(radius=10.0)
    grid.every_step(0, field)
    grid.density += torch.rand(SPEC.shape, generator=generator())
    grid.occupied.copy_(occupancy_threshold(grid.density, 0.01))
    assert grid.occupied.all()
    field.asked.clear()
    grid.every_step(16, field)
    # A quarter and another, with overlap: 1 - (3/4)^2 of all is expected, 0.4375.
    assert field.points / 16**3 == pytest.approx(0.4375, abs=0.02)


def test_large_grids_are_asked_in_parts():
    spec, field = dataclasses.replace(SPEC, resolution=64), Field()
    OccupancyGrid(spec).every_step(0, field)
    assert [len(p) for p, _ in field.asked] == [CHUNK] * 2


def test_points_lie_each_in_its_cell():
    grid, field = OccupancyGrid(NESTED), Field()
    grid.every_step(0, field)
    for cascade, (positions, size) in enumerate(field.asked):
        assert size == pytest.approx(2 * 0.8 * 2**cascade / 16)
        cells = (grid.density[cascade] >= 0).nonzero()
        low = torch.tensor(SPEC.centre) + (cells - 8) * size
        # Rounding of positions up to 4.
        assert ((positions >= low - 1e-6) & (positions <= low + size + 1e-6)).all()
        inside = (positions - low) / size
        # Means of 3600 and more uniform numbers; 0.5 within 4 standard deviations.
        assert inside.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.02)


def test_outer_cascades_leave_what_finer_ones_cover_to_them():
    grid, field = OccupancyGrid(NESTED), Field()
    grid.every_step(0, field)
    assert [len(p) for p, _ in field.asked] == [16**3, 16**3 - 8**3, 16**3 - 8**3]
    for cascade, (positions, _) in enumerate(field.asked[1:]):
        distance = (positions - torch.tensor(SPEC.centre)).abs().amax(-1)
        assert distance.min() > 0.8 * 2**cascade * (1 - 1e-6)
    assert grid.occupied[0].any()
    # The ball lies in cascade 0 and shows in the middle of all.
    fine = grid.occupied[0].view(8, 2, 8, 2, 8, 2).any(5).any(3).any(1)
    assert torch.equal(grid.occupied[1, 4:12, 4:12, 4:12], fine)
    assert grid.occupied[1].sum() == fine.sum()
    assert grid.occupied[2].any()


def test_every_cell_has_its_turn():
    grid, asked = OccupancyGrid(SPEC, every=1, warm_up=0), torch.zeros(16**3, dtype=torch.bool)

    def note(positions: Tensor, size: float) -> Tensor:
        index = ((positions - torch.tensor(SPEC.centre)) / size + 8).long().clamp(0, 15)
        asked[(index * torch.tensor([256, 16, 1])).sum(-1)] = True
        return torch.zeros(len(positions))

    for step in range(40):
        grid.every_step(step, note)
    # A cell is missed 40 times with probability (3/4)^40 = 1e-5; 0.04 of them are expected.
    assert asked.sum() >= 16**3 - 2


def test_the_grid_finds_a_ball_and_rays_stop_only_there():
    grid, field = OccupancyGrid(NESTED), Field()
    for step in range(0, 320, 16):
        grid.every_step(step, field)
    volume = grid.occupied[0].sum() * 0.1**3
    # The ball's volume, and at most the layer of cells about its surface.
    ball = 4 / 3 * math.pi * 0.4**3
    assert ball * 0.99 < volume < ball + 4 * math.pi * 0.4**2 * 0.1 * 1.2
    origins = torch.tensor([[0.1, -0.2, 5], [1.0, -0.2, 5]])
    directions = torch.tensor([[0.0, 0, -1], [0, 0, -1]])
    near, far = ray_aabb(origins, directions, NESTED.aabb)
    made = march(origins, directions, near, far, grid.occupied, grid.march_spec)
    assert made.counts.tolist()[1] == 0
    assert 80 <= made.counts.tolist()[0] <= 100
    assert 4.2 <= float(made.t_start.min()) <= 4.31


def test_a_density_that_vanishes_fades():
    grid, field = OccupancyGrid(SPEC, warm_up=10**6), Field()
    grid.every_step(0, field)
    assert grid.occupied.any()
    field.radius = 0.0
    for update in range(1, 200):
        grid.every_step(16 * update, field)
    # 0.95^n < 0.01 after 90 updates; the mean is then below that, so zero is what is left.
    assert grid.density.max() == pytest.approx(0.95**199, rel=1e-3)


def test_unseen_cells_are_never_asked_for_nor_occupied():
    grid, field = OccupancyGrid(NESTED), Field()
    poses, intrinsics = cameras(1)
    grid.mark_unseen(poses, intrinsics)
    unseen = grid.density < 0
    assert not grid.occupied[0][unseen[0]].any()
    for step in (0, 16, 512):
        field.asked.clear()
        grid.every_step(step, field)
        assert torch.equal(grid.density < 0, unseen)
        assert field.points <= (~unseen).sum()
    assert not grid.occupied[0][unseen[0]].any()


def test_a_resumed_grid_goes_on_as_if_it_had_not_stopped():
    straight, field = OccupancyGrid(NESTED, warm_up=32, seed=3), Field()
    for step in range(0, 96, 16):
        straight.every_step(step, field)
    first = OccupancyGrid(NESTED, warm_up=32, seed=3)
    for step in range(0, 48, 16):
        first.every_step(step, field)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = OccupancyGrid(NESTED, warm_up=32, seed=3)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.rand(7)  # other draws do not matter
    for step in range(48, 96, 16):
        second.every_step(step, field)
    assert torch.equal(second.density, straight.density)
    assert torch.equal(second.occupied, straight.occupied)


def test_another_seed_chooses_other_points():
    fields = Field(), Field()
    for seed, field in enumerate(fields):
        OccupancyGrid(SPEC, seed=seed).every_step(0, field)
    assert not torch.equal(fields[0].asked[0][0], fields[1].asked[0][0])


@pytest.mark.gpu
def test_a_grid_lives_on_a_gpu():
    grid, field = OccupancyGrid(NESTED).cuda(), Field(torch.tensor(SPEC.centre, device="cuda"))
    for step in (0, 16, 512):
        grid.every_step(step, field)
    assert grid.occupied.is_cuda
    assert grid.occupied[0].sum() * 0.1**3 == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.6)


def test_without_a_compiler_the_twins_run(monkeypatch):
    grids = []
    for has_kernels in (occupancy.has_kernels, lambda device: False):
        monkeypatch.setattr(occupancy, "has_kernels", has_kernels)
        grid = OccupancyGrid(NESTED)
        grid.mark_unseen(*cameras(2))
        grid.every_step(0, Field())
        grids.append(grid)
    coords = torch.tensor([[1, 2, 3]])
    assert torch.equal(morton3d_inverse(morton3d(coords)), coords)
    assert pack_bits(torch.ones(8), 0.5).tolist() == [255]
    # Balls that touch a plane to within rounding.
    assert (grids[0].density != grids[1].density).sum() <= 2


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
        (lambda d: pack_bits(d.view(-1)[:7], 0.0), ValueError, "a multiple of 8 cells, got 7"),
        (lambda d: morton3d(torch.tensor([[0, 0, 1024]])), ValueError, "coords must be 0..1023"),
        (lambda d: morton3d(torch.tensor([[0.0, 0, 1]])), TypeError, "coords must be"),
        (lambda d: morton3d_inverse(torch.tensor([-1])), ValueError, "index must be 0..1073741823"),
        (lambda d: OccupancyGrid(dataclasses.replace(SPEC, layout="morton")), ValueError, "layout linear"),
        (lambda d: OccupancyGrid(SPEC, fraction=0.0), ValueError, "fraction in"),
        (lambda d: OccupancyGrid(SPEC).every_step(0, lambda x, _: x), ValueError, "values must be"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(SPEC.shape))
