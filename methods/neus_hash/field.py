"""neus-hash's distance and colour: a hash grid, a distance network with its gradient in closed form, a colour network.

M samples, N rays, W hidden units. Positions are in the model's own units, the box is ``[-radius, radius]^3``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.kernels.distance_net import distance_only, split_distance_net
from methods.kernels.encodings import spherical_harmonics
from methods.kernels.grid import Grid
from methods.kernels.modules import GridEncoding, ReluNetwork
from methods.neus_hash.config import NeusHashModelConfig
from methods.neus_hash.differences import BETA, by_differences
from methods.neus_hash.schedules import active_levels

Network = tuple[list[Tensor], list[Tensor]]
"""Matrices ``[outputs, inputs]`` and biases ``[outputs]``."""


class Surface(NamedTuple):
    """What the distance field says of points.

    Attributes:
        sdf: ``[M]``, positive outside, in the model's units.
        features: ``[M, F]``, the network's outputs, the distance among them.
        gradient: ``[M, 3]`` of the distance; of length 1 where it is one.
        laplacian: ``[M]``, or None with analytic gradients.
    """

    sdf: Tensor
    features: Tensor
    gradient: Tensor
    laplacian: Tensor | None


class NormedLinear(nn.Module):
    """A linear layer whose rows are a length times a direction (Salimans & Kingma 2016, equation 2).

    Args:
        weight: ``[outputs, inputs]``, what it starts with.
        bias: ``[outputs]``.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.direction = nn.Parameter(weight)
        self.length = nn.Parameter(weight.norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(bias)

    @property
    def weight(self) -> Tensor:
        """``[outputs, inputs]``."""
        return self.direction * (self.length / self.direction.norm(dim=1, keepdim=True))


def even_directions(number: int) -> Tensor:
    """Unit vectors ``[number, 3]``, evenly spread and turned at random; each with its opposite, but for one if odd.

    A spiral over half the sphere (González 2010, "Measurement of areas on a sphere using Fibonacci and
    latitude-longitude lattices"), so that sums over them hardly depend on where one looks from.
    """
    half = (number + 1) // 2
    z = (torch.arange(half) + 0.5) / half
    turn = torch.arange(half) * (math.pi * (3 - math.sqrt(5)))
    ring = (1 - z**2).sqrt()
    upper = torch.stack([ring * turn.cos(), ring * turn.sin(), z], dim=-1)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    return torch.cat([upper, -upper])[:number] @ rotation


def sphere_layers(
    encoded: int, width: int, hidden: int, outputs: int, radius: float, sign: float
) -> list[NormedLinear]:
    """Layers that are the distance from a sphere (Atzmon & Lipman 2020, SAL, theorem 1), with grid features unused.

    The first layer's directions are spread evenly where the publication draws them: 64 drawn ones are a sphere with
    dents of a fifth of its radius.

    Args:
        encoded: Grid features, behind the three coordinates.
        width: Of the hidden layers.
        hidden: Hidden layers.
        outputs: Of the last layer; all start as the distance.
        radius: Of the sphere, in units of the coordinates.
        sign: 1, or -1 for a room seen from inside.
    """
    first = torch.zeros(width, 3 + encoded)
    # The mean of relu(d . x) over all directions d is |x| / 4.
    first[:, :3] = even_directions(width) * (4 / math.sqrt(math.pi * width))
    layers = [NormedLinear(first, torch.zeros(width))]
    for _ in range(hidden - 1):
        layers.append(NormedLinear(torch.randn(width, width) * math.sqrt(2 / width), torch.zeros(width)))
    last = sign * math.sqrt(math.pi / width) + 1e-4 * torch.randn(outputs, width)
    return [*layers, NormedLinear(last, torch.full((outputs,), -sign * radius))]


class SurfaceField(nn.Module):
    """Distance, its gradient, and colour.

    Args:
        config: The model's config.
    """

    def __init__(self, config: NeusHashModelConfig):
        super().__init__()
        self.config = config
        self.encoding = GridEncoding(
            Grid.between(
                config.base_res,
                config.max_res,
                config.num_levels,
                features=config.features_per_level,
                log2_size=config.log2_hashmap_size,
            )
        )
        sign = -1.0 if config.inside_out else 1.0
        sizes = (self.encoding.grid.width, config.hidden_dim, config.num_layers, config.geo_feat_dim)
        self.layers = nn.ModuleList(sphere_layers(*sizes, config.sphere_radius, sign))
        inputs = config.geo_feat_dim + 3 + config.sh_degree**2
        self.colour_net = ReluNetwork([inputs, *[config.hidden_dim] * config.num_layers_color, 3])
        self.variance = nn.Parameter(torch.tensor(config.init_variance))
        self.step = 0

    @property
    def sharpness(self) -> Tensor:
        """s of the logistic density, ``exp(10 v)`` (Wang et al. 2021, section 3.1), within [1e-6, 1e6]."""
        return torch.exp(10 * self.variance).clamp(1e-6, 1e6)

    @property
    def level_mask(self) -> int | None:
        """The grid's levels in use at this step; None: all."""
        c = self.config
        count = active_levels(self.step, c.num_levels, c.start_levels, c.level_every)
        return None if count == c.num_levels else (1 << count) - 1

    def distance(self, positions: Tensor, network: Network | None = None) -> Tensor:
        """Distance ``[M]`` alone; ``network``: ``self.network``, where a caller already has it."""
        x = positions / self.config.radius
        inputs = torch.cat([x, self.encoding(self._unit(x), self.level_mask)], dim=-1)
        return distance_only(inputs, *(network or self.network), BETA)

    def surface(self, positions: Tensor, network: Network | None = None) -> Surface:
        """Distance, features and gradient of positions ``[M, 3]`` in the model's units; ``network`` as above."""
        if self.config.gradient == "numerical":
            features, gradient, laplacian = by_differences(self, positions)
            return Surface(features[:, 0], features, gradient, laplacian)
        x = positions / self.config.radius
        unit = self._unit(x)
        encoded = self.encoding(unit, self.level_mask)
        made = split_distance_net(x, encoded, *(network or self.network), BETA)
        by_grid = self.encoding.input_gradient(unit, made.to_encoded, self.level_mask)
        gradient = (made.to_x + 0.5 * by_grid) / self.config.radius
        return Surface(made.distance, made.features, gradient, None)

    @property
    def network(self) -> Network:
        """The distance network's matrices and biases, computed from its layers' lengths and directions."""
        layers: Any = self.layers
        return [layer.weight for layer in layers], [layer.bias for layer in layers]

    def _unit(self, x: Tensor) -> Tensor:
        return (x * 0.5 + 0.5).clamp(0.0, 1.0)

    def ray_features(self, directions: Tensor) -> Tensor:
        """Harmonics of ``[N, 3]`` unit directions, once per ray."""
        return spherical_harmonics(directions, self.config.sh_degree)

    def colour(self, features: Tensor, normals: Tensor, ray_features: Tensor, ray: Tensor) -> Tensor:
        """Colour ``[M, 3]`` in [0, 1] of samples with ``features`` ``[M, F]`` and unit ``normals`` ``[M, 3]``."""
        return torch.sigmoid(self.colour_net(torch.cat([features, normals], dim=-1), ray_features, ray))


def alpha_from(sdf: Tensor, cosine: Tensor, length: Tensor, sharpness: Tensor, anneal: float, epsilon: float) -> Tensor:
    """Opacity of samples (Wang et al. 2021, equation 13), from the distance at their middle.

    Args:
        sdf: ``[M]``.
        cosine: ``[M]``, of the ray's direction and the unit normal.
        length: ``[M]``, of the samples.
        sharpness: s, a number.
        anneal: Share of the form in which only surfaces that face the ray count, in [0, 1].
        epsilon: Added to the numerator.

    Returns:
        ``[M]`` in [0, 1].
    """
    facing = -(F.relu(0.5 - 0.5 * cosine) * (1 - anneal) + F.relu(-cosine) * anneal)
    half = facing * length * 0.5
    before, behind = torch.sigmoid((sdf - half) * sharpness), torch.sigmoid((sdf + half) * sharpness)
    return ((before - behind + epsilon) / (before + 1e-5)).clamp(0.0, 1.0)


def unit_normals(gradient: Tensor) -> Tensor:
    """``[M, 3]`` of length 1; a gradient of zero stays zero, and its derivative finite."""
    return F.normalize(gradient, dim=-1, eps=1e-6)
