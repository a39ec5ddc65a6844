"""Kernels against what people run today, both sides in turn in one process: a table of ratios.

    python benchmarks/bm_kernels.py --quick
    python benchmarks/bm_kernels.py --json benchmarks/results/kernels.json
    python benchmarks/bm_kernels.py --device cuda --json benchmarks/results/kernels_cuda.json

Peers: nerfstudio's own torch code, the same under torch.compile, and plain torch; on a GPU also nerfacc and Triton
(``gpu_run``). ``must`` and ``aim`` are this project's targets, here on two CPU cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import in_turn, median, spread, write
from kernel_inputs import (
    COARSEST,
    FINEST,
    LEVELS,
    LOG2,
    SHELL,
    EqualRays,
    dense_composite,
    difference,
    linear_distortion,
    mean_difference,
    nerfstudio_signs,
    ray_coherent,
    shell_cells,
    shell_rays,
)
from nerfstudio.field_components.encodings import HashEncoding, SHEncoding
from nerfstudio.model_components.losses import lossfun_distortion
from torch import Tensor

from methods.kernels import reference
from methods.kernels.adam import AdamNumbers, adam_step_
from methods.kernels.cases import CASES, Case
from methods.kernels.compositing import composite
from methods.kernels.distortion import distortion
from methods.kernels.encodings import spherical_harmonics
from methods.kernels.grid import Grid, grid_encode, grid_input_gradient
from methods.kernels.grid_taps import grid_encode_taps
from methods.kernels.library import load
from methods.kernels.marching import march, ray_aabb
from methods.kernels.mlp import mlp
from methods.kernels.selftest import backward, placed, relative_error, tensors
from methods.kernels.taps import tap_offsets

Call = Callable[[], Any]
Targets = tuple[float, float, float, float]
"""Must and aim of two rows."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: What is compared.
        ours: The kernel.
        peer: The other side; None gives a rate alone.
        must: The ratio (or rate) to reach.
        aim: The ratio (or rate) hoped for.
        check: Largest difference of the results over the peer's largest number, or for gradients of grids
            (``second order``, ``taps``) the sum of differences over the sum of the peer's numbers; None where there is
            nothing to compare.
        work: Units per call, for a rate.
    """

    name: str
    ours: Call
    peer: Call | None
    must: float | None = None
    aim: float | None = None
    check: float | None = None
    work: float | None = None


def without_gradient(call: Call) -> Call:
    """The call under ``no_grad``."""

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def hash_rows(points: int, compiled: bool) -> list[Row]:
    """Hash encoding: 16 levels of 2 features, 16 to 2048, tables of 2^19 rows, nerfstudio's indices and weights."""
    grid = Grid.between(COARSEST, FINEST, LEVELS, log2_size=LOG2, dialect="nerfstudio")
    peer = HashEncoding(LEVELS, COARSEST, FINEST, LOG2, 2, implementation="torch")
    table = peer.hash_table.detach().clone().requires_grad_()
    peer.hash_table.requires_grad_()
    rows = []
    for kind, x in {"random": torch.rand(points, 3), "rays": ray_coherent(points)}.items():
        weight = torch.randn(points, grid.width)
        sink = torch.zeros_like(table)
        want = peer(x)
        error = difference(grid_encode(x, table, grid), want)
        ours, name = (x, table, grid, sink), f"hash {kind}"
        rows += _hash_pair(name, ours, (peer, peer.hash_table), weight, error, (35, 55, 18, 28))
        if compiled:
            fast = torch.compile(peer)
            fast(x).backward(weight)
            targets, name = (5, 8, 7, 11), f"{name}, torch.compile"
            rows += _hash_pair(name, ours, (fast, peer.hash_table), weight, error, targets)
    return rows


def _hash_pair(name: str, ours: tuple, theirs: tuple, weight: Tensor, error: float, targets: Targets) -> list[Row]:
    x, table, grid, sink = ours
    peer, peer_table = theirs
    both = "torch.compile" in name
    made, want = grid_encode(x, table, grid, sink=sink), peer(x)

    def our_backward() -> None:
        sink.zero_()  # the kept buffer is cleared inside the measured time, as a step would
        made.backward(weight, retain_graph=True)

    def peer_backward() -> None:
        peer_table.grad = None
        want.backward(weight, retain_graph=True)

    def our_both() -> None:
        sink.zero_()
        grid_encode(x, table, grid, sink=sink).backward(weight)

    def peer_both() -> None:
        peer_table.grad = None
        peer(x).backward(weight)

    forward = Row(
        f"{name}: forward",
        without_gradient(lambda: grid_encode(x, table, grid)),
        without_gradient(lambda: peer(x)),
        *targets[:2],
        error,
    )
    if both:
        return [forward, Row(f"{name}: forward + backward", our_both, peer_both, *targets[2:])]
    return [
        forward,
        Row(f"{name}: backward", our_backward, peer_backward, *targets[2:]),
        Row(f"{name}: forward + backward", our_both, peer_both, 26, 40),
    ]


def second_order_row(points: int, kind: str) -> Row:
    """Hash encoding as a surface model uses it: features, their gradient in x, losses on both back to the table.

    The peer is nerfstudio's torch encoding under autograd's own double backward pass.
    """
    grid = Grid.between(COARSEST, FINEST, LEVELS, log2_size=LOG2, dialect="nerfstudio")
    peer = HashEncoding(LEVELS, COARSEST, FINEST, LOG2, 2, implementation="torch")
    table, sink = peer.hash_table.detach().clone().requires_grad_(), torch.zeros_like(peer.hash_table)
    peer.hash_table.requires_grad_()
    x = torch.rand(points, 3) if kind == "random" else ray_coherent(points)
    up, weight = torch.randn(points, grid.width), torch.randn(points, grid.width)

    def loss(features: Tensor, normal: Tensor) -> Tensor:
        return (normal.norm(dim=-1) - 1).square().mean() + (features * weight).mean()

    def ours() -> Tensor:
        sink.zero_()
        features = grid_encode(x, table, grid, sink=sink)
        loss(features, grid_input_gradient(x, table, grid, up, sink=sink)).backward()
        return sink

    def theirs() -> Tensor:
        at = x.clone().requires_grad_()
        features = peer(at)
        normal = torch.autograd.grad(features, at, up, create_graph=True)[0]
        peer.hash_table.grad = None
        loss(features, normal).backward(inputs=[peer.hash_table])
        return peer.hash_table.grad

    return Row(f"hash {kind}: second order", ours, theirs, 10, 25, mean_difference(ours(), theirs()))


def taps_rows(points: int) -> list[Row]:
    """The hash encoding at points and four taps of each: against our own at all in a row, and nerfstudio's at the same.

    ``near``: a quarter of a cell of level 8, as Neuralangelo has it half-way: on most levels taps share the point's
    corners. ``far``: four cells of the finest, where nothing is shared on a CPU, and the sides do the same work.
    """
    grid = Grid.between(COARSEST, FINEST, LEVELS, log2_size=LOG2, dialect="nerfstudio")
    peer = HashEncoding(LEVELS, COARSEST, FINEST, LOG2, 2, implementation="torch")
    table = peer.hash_table.detach().clone().requires_grad_()
    peer.hash_table.requires_grad_()
    x, rows = ray_coherent(points), []
    for name, eps in {"near": 0.25 / grid.resolutions[8], "far": 4 / FINEST}.items():
        offsets = tap_offsets(eps)
        rows += _taps_pair(f"hash taps {name}", (x, offsets, table, grid), peer, 1 if name == "near" else None)
    return rows


def _taps_pair(
    name: str, inputs: tuple[Tensor, Tensor, Tensor, Grid], peer: HashEncoding, must: float | None
) -> list[Row]:
    x, offsets, table, grid = inputs
    sink = torch.zeros_like(table, requires_grad=False)
    weight = torch.randn(len(x), 1 + len(offsets), grid.width)

    def places() -> Tensor:
        return torch.cat([x[:, None], x[:, None] + offsets], dim=1).flatten(0, 1)

    def step(encode: Call) -> Call:
        def run() -> Tensor:
            sink.zero_()
            peer.hash_table.grad = None
            encode().backward(weight)
            return sink if peer.hash_table.grad is None else peer.hash_table.grad

        return run

    sides = {
        "ours": lambda: grid_encode_taps(x, offsets, table, grid, sink=sink),
        "grid_encode": lambda: grid_encode(places(), table, grid, sink=sink).view(weight.shape),
        "nerfstudio": lambda: peer(places()).view(weight.shape),
    }
    rows = []
    for other, least in {"grid_encode": must, "nerfstudio": None}.items():
        error = mean_difference(sides["ours"](), sides[other]())
        ours, theirs = (without_gradient(sides[side]) for side in ("ours", other))
        rows.append(Row(f"{name} / {other}: forward", ours, theirs, least, None, error))
        ours, theirs = (step(sides[side]) for side in ("ours", other))
        error = mean_difference(ours().clone(), theirs())
        rows.append(Row(f"{name} / {other}: forward + backward", ours, theirs, least, None, error))
    return rows


def harmonics_row(n: int) -> Row:
    """Spherical harmonics of degree 4 (16 numbers) against nerfstudio's torch form."""
    x = torch.nn.functional.normalize(torch.randn(n, 3), dim=-1)
    peer = SHEncoding(levels=4, implementation="torch")
    error = difference(spherical_harmonics(x, 4) * nerfstudio_signs(4), peer(x))
    return Row("SH degree 4", lambda: spherical_harmonics(x, 4), lambda: peer(x), 20, 30, error)


def composite_row(rays: int, samples: int) -> Row:
    """Colour, opacity and depth of equal rays, forward and backward, against nerfstudio's weights and sums."""
    density, rgb = torch.rand(rays, samples, 1) * 4, torch.rand(rays, samples, 3)
    placed = EqualRays.between(1, 3, rays, samples)
    flat, flat_rgb = density.reshape(-1).clone().requires_grad_(), rgb.reshape(-1, 3).clone().requires_grad_()
    dense, dense_rgb = density.clone().requires_grad_(), rgb.clone().requires_grad_()

    def ours() -> Tensor:
        made = composite(flat, flat_rgb, placed.start, placed.end, placed.offsets, early_stop=0.0)
        return _backward([made.rgb, made.opacity, made.depth], [flat, flat_rgb])

    def peer() -> Tensor:
        return _backward(dense_composite(dense, dense_rgb, placed.delta, placed.middle), [dense, dense_rgb])

    return Row("composite forward + backward", ours, peer, 5, 8, difference(ours().detach(), peer().detach()))


def distortion_rows(rays: int) -> list[Row]:
    """Distortion loss, forward and backward: nerfstudio's O(n^2) form, and prefix sums in torch."""
    rows = []
    for n, must, aim in ((48, 150, 180), (128, None, None)):
        weights = (torch.rand(rays, n) / n).requires_grad_()
        placed = EqualRays.between(0, 1, rays, n)
        flat = weights.detach().reshape(-1).clone().requires_grad_()

        def ours(flat=flat, placed=placed) -> Tensor:
            return _backward([distortion(flat, placed.start, placed.end, placed.offsets)], [flat])

        def quadratic(placed=placed, weights=weights) -> Tensor:
            return _backward([lossfun_distortion(placed.edges, weights)], [weights])

        def linear(placed=placed, weights=weights) -> Tensor:
            return _backward([linear_distortion(placed.edges, weights)], [weights])

        errors = [difference(ours().detach(), peer().detach()) for peer in (quadratic, linear)]
        rows.append(Row(f"distortion n = {n} / nerfstudio O(n^2)", ours, quadratic, must, aim, errors[0]))
        rows.append(Row(f"distortion n = {n} / torch O(n)", ours, linear, 7, 10, errors[1]))
    return rows


def _backward(results: Sequence[Tensor], inputs: list[Tensor]) -> Tensor:
    """Gradients as a training step hands them on, not summed up in leaves; the first result."""
    torch.autograd.grad(results, inputs, [torch.ones_like(r) for r in results])
    return results[0]


def march_row(rays: int) -> Row:
    """Marching through 128^3 cells, a tenth of them occupied in a ball: samples per second."""
    occupied, (origins, directions), noise = shell_cells(), shell_rays(rays), torch.rand(rays)
    near, far = ray_aabb(origins, directions, SHELL.aabb)

    def ours():
        return march(origins, directions, near, far, occupied, SHELL, noise)

    return Row("march, Msample/s", ours, None, 20, 60, work=len(ours()) / 1e6)


def mlp_row(n: int) -> Row:
    """The colour network of hash-nerf, 32-64-64-3, forward and backward, against torch's layers."""
    x = torch.randn(n, 32, requires_grad=True)
    weights = [torch.nn.Parameter(torch.randn(b, a) / a**0.5) for a, b in ((32, 64), (64, 64), (64, 3))]
    check = difference(mlp(x, weights).detach(), reference.mlp(x, weights).detach())
    return Row(
        "mlp 32-64-64-3 forward + backward",
        lambda: mlp(x, weights).sum().backward(),
        lambda: reference.mlp(x, weights).sum().backward(),
        check=check,
    )


def distance_net_row(n: int) -> Row:
    """The distance network of neus-hash, 35-64-13 with its gradient, losses on both, against torch's layers."""
    case = next(c for c in CASES if c.name == "distance_net")
    arguments = case.arguments(n)
    ours, peer = (_twin_call(case, f, arguments) for f in (case.kernel, case.twin))
    name = f"distance net 35-64-13, 2^{n.bit_length() - 1}: forward + backward"
    return Row(name, ours, peer, check=relative_error(case, "cpu"))


def adam_row(n: int) -> Row:
    """Adam on a table of which a tenth has a gradient, against torch's fused Adam."""
    gradient = torch.randn(n // 8, 8) * (torch.rand(n // 8, 1) < 0.1)
    gradient = gradient.reshape(-1).contiguous()
    ours, mean, square = torch.zeros(n), torch.zeros(n), torch.zeros(n)
    theirs = torch.nn.Parameter(torch.zeros(n))
    peer = torch.optim.Adam([theirs], lr=1e-2, fused=True)
    live = torch.empty_like(gradient)

    def step() -> None:
        adam_step_(ours, live.copy_(gradient), mean, square, AdamNumbers(1e-2, 0.9, 0.99, 1e-15, 1))

    def peer_step() -> None:
        theirs.grad = live.copy_(gradient)
        peer.step()

    return Row("Adam, a tenth touched / torch fused", step, peer_step)


WITH_A_PEER = {"grid_encode", "spherical_harmonics", "composite", "distortion", "march", "mlp", "adam_step_"}
WITH_A_ROW = WITH_A_PEER | {"distance_net"}


def twin_rows(scale: int) -> list[Row]:
    """Kernels that nobody else has for a CPU, forward and backward, against their twins in plain torch."""
    rows = []
    for case in CASES:
        if case.name not in WITH_A_ROW:
            arguments = case.arguments(case.size // scale)
            ours, peer = (_twin_call(case, f, arguments) for f in (case.kernel, case.twin))
            rows.append(Row(f"{case.name} / torch twin", ours, peer, check=relative_error(case, "cpu")))
    return rows


def _twin_call(case: Case, function: Callable[..., Any], arguments: tuple) -> Call:
    own = placed(case, arguments, "cpu", torch.float32)
    return lambda: backward(tensors(function(*own)))


def measure(rows: list[Row], rounds: int) -> list[dict[str, Any]]:
    """Time all rows, print the table, return the numbers."""
    print(f"{'':<44}{'ours ms':>9}{'peer ms':>10}{'ratio':>8}{'must':>7}{'aim':>6}{'spread':>8}  difference")
    results = []
    for row in rows:
        sides = {"ours": row.ours} | ({"peer": row.peer} if row.peer else {})
        times = in_turn(sides, rounds)
        ours = median(times["ours"])
        peer = median(times["peer"]) if row.peer else None
        value = peer / ours if peer is not None else (row.work or 0) / ours
        results.append({"name": row.name, "value": value, "must": row.must, "aim": row.aim, "times_s": times})
        print(_line(row, ours, peer, value, max(spread(t) for t in times.values())), flush=True)
    return results


def _line(row: Row, ours: float, peer: float | None, value: float, widest: float) -> str:
    def number(v: float | None, form: str) -> str:
        return "-" if v is None else format(v, form)

    cells = f"{row.name:<44}{ours * 1e3:>9.2f}{number(peer and peer * 1e3, '.1f'):>10}{value:>8.1f}"
    cells += f"{number(row.must, '.0f'):>7}{number(row.aim, '.0f'):>6}{widest:>8.2f}"
    return f"{cells}  {number(row.check, '.1e')}"


def on_cpu(quick: bool) -> dict[str, Any]:
    """All rows of the CPU, as the JSON has them."""
    load("cpu")
    scale = 8 if quick else 1
    rows = hash_rows(2**18 // scale, not quick)
    rows += [second_order_row(2**16 // scale, kind) for kind in ("random", "rays")]
    rows += taps_rows(2**15 // scale)
    rows += [harmonics_row(2**18 // scale), composite_row(4096 // scale, 96), *distortion_rows(4096 // scale)]
    rows += [distance_net_row(n // scale) for n in (2**14, 2**16)]
    rows += [march_row(16384 // scale), mlp_row(2**15 // scale), adam_row(2**23 // scale), *twin_rows(scale)]
    return {"rows": measure(rows, 3 if quick else 7)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small inputs, no torch.compile, under 2 minutes")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where both sides run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.device == "cuda":
        from gpu_run import on_gpu  # brings peers that a CPU has no use for

        results = on_gpu(args.quick)
    else:
        results = on_cpu(args.quick)
    write(args.json, results)
    if results.get("failed"):
        raise SystemExit(f"failed: {', '.join(results['failed'])}")


if __name__ == "__main__":
    main()
