"""Geometry of an occupancy grid and the steps through it.

C cascades of H^3 cells each. The cells of cascade c cover centre ± half * 2^c. A point belongs to the smallest cascade
that holds it and whose cells are longer than the step there, or else to the last.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class March:
    """Geometry of an occupancy grid and the steps through it.

    Attributes:
        half: Half the side of cascade 0, in world units.
        resolution: H, cells per axis; a power of two from 4 on for ``morton``, a multiple of 4 for several cascades.
        step_min: Length of a step; the shortest where steps grow.
        step_max: The longest step; None: the diagonal of a cell of the last cascade, 2 sqrt(3) half 2^(C-1) / H.
        centre: Of all cascades, in world units.
        cascades: C.
        cone_angle: A step at t is as long as ``clamp(t * cone_angle, step_min, step_max)``; 0: all are ``step_min``.
        max_samples: A ray has at most as many.
        sample_at: Which point of a step is looked up in the grid: its ``midpoint`` or its ``start``.
        layout: Of the occupancy: ``linear``, bool [C, H, H, H], x first; ``morton``, uint8 [C * H^3 / 8], one bit per
            cell in Morton order, lowest first.
    """

    half: float
    resolution: int
    step_min: float
    step_max: float | None = None
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cascades: int = 1
    cone_angle: float = 0.0
    max_samples: int = 1024
    sample_at: Literal["midpoint", "start"] = "midpoint"
    layout: Literal["linear", "morton"] = "linear"

    def __post_init__(self):
        if self.sample_at not in ("midpoint", "start") or self.layout not in ("linear", "morton"):
            raise ValueError(f"march: sample_at is midpoint or start, layout linear or morton; got {self}")
        if not all(isinstance(v, Integral) for v in (self.cascades, self.resolution, self.max_samples)):
            raise TypeError(f"march: cascades, resolution and max_samples are whole numbers; got {self}")
        lengths = (*self.centre, self.half, self.step_min, self.longest, self.cone_angle)
        if len(self.centre) != 3 or not all(map(math.isfinite, lengths)):
            raise ValueError(f"march: a centre of three numbers, all lengths finite; got {self}")
        if not (self.half > 0 and 0 < self.step_min <= self.longest and self.cone_angle >= 0):
            raise ValueError(f"march: half > 0, 0 < step_min <= step_max, cone_angle >= 0; got {self}")
        if not (1 <= self.cascades <= 16 and 1 <= self.resolution <= 1024 and 1 <= self.max_samples < 2**30):
            raise ValueError(f"march: cascades 1..16, resolution 1..1024, max_samples 1..2^30; got {self}")
        if self.cascades > 1 and self.resolution % 4:
            raise ValueError(
                f"march: several cascades need a resolution that is a multiple of 4, got {self.resolution}"
            )
        if self.layout == "morton" and (self.resolution < 4 or self.resolution & (self.resolution - 1)):
            raise ValueError(f"march: layout morton needs a resolution of 4, 8, .., 1024, got {self.resolution}")
        _ = self.packed  # made here, where torch.compile does not look

    @property
    def longest(self) -> float:
        """The longest step, world units."""
        if self.step_max is not None:
            return self.step_max
        return 2 * math.sqrt(3) * self.bound / self.resolution

    @property
    def bound(self) -> float:
        """Half the side of the last cascade, world units."""
        return self.half * 2 ** (self.cascades - 1)

    @property
    def aabb(self) -> tuple[float, ...]:
        """The last cascade's box: three minima, three maxima."""
        return (*(c - self.bound for c in self.centre), *(c + self.bound for c in self.centre))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the occupancy in its layout."""
        if self.layout == "linear":
            return (self.cascades, *(self.resolution,) * 3)
        return (self.cascades * self.resolution**3 // 8,)

    @property
    def block_shift(self) -> int:
        """log2 of the side, in cells, of the blocks that are skipped at once; their faces lie on every cascade's."""
        unit = self.resolution if self.cascades == 1 else self.resolution // 4
        return next(shift for shift in (3, 2, 1, 0) if unit % (1 << shift) == 0)

    @functools.cached_property
    def packed(self) -> Tensor:
        """``[13]`` float64 on the CPU, as the compiled kernels read it."""
        steps = (self.step_min, self.longest, self.cone_angle, 0.5 if self.sample_at == "midpoint" else 0.0)
        sizes = (self.cascades, self.resolution, self.max_samples, self.layout == "morton", self.block_shift)
        return torch.tensor([*self.centre, self.half, *steps, *sizes], dtype=torch.float64, device="cpu")
