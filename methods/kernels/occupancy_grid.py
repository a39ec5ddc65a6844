"""The occupancy grid of a field in training: which cells are looked at, and when."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.kernels.march_spec import March
from methods.kernels.occupancy import mark_unseen_, occupancy_threshold, occupancy_update_

CHUNK = 2**17
"""Points that a density function is asked for at a time, at most."""


class OccupancyGrid(nn.Module):
    """An occupancy grid that follows a changing field.

    Before the first update every cell counts as occupied. The part of an outer cascade that a finer one covers is not
    evaluated: there a cell is occupied if any of the finer cells in it is.

    Attributes:
        density: ``[C, H, H, H]`` float32 buffer; -1: covered by a finer cascade, or seen by no camera.
        occupied: ``[C, H, H, H]`` bool buffer, for ``march``.
        march_spec: Geometry and steps.
    """

    density: Tensor
    occupied: Tensor

    def __init__(
        self,
        spec: March,
        threshold: float = 0.01,
        decay: float = 0.95,
        every: int = 16,
        warm_up: int = 256,
        fraction: float = 0.25,
        seed: int = 0,
    ):
        """Make a grid of which nothing is known yet.

        Args:
            spec: Geometry and steps; layout ``linear``.
            threshold: A cell is occupied above min(mean, threshold).
            decay: Factor on a cell's value per update.
            every: Steps between updates.
            warm_up: Before this step an update evaluates all cells.
            fraction: After it, this share of the cells chosen evenly, and at most as many of the occupied ones.
            seed: Of the choice and of the points in the cells; with the step's number it decides both, so a resumed
                run goes on as if it had not stopped.
        """
        super().__init__()
        if spec.layout != "linear":
            raise ValueError("an OccupancyGrid has the layout linear")
        if not (0 < fraction <= 1 and every >= 1 and 0 <= decay <= 1):
            raise ValueError(f"fraction in (0, 1], every >= 1, decay in [0, 1]; got {fraction}, {every}, {decay}")
        self.march_spec = spec
        self.threshold, self.decay, self.every, self.warm_up = threshold, decay, every, warm_up
        self.fraction, self.seed = fraction, seed
        density = torch.zeros(spec.shape)
        density[1:][_middle(spec)] = -1
        self.register_buffer("density", density)
        self.register_buffer("occupied", torch.ones(spec.shape, dtype=torch.bool))

    def every_step(self, step: int, density_fn: Callable[[Tensor, float], Tensor]) -> bool:
        """Update the grid if the step is due.

        Args:
            step: Of training, from 0.
            density_fn: Takes world positions ``[K, 3]`` float32, at most ``CHUNK``, and the side of their cells;
                returns ``[K]``, what the cells' density is compared with ``threshold`` by.

        Returns:
            Whether there was an update.
        """
        if step % self.every:
            return False
        generator = torch.Generator(self.density.device)
        generator.manual_seed((self.seed * 2654435761 + step) % 2**32)
        for cascade in range(self.march_spec.cascades):
            cells = self._all(cascade) if step < self.warm_up else self._some(cascade, generator)
            for part in cells.split(CHUNK):
                self._evaluate(cascade, part, density_fn, generator)
        self._threshold()
        return True

    def mark_unseen(self, camera_to_world: Tensor, intrinsics: Tensor, min_distance: float = 0.0) -> None:
        """Exclude for good the cells that no camera sees; arguments as ``mark_unseen_``."""
        mark_unseen_(self.density, self.march_spec, camera_to_world, intrinsics, min_distance)
        self.occupied &= self.density >= 0
        self._pool()

    def _all(self, cascade: int) -> Tensor:
        return (self.density[cascade].view(-1) >= 0).nonzero()[:, 0]

    def _some(self, cascade: int, generator: torch.Generator) -> Tensor:
        """Cells chosen evenly, one from each of equal runs of neighbours, and likewise of the occupied ones."""
        density = self.density[cascade].view(-1)
        number = max(1, int(self.fraction * density.numel()))
        occupied = ((density >= 0) & self.occupied[cascade].view(-1)).nonzero()[:, 0]
        chosen = torch.zeros_like(density, dtype=torch.bool)
        chosen[_one_of_each(density.numel(), number, generator)] = True
        if occupied.numel() > number:
            occupied = occupied[_one_of_each(occupied.numel(), number, generator)]
        chosen[occupied] = True
        return (chosen & (density >= 0)).nonzero()[:, 0]

    def _evaluate(
        self,
        cascade: int,
        cells: Tensor,
        density_fn: Callable[[Tensor, float], Tensor],
        generator: torch.Generator,
    ) -> None:
        spec, h = self.march_spec, self.march_spec.resolution
        size = 2 * spec.half * 2**cascade / h
        corner = torch.stack([cells // (h * h), cells // h % h, cells % h], dim=-1)
        jitter = torch.rand(corner.shape, generator=generator, device=cells.device)
        centre = torch.tensor(spec.centre, device=cells.device)
        with torch.no_grad():
            values = density_fn(centre + (corner + jitter - h / 2) * size, size)
        occupancy_update_(self.density, cells + cascade * h**3, values.reshape(-1).float(), self.decay)

    def _threshold(self) -> None:
        self.occupied.copy_(occupancy_threshold(self.density, self.threshold))
        self._pool()

    def _pool(self) -> None:
        """A covered cell is occupied if any finer cell in it is."""
        h = self.march_spec.resolution
        for cascade in range(1, self.march_spec.cascades):
            fine = self.occupied[cascade - 1].view(h // 2, 2, h // 2, 2, h // 2, 2)
            self.occupied[cascade][_middle(self.march_spec)[1:]] = fine.any(5).any(3).any(1)


def _middle(spec: March) -> tuple[slice, ...]:
    """Index of the covered cells of outer cascades ``[C - 1, H, H, H]``."""
    quarter = spec.resolution // 4
    return (slice(None), *(slice(quarter, spec.resolution - quarter),) * 3)


def _one_of_each(total: int, number: int, generator: torch.Generator) -> Tensor:
    """``number`` of ``total`` indices, one at random from each of equal parts: ``[number]``."""
    where = torch.rand(number, generator=generator, device=generator.device, dtype=torch.float64)
    places = torch.arange(number, device=generator.device)
    return ((places + where) * (total / number)).long().clamp(max=total - 1)
