"""Kernels on a GPU that memory bounds: against a copy of as many bytes, and against torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from gpu_rows import GpuRow, Targets, Tensors, of_a_copy, row, sets, worst
from kernel_inputs import nerfstudio_signs
from nerfstudio.field_components.encodings import SHEncoding
from torch import Tensor

from methods.kernels import reference
from methods.kernels.adam import AdamNumbers, adam_step_
from methods.kernels.encodings import frequency_encode, spherical_harmonics
from methods.kernels.morton import pack_bits

OF_A_COPY: Targets = (0.7, 0.85)


def encoding_rows(small: int, large: int, device: str = "cuda") -> Iterator[GpuRow]:
    """Spherical harmonics against nerfstudio's; both encodings against a copy of their bytes.

    Args:
        small: Directions against nerfstudio.
        large: Directions or points against a copy.
        device: Where.
    """
    with torch.device(device):
        x, y = sets(lambda: _directions(small)), sets(lambda: _directions(large))
    peer, want = SHEncoding(levels=4, implementation="torch"), [reference.spherical_harmonics(x[0].double(), 4)]
    name = "SH degree 4 / torch"
    yield row(
        name, lambda k: [spherical_harmonics(x[k], 4)], lambda k: [peer(x[k])], want=want, error=_worst_of_either_sign
    )
    name, want = "SH degree 4, many", [reference.spherical_harmonics(y[0].double(), 4)]
    yield of_a_copy(name, lambda k: [spherical_harmonics(y[k], 4)], large * (3 + 16) * 4, OF_A_COPY, want)
    name, want = "sines of 10 octaves, many", [reference.frequency_encode(y[0].double(), 10)]
    yield of_a_copy(name, lambda k: [frequency_encode(y[k], 10)], large * (3 + 63) * 4, want=want)


def _directions(n: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)


def _worst_of_either_sign(made: Tensors, want: Tensors) -> float:
    """With our signs, or with nerfstudio's."""
    return min(worst(made, want), worst([v * nerfstudio_signs(4).to(v) for v in made], want))


def pack_bits_row(cells: int, device: str = "cuda") -> GpuRow:
    """Occupancy to bits."""
    density = sets(lambda: torch.rand(cells, device=device))
    want = [reference.pack_bits(density[0], 0.5).double()]
    return of_a_copy("pack_bits", lambda k: [pack_bits(density[k], 0.5)], cells * 4 + cells // 8, OF_A_COPY, want)


def adam_row(n: int, device: str = "cuda") -> GpuRow:
    """Adam on a table of which a tenth has a gradient, against torch's fused Adam; both copy the gradient first."""
    with torch.device(device):
        gradients = sets(lambda: (torch.randn(n // 8, 8) * (torch.rand(n // 8, 1) < 0.1)).reshape(-1).contiguous())
        ours, mean, square, live = (torch.zeros(n) for _ in range(4))
        theirs = torch.nn.Parameter(torch.zeros(n))
    peer = torch.optim.Adam([theirs], lr=1e-2, fused=True)

    def step(k: int) -> Tensors:
        adam_step_(ours, live.copy_(gradients[k]), mean, square, AdamNumbers(1e-2, 0.9, 0.99, 1e-15, 1))
        return [ours]

    def peer_step(k: int) -> Tensors:
        theirs.grad = live.copy_(gradients[k])
        peer.step()
        return [theirs]

    return row("Adam, a tenth touched / torch fused", step, peer_step)
