"""The occupancy grid of a field in training: which cells are evaluated, and when."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
import torch
from torch import Tensor

from methods.kernels import morton, occupancy
from methods.kernels.marching import march, ray_aabb
from methods.kernels.morton import morton3d, morton3d_inverse, pack_bits
from methods.kernels.occupancy import occupancy_threshold
from methods.kernels.occupancy_grid import CHUNK, OccupancyGrid

from .kernels_occupancies import NESTED, SPEC, cameras, generator

pytestmark = pytest.mark.usefixtures("compiled_kernels")


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
        for module in (morton, occupancy):
            monkeypatch.setattr(module, "has_kernels", has_kernels)
        grid = OccupancyGrid(NESTED)
        grid.mark_unseen(*cameras(2))
        grid.every_step(0, Field())
        grids.append(grid)
    coords = torch.tensor([[1, 2, 3]])
    assert torch.equal(morton3d_inverse(morton3d(coords)), coords)
    assert pack_bits(torch.ones(8), 0.5).tolist() == [255]
    # Balls that touch a plane to within rounding.
    assert (grids[0].density != grids[1].density).sum() <= 2


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: OccupancyGrid(dataclasses.replace(SPEC, layout="morton")), ValueError, "layout linear"),
        (lambda d: OccupancyGrid(SPEC, fraction=0.0), ValueError, "fraction in"),
        (lambda d: OccupancyGrid(SPEC).every_step(0, lambda x, _: x), ValueError, "values must be"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.zeros(SPEC.shape))
