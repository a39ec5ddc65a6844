"""What this process may use of the machine: CPUs and memory, container limits included."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")
VMSTAT = Path("/proc/vmstat")


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


def oom_kills(vmstat: Path = VMSTAT) -> int:
    """How many processes the kernel has killed for want of memory since the machine was started."""
    try:
        lines = vmstat.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
