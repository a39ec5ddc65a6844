"""All that ``bm_kernels.py --device cuda`` measures: rates of the GPU, then our kernels against their peers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any

from gpu_hash import compiled_peer, eager_peer, hash_rates, hash_rows, triton_peer
from gpu_peers import Nerfacc, PeerMissingError, nerfacc
from gpu_rates import rates, show
from gpu_render import composite_rows, distortion_rows, large_composite_rows, march_rows
from gpu_rows import GpuRow, header, measure
from gpu_streaming import adam_row, encoding_rows, pack_bits_row

from methods.kernels.library import load

Group = Callable[[], Iterable[GpuRow]]


def on_gpu(quick: bool) -> dict[str, Any]:
    """All rows of the GPU, as the JSON has them; ``failed`` names the parts of the table that broke off.

    Args:
        quick: Small inputs; without torch.compile and nerfacc, which compile for minutes.

    Raises:
        BuildError: There is no CUDA device, or no compiler.
    """
    load("cuda")
    rounds, missing = (3 if quick else 9), {}
    limits = rates(rounds)
    show(limits)
    peer = None if quick else _nerfacc(missing)
    rows, failed = _all_rows(groups(8 if quick else 1, not quick, peer), rounds, missing)
    for name, reason in missing.items():
        print(f"no rows against {name}: {reason}")
    build = None if peer is None else peer.build_seconds
    return {"rates": limits, "rows": rows, "missing": missing, "failed": failed, "nerfacc_build_s": build}


def _nerfacc(missing: dict[str, str]) -> Nerfacc | None:
    try:
        made = nerfacc()
    except PeerMissingError as error:
        missing["nerfacc"] = str(error)
        return None
    print(f"nerfacc built or loaded in {made.build_seconds:.0f} s")
    return made


def _all_rows(parts: dict[str, Group], rounds: int, missing: dict[str, str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and names of the parts that failed; what a part makes is freed before the next."""
    rows, failed = [], []
    header()
    for name, group in parts.items():
        try:
            measure(group(), rounds, rows)
        except PeerMissingError as error:
            missing[name] = str(error)
        except Exception:  # what was measured so far is kept
            traceback.print_exc()
            failed.append(name)
    return rows, failed


def groups(scale: int, compiled: bool, nerfacc: Nerfacc | None, device: str = "cuda") -> dict[str, Group]:
    """The table's parts, those with a peer of their own by its name.

    Args:
        scale: Sizes are divided by this.
        compiled: Whether torch.compile is a peer.
        nerfacc: A peer, if it runs here.
        device: Where.
    """
    points = 2**18 // scale
    parts: dict[str, Group] = {
        "hash rates": lambda: hash_rates(points, device),
        "torch eager": lambda: hash_rows(points, eager_peer, device),
        "triton": lambda: hash_rows(points, triton_peer, device),
        "torch.compile": lambda: hash_rows(points, compiled_peer, device),
        "encodings": lambda: encoding_rows(points, 2**22 // scale, device),
        "composite": lambda: composite_rows(4096 // scale, 64, nerfacc, device),
        "large composite": lambda: large_composite_rows(2**18 // scale, 64, device),
        "distortion": lambda: distortion_rows(4096 // scale, device),
        "march": lambda: march_rows(8192 // scale, nerfacc, device),
        "tables": lambda: [pack_bits_row(2**24 // scale, device), adam_row(2**24 // scale, device)],
    }
    if not compiled:
        del parts["torch.compile"]
    return parts
