"""Rays of samples that the tests of compositing share, and the comparison with the twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.kernels import reference
from methods.kernels.compositing import CompositeState, composite, composite_alpha

DENSITY = pytest.param(composite, reference.composite, id="density")
ALPHA = pytest.param(composite_alpha, reference.composite_alpha, id="alpha")
BOTH = pytest.mark.parametrize(("kernel", "twin"), [DENSITY, ALPHA])
COUNTS = [0, 1, 5, 0, 64, 15, 16, 17, 130, 33, 0]
"""Of samples per ray: none, fewer than a vector register or a warp holds, exactly so many, more."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def starts(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def samples(counts: list[int], channels: int = 3, opaque: float = 0.2, alpha: bool = False, seed: int = 0) -> list:
    """Value, rgb, t_start, t_end, offsets, extra; a sample hides about ``opaque`` of what is behind."""
    make, number = generator(seed), sum(counts)
    t_start = torch.cat([torch.zeros(0)] + [0.5 + torch.rand(n, generator=make).sort().values for n in counts])
    length = 0.001 + 0.05 * torch.rand(number, generator=make)
    hides = 2 * opaque * torch.rand(number, generator=make)
    value = hides.clamp(max=1.0) if alpha else hides / length
    rgb = torch.randn(number, channels, generator=make)
    return [value, rgb, t_start, t_start + length, starts(counts), torch.randn(number, generator=make)]


def upstream(counts: list[int], channels: int = 3) -> list[Tensor]:
    """Gradients of rgb, opacity, depth, weights and extra."""
    rays, make = len(counts), generator(9)
    shapes = [(rays, channels), (rays,), (rays,), (sum(counts),), (rays,)]
    return [torch.randn(shape, generator=make) for shape in shapes]


def all_of(render, given: list, grads: list[Tensor], early_stop: float) -> list[Tensor]:
    """Outputs, then gradients to value, rgb and extra."""
    value, rgb, t_start, t_end, offsets, extra = given
    wants = [v.clone().requires_grad_() for v in (value, rgb, extra)]
    out = render(wants[0], wants[1], t_start, t_end, offsets, wants[2], early_stop)
    torch.autograd.backward(list(out), [g.to(out[0]) for g in grads])
    return [v.detach().cpu().double() for v in (*out, *(w.grad for w in wants))]


def rounded(given: list, grads: list[Tensor], longest: int, density: bool) -> list[float]:
    """How far float32 may be off, for everything that ``all_of`` returns.

    T is a product of up to ``longest`` factors of some roundings each (2^-24), and a sum has so many terms; what they
    are roundings of is at most the largest term.
    """
    unit = 4 * (longest + 4) * 2**-24
    rgb, t, extra = (float(v.abs().max()) if v.numel() else 0.0 for v in (given[1], given[3], given[5]))
    length = float((given[3] - given[2]).max()) if given[2].numel() and density else 1.0
    largest = [float(g.abs().max()) if g.numel() else 0.0 for g in grads]
    pull = given[1].shape[1] * largest[0] * rgb + largest[1] + largest[2] * t + largest[3]
    return [unit * v for v in (rgb, 1.0, t, 1.0, longest * extra, pull * length, largest[0], 0.0)]


def check_against_twin(kernel, twin, given: list, counts: list[int], early_stop: float, device: str = "cpu") -> None:
    grads = upstream(counts, given[1].shape[1])
    made = all_of(kernel, [v.to(device) for v in given], grads, early_stop)
    want = all_of(twin, [v.double() if v.is_floating_point() else v for v in given], grads, early_stop)
    slack = rounded(given, grads, max([*counts, 1]), density=kernel is composite)
    names = ("rgb", "opacity", "depth", "weights", "extra", "to value", "to rgb", "to extra")
    for name, got, truth, allowed in zip(names, made, want, slack, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=allowed, msg=lambda m, n=name: f"{n}: {m}")


def state_of(rays: int, channels: int, device: str) -> CompositeState:
    return CompositeState(*(torch.zeros(s, device=device) for s in ((rays, channels), (rays,), (rays,))))
