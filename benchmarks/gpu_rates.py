"""What this GPU can do at most with the accesses of a hash grid, and how long a launch takes.

    python benchmarks/gpu_rates.py

Rooflines of a hash grid: its forward pass gathers 32-byte sectors from random places of a table, its backward pass adds
pairs of numbers there. 4913 rows are what a coarse level of 17^3 points has, on which all additions meet.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import median, spread
from gpu_timing import in_turn
from torch import Tensor

from methods.kernels.build import BuildError, find_toolchain, nvcc_job

SOURCE = Path(__file__).with_suffix(".cu")
ACCESSES = 2**27
"""Of one measurement: about a millisecond."""
MIB = 2**20
HOT_ROWS = 4913
LAUNCHES = 1000


@dataclass(frozen=True)
class Access:
    """One kind of access.

    Attributes:
        launcher: Its function in ``gpu_rates.cu``.
        row: Numbers that one access touches.
        dtype: Of the table.
        row_bytes: Of a row: a sector for gathers.
        exact: The most additions of one that a number holds exactly.
    """

    launcher: str
    row: int
    dtype: torch.dtype
    row_bytes: int
    exact: float


GATHER = Access("gather", 8, torch.float32, 32, 0)
ADDITIONS = {
    "add two float32 at once": Access("add_two_floats", 2, torch.float32, 8, 2**24),
    "add one float32": Access("add_one_float", 1, torch.float32, 4, 2**24),
    "add two float16 at once": Access("add_two_halves", 2, torch.float16, 4, 2**11),
}


def compile_library(folder: Path) -> Path:
    """Compile ``gpu_rates.cu`` to a shared library, for the kernels' architectures.

    Raises:
        BuildError: No compiler, or it failed.
    """
    tools = find_toolchain()
    if tools.cxx is None or tools.nvcc is None:
        raise BuildError("gpu_rates.cu needs nvcc and a C++ compiler")
    library = folder / "libgpu_rates.so"
    command = ["-shared" if part == "-c" else part for part in nvcc_job(tools, SOURCE, library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"nvcc failed on {SOURCE}:\n{done.stderr}")
    return library


def load_library(path: Path) -> ctypes.CDLL:
    """The library with its functions' argument types."""
    library = ctypes.CDLL(str(path))
    library.granule.restype = ctypes.c_int64
    table = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int64]
    for access in ADDITIONS.values():
        getattr(library, access.launcher).argtypes = [*table, ctypes.c_void_p]
    library.gather.argtypes = [*table, ctypes.c_void_p, ctypes.c_void_p]
    library.launch_empty.argtypes = [ctypes.c_int64, ctypes.c_void_p]
    return library


def rates(rounds: int = 9) -> dict[str, dict[str, Any]]:
    """Measure everything on the current CUDA device.

    Args:
        rounds: Timings of each.

    Returns:
        Name to ``value`` (the median), ``unit`` (G/s: 1e9 accesses per second; us) and ``spread``.

    Raises:
        BuildError: The kernels cannot be compiled.
        RuntimeError: A kernel failed, or counted wrongly.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = load_library(compile_library(Path(folder)))
    assert ACCESSES % library.granule() == 0
    made = {f"gather a 32-byte sector, {mib} MiB table": _gathers(library, mib * MIB, rounds) for mib in (32, 4)}
    for name, access in ADDITIONS.items():
        for mib in (32, 4):
            made[f"{name}, {mib} MiB table"] = _additions(library, access, mib * MIB // access.row_bytes, rounds)
        made[f"{name}, {HOT_ROWS} rows"] = _additions(library, access, HOT_ROWS, rounds)
    made["empty kernel, one of many"] = _launches(library, rounds)
    made["empty kernel, launch and wait"] = _launch_and_wait(library, 10 * rounds)
    return made


def _gathers(library: ctypes.CDLL, size: int, rounds: int) -> dict[str, Any]:
    table = torch.ones(size // GATHER.row_bytes, GATHER.row, dtype=GATHER.dtype, device="cuda")
    wrong = torch.zeros(1, dtype=torch.int32, device="cuda")

    def call() -> None:
        _check(library.gather(table.data_ptr(), len(table), ACCESSES, wrong.data_ptr(), _stream()))

    made = _rate(call, ACCESSES, rounds)
    if wrong.item():
        raise RuntimeError("gather read something other than the table's ones")
    return made


def _additions(library: ctypes.CDLL, access: Access, rows: int, rounds: int) -> dict[str, Any]:
    table = torch.zeros(rows, access.row, dtype=access.dtype, device="cuda")

    def call() -> None:
        _check(getattr(library, access.launcher)(table.data_ptr(), rows, ACCESSES, _stream()))

    call()
    _check_sum(access, table)
    return _rate(call, ACCESSES, rounds)


def _check_sum(access: Access, table: Tensor) -> None:
    """After ``ACCESSES`` additions of one, as far as the table's type counts that far without rounding."""
    if table.max() < access.exact and table.double().sum() != ACCESSES * access.row:
        raise RuntimeError(f"{access.launcher} lost additions")


def _launches(library: ctypes.CDLL, rounds: int) -> dict[str, Any]:
    """Microseconds of each of many launches in a row, between two events."""
    times = in_turn({"": [lambda: _check(library.launch_empty(LAUNCHES, _stream()))]}, rounds)[""]
    return {"value": median(times) / LAUNCHES * 1e6, "unit": "us", "spread": spread(times)}


def _launch_and_wait(library: ctypes.CDLL, rounds: int) -> dict[str, Any]:
    """Microseconds from a launch on an idle GPU until the process knows of its end."""
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        _check(library.launch_empty(1, _stream()))
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return {"value": median(times) * 1e6, "unit": "us", "spread": spread(times)}


def _rate(call: Callable[[], None], accesses: int, rounds: int) -> dict[str, Any]:
    times = in_turn({"": [call]}, rounds)[""]
    return {"value": accesses / median(times) / 1e9, "unit": "G/s", "spread": spread(times)}


def _stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"CUDA error {code} in gpu_rates.cu")


def show(made: dict[str, dict[str, Any]]) -> None:
    """Print the rates, one a line."""
    for name, rate in made.items():
        print(f"{name:<44}{rate['value']:>9.2f} {rate['unit']:<4}{rate['spread']:>8.2f}")


if __name__ == "__main__":
    show(rates())
