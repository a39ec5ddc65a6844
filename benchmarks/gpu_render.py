"""Compositing, distortion and marching on a GPU against nerfacc, nerfstudio and plain torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from gpu_peers import Nerfacc
from gpu_rows import GpuRow, Side, Tensors, of_a_copy, rate, row, sets, without_gradient
from kernel_inputs import SHELL, EqualRays, dense_composite, linear_distortion, shell_cells, shell_rays
from nerfstudio.model_components.losses import lossfun_distortion
from torch import Tensor

from methods.kernels import reference
from methods.kernels.compositing import composite
from methods.kernels.distortion import distortion
from methods.kernels.marching import march, ray_aabb

Rendered = tuple[Tensor, Tensor, Tensor]
"""Colour ``[N, 3]``, opacity ``[N]``, depth ``[N]``."""


@dataclass(frozen=True)
class Volume:
    """Samples of equal rays: S of each of N, M in all.

    Attributes:
        density: ``[M]``, a leaf.
        rgb: ``[M, 3]``, a leaf.
        rays: Where the samples lie.
        slopes: Gradients of the colour, opacity and depth.
    """

    density: Tensor
    rgb: Tensor
    rays: EqualRays
    slopes: list[Tensor]

    @classmethod
    def random(cls, rays: int, samples: int) -> Volume:
        """Rays that most of the light does not pass."""
        density, rgb = torch.rand(rays * samples) * 4, torch.rand(rays * samples, 3)
        slopes = [torch.randn(rays, 3), torch.randn(rays), torch.randn(rays)]
        return cls(density.requires_grad_(), rgb.requires_grad_(), EqualRays.between(1, 3, rays, samples), slopes)

    def double(self) -> Volume:
        """The same in float64."""
        values = [v.detach().double().requires_grad_() for v in (self.density, self.rgb)]
        rays = EqualRays(self.rays.edges.double(), self.rays.offsets)
        return Volume(values[0], values[1], rays, [v.double() for v in self.slopes])

    def gradients(self, made: Rendered, retain: bool = False) -> Tensors:
        """Of density and colour."""
        return torch.autograd.grad(made, [self.density, self.rgb], self.slopes, retain_graph=retain)


def composite_rows(rays: int, samples: int, nerfacc: Nerfacc | None, device: str = "cuda") -> Iterator[GpuRow]:
    """Forward and backward of equal rays against nerfstudio's torch code and against nerfacc."""
    with torch.device(device):
        volumes = sets(lambda: Volume.random(rays, samples))
    want = _forward_backward(_exact, [volumes[0].double()])(0)
    ours = _forward_backward(_ours, volumes)
    name = f"composite 2^{_log2(rays * samples)} forward + backward"
    yield row(f"{name} / torch", ours, _forward_backward(_dense, volumes), (8, 15), want)
    if nerfacc is not None:
        peer = _forward_backward(partial(_with_nerfacc, nerfacc), volumes)
        yield row(f"{name} / nerfacc", ours, peer, (5, 10), want)


def large_composite_rows(rays: int, samples: int, device: str = "cuda") -> Iterator[GpuRow]:
    """Each pass over many samples, against copying as many bytes as it must read and write at least."""
    with torch.device(device):
        volumes = sets(lambda: Volume.random(rays, samples))
    want = _forward_backward(_exact, [volumes[0].double()])(0)
    made, total = [_ours(v) for v in volumes], rays * samples
    name, forward = f"composite 2^{_log2(total)}", without_gradient(lambda k: _ours(volumes[k]))

    def backward(k: int) -> Tensors:
        return volumes[k].gradients(made[k], retain=True)

    # Density, colour, start and end are read; weights, or the gradients of density and colour, are written.
    yield of_a_copy(f"{name} forward", forward, 28 * total, (0.6, 0.8), want[:3])
    yield of_a_copy(f"{name} backward", backward, 40 * total, (0.6, 0.8), want[3:])


def _log2(number: int) -> int:
    return number.bit_length() - 1


def _forward_backward(render: Callable[[Volume], Rendered], volumes: list[Volume]) -> Side:
    def run(k: int) -> Tensors:
        made = render(volumes[k])
        return [*made, *volumes[k].gradients(made)]

    return run


def _ours(v: Volume) -> Rendered:
    made = composite(v.density, v.rgb, v.rays.start, v.rays.end, v.rays.offsets, early_stop=0.0)
    return made.rgb, made.opacity, made.depth


def _exact(v: Volume) -> Rendered:
    return reference.composite(v.density, v.rgb, v.rays.start, v.rays.end, v.rays.offsets, early_stop=0.0)[:3]


def _dense(v: Volume) -> Rendered:
    shape = v.rays.middle.shape
    return dense_composite(v.density.view(shape), v.rgb.view(*shape[:2], 3), v.rays.delta, v.rays.middle)


def _with_nerfacc(nerfacc: Nerfacc, v: Volume) -> Rendered:
    r = v.rays
    return nerfacc.composite(v.density, v.rgb, r.start, r.end, r.ray_index, r.packed_info)


def distortion_rows(rays: int, device: str = "cuda") -> Iterator[GpuRow]:
    """Forward and backward: nerfstudio's O(n^2) form, and prefix sums in torch."""
    for n in (48, 128):
        with torch.device(device):
            placed = EqualRays.between(0, 1, rays, n)
            weights = sets(lambda n=n: (torch.rand(rays, n) / n).requires_grad_())
        want = _loss(lossfun_distortion, placed.edges.double(), [weights[0].detach().double().requires_grad_()])(0)
        ours, name = _packed_loss(placed, weights), f"distortion n = {n} forward + backward"
        quadratic = _loss(lossfun_distortion, placed.edges, weights)
        yield row(f"{name} / nerfstudio", ours, quadratic, (30, None), want)
        yield row(f"{name} / torch O(n)", ours, _loss(linear_distortion, placed.edges, weights), want=want)


def _packed_loss(placed: EqualRays, weights: list[Tensor]) -> Side:
    def run(k: int) -> Tensors:
        loss = distortion(weights[k].view(-1), placed.start, placed.end, placed.offsets)
        return [loss, *torch.autograd.grad(loss.sum(), weights[k])]

    return run


def _loss(function: Callable[[Tensor, Tensor], Tensor], edges: Tensor, weights: list[Tensor]) -> Side:
    def run(k: int) -> Tensors:
        loss = function(edges, weights[k])
        return [loss, *torch.autograd.grad(loss.sum(), weights[k])]

    return run


def march_rows(rays: int, nerfacc: Nerfacc | None, device: str = "cuda") -> Iterator[GpuRow]:
    """Rays into a box and through 128^3 cells, a tenth of them occupied, as a training step has it.

    nerfacc is told where rays enter and leave the box, so that both step from the same places; it looks for that again.
    The error is the share of rays that have more or fewer samples than the twin finds.
    """
    with torch.device(device):
        occupied, batches = shell_cells(), sets(lambda: shell_rays(rays))
    limits = [ray_aabb(*each, SHELL.aabb) for each in batches]

    def ours(k: int) -> Tensors:
        near, far = ray_aabb(*batches[k], SHELL.aabb)
        return [march(*batches[k], near, far, occupied, SHELL).ray_index]

    twin = reference.march(*batches[0], *limits[0], occupied, SHELL)
    yield rate("march, Gsample/s", ours, len(twin) / 1e9)
    if nerfacc is None:
        return
    estimator = nerfacc.estimator(occupied, SHELL.half)

    def peer(k: int) -> Tensors:
        near, far = limits[k]
        return estimator.sampling(*batches[k], t_min=near, t_max=far, render_step_size=SHELL.step_min)[:1]

    yield row("march / nerfacc", ours, peer, (3, 8), [twin.ray_index], partial(_other_counts, rays))


def _other_counts(rays: int, made: Tensors, want: Tensors) -> float:
    """Share of rays whose number of samples differs, from the samples' rays."""
    counts = [each[0].bincount(minlength=rays) for each in (made, want)]
    return float((counts[0] != counts[1]).float().mean())
