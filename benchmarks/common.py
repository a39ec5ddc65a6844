"""What the benchmarks share: timing two sides in turn, and a record of machine, versions and command."""

from __future__ import annotations

import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fieldbook.versions import versions
from methods.runner.train import device_name

Side = Callable[[], Any]


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


SHORTEST = 0.05
"""Seconds that a timing lasts at least: shorter calls are repeated, or only cold caches would be measured."""


def seconds(side: Side, calls: int = 1) -> float:
    """Wall time of a call, the mean of ``calls`` in a row."""
    synchronise()
    started = time.perf_counter()
    for _ in range(calls):
        side()
    synchronise()
    return (time.perf_counter() - started) / calls


def in_turn(sides: dict[str, Side], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Times of every side, called in turn, so that a busy machine slows all of them.

    Args:
        sides: What to time, by name.
        rounds: Timings of each.
        warm_up: Untimed calls of each before.
    """
    for _ in range(warm_up):
        for side in sides.values():
            side()
    calls = {name: max(1, math.ceil(SHORTEST / seconds(side))) for name, side in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            times[name].append(seconds(side, calls[name]))
    return times


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def spread(values: list[float]) -> float:
    """Largest over smallest."""
    return max(values) / min(values)


def driver() -> str | None:
    """Version of NVIDIA's driver; None where nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout else None


def record() -> dict[str, Any]:
    """Machine, versions (the commit among them), command and time of a benchmark."""
    gpu = torch.cuda.is_available()
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": device_name("cpu"),
        "gpu": device_name("cuda") if gpu else None,
        "cuda": torch.version.cuda if gpu else None,
        "driver": driver() if gpu else None,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": versions(),
    }


def write(path: Path | None, results: dict[str, Any]) -> None:
    """Write the record and the results as JSON, if a path was asked for."""
    if path is not None:
        if versions()["commit"].endswith("-dirty"):
            print("warning: files differ from the commit; such a result cannot be made again")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**record(), **results}, indent=1) + "\n", encoding="utf-8")
