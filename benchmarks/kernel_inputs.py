"""What the kernels' benchmarks on both devices share: inputs, and peers that people write in plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from nerfstudio.cameras.rays import RaySamples
from torch import Tensor

from methods.kernels.march_spec import March

LEVELS, COARSEST, FINEST, LOG2 = 16, 16, 2048, 19
"""Of the hash grid: two features a level."""

SHELL = March(half=1.0, resolution=128, step_min=2 * 3**0.5 / 1024)


def difference(ours: Tensor, peer: Tensor) -> float:
    """Largest difference over the peer's largest number."""
    return float((ours - peer).detach().abs().max() / peer.detach().abs().max())


def mean_difference(ours: Tensor, peer: Tensor) -> float:
    """Sum of differences over the sum of the peer's numbers.

    For gradients of grids: of some thousand points one lies so near a cell's border that two ways to round put it on
    two sides; it alone then sets the largest difference, and says nothing.
    """
    return float((ours - peer).detach().abs().sum() / peer.detach().abs().sum())


def nerfstudio_signs(degree: int) -> Tensor:
    """``[degree^2]``: nerfstudio's spherical harmonics lack the factor (-1)^m."""
    return torch.tensor([(-1.0) ** m for band in range(degree) for m in range(-band, band + 1)])


def ray_coherent(points: int, per_ray: int = 64) -> Tensor:
    """Points along rays through the unit cube, ``per_ray`` on each: ``[points, 3]``."""
    a, b = torch.rand(points // per_ray, 1, 3), torch.rand(points // per_ray, 1, 3)
    return (a + torch.linspace(0, 1, per_ray)[None, :, None] * (b - a)).reshape(-1, 3).contiguous()


@dataclass(frozen=True)
class EqualRays:
    """Samples of rays that all have as many: S of each of N.

    Attributes:
        edges: ``[N, S + 1]``, where samples begin and end.
        offsets: ``[N + 1]`` int64, of the packed samples.
    """

    edges: Tensor
    offsets: Tensor

    @classmethod
    def between(cls, near: float, far: float, rays: int, samples: int) -> EqualRays:
        """Samples of equal length."""
        edges = torch.linspace(near, far, samples + 1).repeat(rays, 1)
        return cls(edges, torch.arange(rays + 1) * samples)

    @cached_property
    def start(self) -> Tensor:
        """``[N * S]``."""
        return self.edges[:, :-1].reshape(-1).contiguous()

    @cached_property
    def end(self) -> Tensor:
        """``[N * S]``."""
        return self.edges[:, 1:].reshape(-1).contiguous()

    @cached_property
    def middle(self) -> Tensor:
        """``[N, S, 1]``."""
        return ((self.edges[:, 1:] + self.edges[:, :-1]) / 2)[..., None]

    @cached_property
    def delta(self) -> Tensor:
        """``[N, S, 1]``."""
        return self.edges.diff(dim=-1)[..., None].contiguous()

    @cached_property
    def ray_index(self) -> Tensor:
        """``[N * S]`` int64, the ray of each sample."""
        rays, samples = self.edges.shape[0], self.edges.shape[1] - 1
        return torch.arange(rays, device=self.edges.device).repeat_interleave(samples)

    @cached_property
    def packed_info(self) -> Tensor:
        """``[N, 2]`` int64, each ray's first sample and how many, as nerfacc has them."""
        return torch.stack([self.offsets[:-1], self.offsets.diff()], dim=-1)


class _Deltas:
    """What nerfstudio's ``get_weights`` reads of ray samples."""

    def __init__(self, deltas: Tensor):
        self.deltas = deltas


def dense_composite(density: Tensor, rgb: Tensor, delta: Tensor, middle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colour ``[N, 3]``, opacity ``[N]`` and depth ``[N]`` with nerfstudio's weights; all arguments ``[N, S, ...]``."""
    weights = RaySamples.get_weights(_Deltas(delta), density)  # pyright: ignore[reportArgumentType]
    return (weights * rgb).sum(dim=-2), weights.sum(dim=(-2, -1)), (weights * middle).sum(dim=(-2, -1))


def linear_distortion(edges: Tensor, weights: Tensor) -> Tensor:
    """The O(n) distortion loss with prefix sums, ``[N]``, as a torch user would write it."""
    middle, width = (edges[:, 1:] + edges[:, :-1]) / 2, edges.diff(dim=-1)
    before, moment = weights.cumsum(-1) - weights, (weights * middle).cumsum(-1) - weights * middle
    return (2 * weights * (middle * before - moment)).sum(-1) + (weights.square() * width).sum(-1) / 3


def shell_cells() -> Tensor:
    """``[1, 128, 128, 128]`` bool for ``SHELL``: a tenth of the cells, a shell about the origin."""
    axis = torch.linspace(-1, 1, SHELL.resolution)
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    return ((radius > 0.5) & (radius < 0.65))[None]


def shell_rays(rays: int) -> tuple[Tensor, Tensor]:
    """Origins 3 from the shell's centre and unit directions towards it, ``[rays, 3]`` each."""
    origins = torch.nn.functional.normalize(torch.randn(rays, 3), dim=-1) * 3
    return origins, torch.nn.functional.normalize(0.6 * torch.randn(rays, 3) - origins, dim=-1)
