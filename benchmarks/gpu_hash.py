"""The hash grid on a GPU against torch eager, torch.compile and Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from gpu_peers import PeerMissingError
from gpu_rows import NO_TARGETS, GpuRow, Targets, Tensors, rate, row, sets, without_gradient
from kernel_inputs import COARSEST, FINEST, LEVELS, LOG2, ray_coherent
from nerfstudio.field_components.encodings import HashEncoding
from torch import Tensor
from torch._functorch import config as functorch_config

from methods.kernels import reference
from methods.kernels.grid import Grid, grid_encode

TARGETS: dict[str, tuple[Targets, Targets]] = {
    "torch eager": ((10, 20), (25, 40)),
    "torch.compile": ((2, 3), (2, 3.5)),
    "triton": ((1.0, 1.3), NO_TARGETS),
}
"""Forward and backward."""
RATES: dict[str, Targets] = {"random": (1.5, 2), "rays": (4, 6)}


@dataclass(frozen=True)
class Peer:
    """A hash grid that is not ours: ``encode`` takes points, and the gradient arrives at ``table``."""

    name: str
    encode: Callable[[Tensor], Tensor]
    table: Tensor


GRID = Grid.between(COARSEST, FINEST, LEVELS, log2_size=LOG2, dialect="nerfstudio")
"""2^19 rows a level: 64 MiB as float32, 32 MiB as float16."""


def eager_peer(grid: Grid, table: Tensor) -> Peer:
    """nerfstudio's own torch code."""
    resolutions = [int(level.scale) for level in grid.table]
    encode = HashEncoding(
        grid.levels, grid.base, resolutions[-1], grid.log2_size, grid.features, implementation="torch"
    )
    encode.hash_table = torch.nn.Parameter(table.clone())
    # It keeps these on the CPU and copies them at every call; and powers in float32 differ between CPUs.
    encode.scalings = torch.tensor(resolutions, dtype=torch.float32, device=table.device)
    encode.hash_offset = encode.hash_offset.to(table.device)
    return Peer("torch eager", encode, encode.hash_table)


def compiled_peer(grid: Grid, table: Tensor) -> Peer:
    """The same under torch.compile."""
    eager = eager_peer(grid, table)
    # Buffers that the backward pass may overwrite would forbid to call it twice on one graph, as is done here.
    functorch_config.donated_buffer = False
    return Peer("torch.compile", torch.compile(eager.encode), eager.table)


def triton_peer(grid: Grid, table: Tensor) -> Peer:
    """``triton_grid``.

    Raises:
        PeerMissingError: Triton cannot be imported.
    """
    try:
        from triton_grid import TritonGrid
    except ImportError as error:
        raise PeerMissingError(str(error)) from error
    encode = TritonGrid(grid, table)
    return Peer("triton", encode, encode.table)


def hash_rows(
    points: int, maker: Callable[[Grid, Tensor], Peer], device: str = "cuda", grid: Grid = GRID
) -> Iterator[GpuRow]:
    """Rows against a peer, on random points and on points along rays.

    Args:
        points: N.
        maker: Of the peer.
        device: Where.
        grid: Its shape.

    Raises:
        PeerMissingError: The peer cannot run here.
    """
    for case in _cases(points, device, grid):
        yield from case.rows(maker(grid, case.table.detach()))


def hash_rates(points: int, device: str = "cuda", grid: Grid = GRID) -> Iterator[GpuRow]:
    """Billions of points per second, on both kinds of points, from tables of both types."""
    for case in _cases(points, device, grid):
        yield from case.rates()


def _cases(points: int, device: str, grid: Grid) -> Iterator[HashCase]:
    kinds = {"random": lambda: torch.rand(points, 3), "rays": lambda: ray_coherent(points)}
    for kind, make in kinds.items():
        with torch.device(device):
            table = (torch.rand(grid.rows, grid.features) * 2 - 1) * 1e-3
            x, slopes = sets(make), sets(lambda: torch.randn(points, grid.width))
        yield HashCase(kind, grid, table, x, slopes)


class HashCase:
    """The hash grid on one kind of points.

    Args:
        kind: Of the points.
        grid: Its shape.
        table: ``[R, F]`` float32.
        x: Of each set, ``[N, 3]``.
        slopes: Of each set, ``[N, L * F]``, the gradients that arrive.
    """

    def __init__(self, kind: str, grid: Grid, table: Tensor, x: list[Tensor], slopes: list[Tensor]):
        self.kind, self.grid, self.x, self.slopes = kind, grid, x, slopes
        self.table, self.sink = table.clone().requires_grad_(), torch.zeros_like(table)
        self.made = [grid_encode(v, self.table, grid, sink=self.sink) for v in x]
        exact = table.double().requires_grad_()
        self.want = [reference.grid_encode(x[0].double(), exact, grid)]
        self.want_slope = torch.autograd.grad(self.want[0], [exact], slopes[0].double())

    def rows(self, peer: Peer) -> list[GpuRow]:
        """Forward and backward against a peer."""
        out = [peer.encode(v) for v in self.x]

        def peer_backward(k: int) -> Tensors:
            peer.table.grad = None
            out[k].backward(self.slopes[k], retain_graph=True)
            return [peer.table.grad]  # pyright: ignore[reportReturnType]

        forward, backward = TARGETS[peer.name]
        name, peer_forward = f"hash {self.kind}", without_gradient(lambda k: [peer.encode(self.x[k])])
        return [
            row(f"{name}: forward / {peer.name}", self.forward, peer_forward, forward, self.want),
            row(f"{name}: backward / {peer.name}", self.backward, peer_backward, backward, self.want_slope),
        ]

    def rates(self) -> list[GpuRow]:
        """Billions of points per second, from a float32 table (64 MiB) and from a float16 one (32 MiB)."""
        points, half = len(self.x[0]) / 1e9, self.table.detach().half()

        def from_half(k: int) -> Tensors:
            return [grid_encode(self.x[k], half, self.grid)]

        rounded = [reference.grid_encode(self.x[0].double(), half.double(), self.grid)]

        return [
            rate(f"hash {self.kind}: forward, Gpoint/s", self.forward, points, RATES[self.kind], self.want),
            rate(f"hash {self.kind}: forward, float16 table, Gpoint/s", from_half, points, want=rounded),
        ]

    def forward(self, k: int) -> Tensors:
        """Features ``[N, L * F]``."""
        with torch.no_grad():
            return [grid_encode(self.x[k], self.table, self.grid)]

    def backward(self, k: int) -> Tensors:
        """The table's gradient ``[R, F]``; the kept buffer is cleared inside the measured time, as a step would."""
        self.sink.zero_()
        self.made[k].backward(self.slopes[k], retain_graph=True)
        return [self.sink]
