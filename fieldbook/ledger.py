"""What a stage cost: wall and CPU seconds, peak memory, and on a GPU its memory and energy."""

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
    started, wall, cpu = time.time(), time.monotonic(), _cpu_seconds()
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
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "host": os.uname().nodename,
                "cpus": len(os.sched_getaffinity(0)),
                **_gpu_numbers(),
                **extra,
            },
        )
