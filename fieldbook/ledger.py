"""What a stage cost: wall and CPU seconds, peak memory, the GPU's too, and energy where the machine counts it."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldbook.files import write_json


def _cpu_seconds() -> float:
    own, children = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def read_energy_j(counters: Path = Path("/sys/class/powercap")) -> float | None:
    """Joules that the CPU packages have used since they were started (RAPL); None where that is not readable.

    It counts the whole machine, whatever else runs on it.
    """
    try:
        packages = sorted(p for p in counters.glob("intel-rapl:*") if p.name.count(":") == 1)
        return sum(int((p / "energy_uj").read_text(encoding="ascii")) for p in packages) / 1e6 if packages else None
    except (OSError, ValueError):
        return None


def _energy_since(before: float | None) -> float | None:
    after = read_energy_j()
    # The counters wrap around; a stage during which they did has no figure.
    return round(after - before, 3) if before is not None and after is not None and after >= before else None


def _gpu_numbers() -> dict[str, Any]:
    # A stage that never imported torch cannot have used the GPU: do not pay for the import here.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return {"gpu": None, "peak_gpu_bytes": None}
    return {"gpu": torch.cuda.get_device_name(), "peak_gpu_bytes": torch.cuda.max_memory_allocated()}


@contextmanager
def ledger(path: Path, stage: str) -> Iterator[dict[str, Any]]:
    """Measure the block and write ``path`` when it ends, also when it ends with an error.

    Yields:
        A dict; what the block puts in it is stored beside the measurements.
    """
    extra: dict[str, Any] = {}
    started, wall, cpu, energy = time.time(), time.monotonic(), _cpu_seconds(), read_energy_j()
    try:
        yield extra
    finally:
        write_json(
            path,
            {
                "stage": stage,
                "started_unix_s": round(started, 3),
                "wall_s": round(time.monotonic() - wall, 3),
                "cpu_s": round(_cpu_seconds() - cpu, 3),
                # Linux counts ru_maxrss in KiB.
                "peak_rss_bytes": max(
                    resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
                )
                * 1024,
                "cpu_energy_j": _energy_since(energy),
                "host": os.uname().nodename,
                "cpus": len(os.sched_getaffinity(0)),
                **_gpu_numbers(),
                **extra,
            },
        )
