"""neus-hash on torch's own operations: nerfstudio's torch encodings, linear layers, autograd's double backward pass.

The same model, march and losses; only what Fieldbook has kernels or closed forms for is done as one would without them.
The march through the occupancy grid stays: torch has none, and it is a few per cent of a step on either side.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import torch
from nerfstudio.field_components.encodings import HashEncoding, SHEncoding
from torch import Tensor, nn
from torch.nn import functional as F

from methods.kernels.compositing import Composite
from methods.kernels.grid import Grid
from methods.kernels.modules import GridEncoding
from methods.neus_hash import model as neus
from methods.neus_hash.field import BETA, Network, Surface, SurfaceField


def torch_composite_alpha(
    alpha: Tensor, rgb: Tensor, t_start: Tensor, t_end: Tensor, offsets: Tensor, **_
) -> Composite:
    """Packed compositing by sums of logarithms along all samples."""
    ray = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    passed = torch.log1p(-alpha.clamp(max=1 - 1e-6))
    before = torch.cat([passed.new_zeros(1), passed.cumsum(0)])
    weights = alpha * torch.exp(before[:-1] - before[offsets[:-1]][ray])
    zeros = rgb.new_zeros(len(offsets) - 1)
    colour = torch.zeros(len(zeros), rgb.shape[1]).index_add(0, ray, weights[:, None] * rgb)
    opacity = zeros.index_add(0, ray, weights)
    depth = zeros.index_add(0, ray, weights * 0.5 * (t_start + t_end))
    return Composite(colour, opacity, depth, weights, None)


class TorchEncoding(nn.Module):
    """nerfstudio's hash encoding on torch's operations, of a grid in its dialect; ``table`` as in ``GridEncoding``."""

    def __init__(self, grid: Grid):
        super().__init__()
        finest = grid.resolutions[-1]
        sizes = (grid.levels, grid.base, finest, grid.log2_size, grid.features)
        self.encoding = HashEncoding(*sizes, implementation="torch")
        self.encoding.growth_factor = grid.growth
        self.encoding.scalings = torch.tensor([level.scale for level in grid.table])
        self.encoding.hash_table = nn.Parameter(torch.empty(grid.rows, grid.features).uniform_(-1e-4, 1e-4))

    @property
    def table(self) -> Tensor:
        """All levels' rows."""
        return self.encoding.hash_table

    def forward(self, x: Tensor, _: int | None = None) -> Tensor:
        """Features of positions in [0, 1]."""
        return self.encoding(x)


class SameGridNeus(neus.NeusHashModel):
    """neus-hash with the indices that nerfstudio's torch encoding has, so that the two sides are one model."""

    def populate_modules(self) -> None:
        """As neus-hash, with another dialect."""
        super().populate_modules()
        self.field.encoding = GridEncoding(replace(self.field.encoding.grid, dialect="nerfstudio"))


class TorchSurfaceField(SurfaceField):
    """Distance by autograd all the way, colours by torch's layers."""

    def __init__(self, config: Any):
        super().__init__(config)
        grid: Any = self.encoding.grid
        self.encoding = TorchEncoding(replace(grid, dialect="nerfstudio"))  # pyright: ignore[reportAttributeAccessIssue]
        self.harmonics = SHEncoding(levels=config.sh_degree, implementation="torch")
        widths = [config.geo_feat_dim + 3 + config.sh_degree**2, *[config.hidden_dim] * config.num_layers_color]
        hidden = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b, bias=False), nn.ReLU())]
        self.colour_net = nn.Sequential(*hidden, nn.Linear(widths[-1], 3, bias=False))  # pyright: ignore

    def distance(self, positions: Tensor, network: Network | None = None) -> Tensor:
        """Distance, by torch's layers."""
        x = positions / self.config.radius
        hidden = torch.cat([x, self.encoding(self._unit(x))], dim=-1)
        weights, biases = network or self.network
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden = F.softplus(F.linear(hidden, weight, bias), beta=BETA)
        return hidden @ weights[-1][0] + biases[-1][0]

    def surface(self, positions: Tensor, network: Network | None = None) -> Surface:
        """Features, and the gradient by a graph through the backward pass."""
        with torch.enable_grad():
            at = positions.requires_grad_()
            x = at / self.config.radius
            hidden = torch.cat([x, self.encoding(self._unit(x))], dim=-1)
            weights, biases = network or self.network
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                hidden = F.softplus(F.linear(hidden, weight, bias), beta=BETA)
            features = F.linear(hidden, weights[-1], biases[-1])
            (gradient,) = torch.autograd.grad(features[:, 0].sum(), at, create_graph=True)
        return Surface(features[:, 0], features, gradient, None)

    def ray_features(self, directions: Tensor) -> Tensor:
        """Harmonics, by nerfstudio's torch form."""
        return self.harmonics(directions)

    def colour(self, features: Tensor, normals: Tensor, ray_features: Tensor, ray: Tensor) -> Tensor:
        """Colours, by torch's layers."""
        return torch.sigmoid(self.colour_net(torch.cat([features, normals, ray_features[ray]], dim=-1)))


class TorchNeus(neus.NeusHashModel):
    """The model with these parts."""

    def populate_modules(self) -> None:
        """As neus-hash, then its field in torch's form."""
        super().populate_modules()
        self.field = TorchSurfaceField(self.config)

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """As neus-hash's; the table has another name here."""
        groups = super().get_param_groups()
        table: Any = self.field.encoding.table
        return {**groups, "grids": [table], "fields": [p for p in groups["fields"] if p is not table]}

    def _train(self, origins: Tensor, directions: Tensor) -> dict[str, Any]:
        own = neus.composite_alpha
        neus.composite_alpha = torch_composite_alpha
        try:
            return super()._train(origins, directions)
        finally:
            neus.composite_alpha = own


def on_torch(config: Any) -> None:
    """Let a neus-hash ``TrainerConfig`` build the model above and torch's fused Adam for its table, in place."""
    config.pipeline.model._target = TorchNeus
    config.optimizers["grids"]["optimizer"]._target = functools.partial(torch.optim.AdamW, fused=True)


def on_kernels(config: Any) -> None:
    """Let a neus-hash ``TrainerConfig`` build Fieldbook's side of the comparison, in place."""
    config.pipeline.model._target = SameGridNeus


def copy_model(source: Any, target: Any) -> float:
    """Give the torch side everything that Fieldbook's has learnt; the largest difference of their distances.

    Args:
        source: ``SameGridNeus``.
        target: ``TorchNeus``.
    """
    named = dict(target.state_dict())
    names = {"encoding.table": "encoding.encoding.hash_table", "colour_net.weights.": "colour_net."}
    for key, value in source.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if "colour_net" in key:
            layer = int(key.rsplit(".", 1)[1])
            key = f"{key.rsplit('.', 1)[0]}.{2 * layer}.weight"
        named[key] = value
    target.load_state_dict(named)
    x = (torch.rand(4096, 3) * 2 - 1) * source.config.radius
    ours, theirs = source.field.surface(x), target.field.surface(x.clone())
    apart = (ours.gradient - theirs.gradient).abs().median() + (ours.sdf - theirs.sdf).abs().median()
    return float(apart.detach())
