"""What lies outside the object's box: a second field in contracted space, with its own occupancy grid and march.

N rays, M samples, H cells per axis. Positions are in units of the box's half side, about its centre.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.kernels.compositing import Composite, composite
from methods.kernels.encodings import spherical_harmonics
from methods.kernels.grid import Grid
from methods.kernels.march_spec import March
from methods.kernels.marching import Samples
from methods.kernels.modules import GridEncoding, ReluNetwork, truncated_exp
from methods.kernels.occupancy_grid import OccupancyGrid
from methods.neus_hash.config import NeusHashModelConfig

STEP_IN_CELL = 0.01
"""What a cell's density is multiplied with before it is compared with the threshold, as instant-nsr-pl does."""


def contract(x: Tensor) -> Tensor:
    """Positions ``[M, 3]`` into [0, 1]: the unit ball to radius 1/4, infinity to 1/2 about the middle.

    Barron et al. 2022 (Mip-NeRF 360), equation 10, in the Euclidean norm.
    """
    norm = x.norm(dim=-1, keepdim=True).clamp(min=1.0)
    return x * ((2 - 1 / norm) / norm) * 0.25 + 0.5


class BackgroundField(nn.Module):
    """Density and colour of contracted positions.

    Args:
        config: The model's config.
    """

    def __init__(self, config: NeusHashModelConfig):
        super().__init__()
        self.degree = config.sh_degree
        self.encoding = GridEncoding(
            Grid.between(
                config.base_res,
                config.max_res,
                config.num_levels,
                features=config.features_per_level,
                log2_size=config.log2_hashmap_size,
            )
        )
        width, out = config.hidden_dim, config.background_features
        self.density_net = ReluNetwork([self.encoding.grid.width, width, out])
        self.colour_net = ReluNetwork([out + self.degree**2, *[width] * config.num_layers_color, 3])

    def density(self, contracted: Tensor) -> tuple[Tensor, Tensor]:
        """Density ``[M]`` and the network's outputs ``[M, F]`` at positions in [0, 1]."""
        raw = self.density_net(self.encoding(contracted))
        return truncated_exp(raw[:, 0] - 1), raw

    def colour(self, raw: Tensor, directions: Tensor, ray: Tensor) -> Tensor:
        """``[M, 3]`` in [0, 1]; ``directions`` ``[N, 3]``, ``ray`` ``[M]`` each sample's row of them."""
        return torch.sigmoid(self.colour_net(raw, spherical_harmonics(directions, self.degree), ray))


class Background(nn.Module):
    """The background's field, grid and march.

    Args:
        config: The model's config; lengths are divided by ``radius``.
    """

    def __init__(self, config: NeusHashModelConfig):
        super().__init__()
        self.field = BackgroundField(config)
        self.growth = 10 ** (3 / config.background_samples) - 1
        r = config.radius
        self.near, self.far = config.background_near / r, config.background_far / r
        self.min_step = config.background_min_step / r
        self.radius = r
        cells = config.background_occupancy_res
        self.occupancy = OccupancyGrid(
            March(half=0.5, resolution=cells, step_min=1 / cells, centre=(0.5, 0.5, 0.5)),  # its steps are not used
            threshold=config.background_occupancy_threshold,
            decay=config.occupancy_decay,
            every=config.occupancy_every,
            warm_up=config.occupancy_warmup,
            fraction=config.occupancy_fraction,
            seed=1,
        )
        self._leave_out()

    def _leave_out(self) -> None:
        """Cells that no sample can lie in: beyond infinity, and well within the unit ball."""
        h = self.occupancy.march_spec.resolution
        centre = (torch.arange(h) + 0.5) / h - 0.5
        away = (centre[:, None, None] ** 2 + centre[:, None] ** 2 + centre**2).sqrt()
        corner = 0.5 * 3**0.5 / h
        outside = (away - corner > 0.5) | (away + corner < 0.25)
        self.occupancy.density[0][outside] = -1
        self.occupancy.occupied[0][outside] = False

    def update(self, step: int) -> None:
        """Look at some cells' density, if a look is due."""
        self.occupancy.every_step(step, lambda x, _: self.field.density(x)[0] * STEP_IN_CELL)

    def march(self, origins: Tensor, directions: Tensor, start: Tensor, noise: Tensor | None) -> tuple[Samples, Tensor]:
        """Occupied steps of rays, each ``growth`` times as long as the way so far.

        Args:
            origins: ``[N, 3]``.
            directions: ``[N, 3]``, unit.
            start: ``[N]``, where they leave the box; not positive where they miss it.
            noise: ``[N]`` in [0, 1), by which share of its first step a ray starts later; None: not at all.

        Returns:
            The samples, and their contracted positions ``[M, 3]``.
        """
        t = torch.where(start > 0, start, self.near)
        if noise is not None:
            t = t + noise * (t * self.growth).clamp(min=self.min_step)
        edges = [t]
        while bool((edges[-1] < self.far).any()):
            edges.append(edges[-1] + (edges[-1] * self.growth).clamp(min=self.min_step))
        ends = torch.stack(edges, dim=1)
        middle = 0.5 * (ends[:, 1:] + ends[:, :-1])
        near_enough = (middle < self.far).nonzero()
        ray, k = near_enough.unbind(dim=1)
        x = contract(origins[ray] + directions[ray] * middle[ray, k][:, None])
        kept = self._occupied(x)
        ray, k, x = ray[kept], k[kept], x[kept]
        offsets = torch.searchsorted(ray, torch.arange(len(origins) + 1, device=ray.device))
        return Samples(offsets, ray, ends[ray, k], ends[ray, k + 1], offsets.new_zeros(())), x

    def _occupied(self, contracted: Tensor) -> Tensor:
        h = self.occupancy.march_spec.resolution
        x, y, z = (contracted * h).long().clamp(0, h - 1).unbind(dim=-1)
        return self.occupancy.occupied.view(-1)[(x * h + y) * h + z]

    def render(self, origins: Tensor, directions: Tensor, start: Tensor, noise: Tensor | None = None) -> Composite:
        """Colour, opacity and depth of rays, behind ``start``; arguments as ``march``.

        Densities count per unit of the model's own, as instant-nsr-pl's do.
        """
        samples, x = self.march(origins, directions, start, noise)
        density, raw = self.field.density(x)
        colour = self.field.colour(raw, directions, samples.ray_index)
        return composite(density * self.radius, colour, samples.t_start, samples.t_end, samples.offsets, early_stop=0.0)
