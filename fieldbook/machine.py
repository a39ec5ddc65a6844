"""What this process may use of the machine: CPUs and memory, container limits included."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(cpu_max: Path = CGROUP_CPU) -> int:
    """CPUs this process may run on: its affinity, cut down to the cgroup's quota; at least 1."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        cpus = min(cpus, int(quota) // int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        pass
    return max(cpus, 1)


def cpu_name() -> str:
    """The CPU's name as the kernel spells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def usable_memory_mb(limits: tuple[Path, ...] = CGROUP_LIMITS) -> int:
    """Memory in MiB that jobs may share: 90 % of the machine's, or of the cgroup's limit where that is less."""
    total = psutil.virtual_memory().total
    for limit in limits:
        try:
            total = min(total, int(limit.read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue
    return int(total * 0.9) >> 20


def has_gpu(gpus: Path = NVIDIA_GPUS) -> bool:
    """Whether the NVIDIA driver lists a GPU; asks neither torch nor CUDA, which a plan should not have to load."""
    return gpus.is_dir() and any(gpus.iterdir())
