"""What this process may use of the machine: CPUs, memory and a device, container limits included; and how it ends."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import psutil

from fieldbook.errors import Infeasible, UserError, nearest

DEVICES = ("auto", "cpu", "cuda")
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")
CGROUPS, OWN_CGROUP, VMSTAT = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"), Path("/proc/vmstat")
_PR_SET_PDEATHSIG = 1


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


def choose_device(asked: str, there: Callable[[], bool], lack: str) -> Literal["cpu", "cuda"]:
    """``cpu`` or ``cuda`` for a study's ``device``.

    Args:
        asked: One of ``DEVICES``.
        there: Whether there is a GPU; not called where none is asked for.
        lack: What to say where there is none.

    Raises:
        UserError: Unknown device, or ``cuda`` where there is none.
    """
    if asked not in DEVICES:
        raise UserError(f"no device {asked!r}; {nearest(asked, DEVICES)}")
    if asked != "cpu" and there():
        return "cuda"
    if asked == "cuda":
        raise UserError(f"device: cuda, but {lack}; set device: auto or cpu")
    return "cpu"


def oom_kills(own: Path = OWN_CGROUP, root: Path = CGROUPS, vmstat: Path = VMSTAT) -> int:
    """How many processes the kernel has killed for want of memory, of this process's control group.

    Where no control group counts them, of the whole machine. What it leaves uncertain: somebody kills a process by hand
    while the kernel kills another one of the same group; and a process that has moved to a group of its own is missed.
    """
    for path in (*_oom_counters(own, root), vmstat):
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        if found := [int(line.split()[1]) for line in lines if line.startswith("oom_kill ")]:
            return found[0]
    return 0


def _oom_counters(own: Path, root: Path) -> Iterator[Path]:
    """Files that may count them, the nearest first: a container may see its own group as the root."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        old = "memory" in controllers.split(",")  # version 1, where every controller has a tree of its own
        if old or not controllers:
            top, name = (root / "memory", "memory.oom_control") if old else (root, "memory.events")
            group = top / path.strip("/")
            yield from (folder / name for folder in (group, *group.parents))


def out_of_memory(what: str, peak_mb: int) -> Infeasible:
    """The result where the kernel has killed something for want of memory.

    Args:
        what: Was killed.
        peak_mb: The most memory that it had resident.
    """
    reason = f"out of memory on the host: the kernel ended {what}, which had held up to {peak_mb} MB"
    return Infeasible(reason, {"peak_mb": peak_mb})


def end_with(parent: int) -> None:
    """Let this process get SIGTERM when its parent ends, however that ends. A program it becomes keeps to it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGTERM)
