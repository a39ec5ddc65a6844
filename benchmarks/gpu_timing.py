"""Times on a GPU: CUDA events around calls whose inputs rotate, and how long the kernels alone ran."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from common import Side
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

SHORTEST = 0.02
"""Seconds that a timing lasts at least."""


def seconds(calls: Sequence[Side], turns: int) -> float:
    """Time of a call between two events, the mean over ``turns`` rounds of all calls in order.

    Args:
        calls: The same call on different inputs: one set alone would stay in the L2 cache.
        turns: How often each is called.
    """
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(turns):
        for call in calls:
            call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / (turns * len(calls))


def in_turn(sides: Mapping[str, Sequence[Side]], rounds: int, shortest: float = SHORTEST) -> dict[str, list[float]]:
    """Times of every side, measured in turn after two untimed rounds, as ``common.in_turn`` does on a CPU.

    Args:
        sides: What to time, by name: a call on each of its input sets.
        rounds: Timings of each.
        shortest: Seconds that a timing lasts at least.
    """
    turns = {}
    for name, calls in sides.items():
        seconds(calls, 1)
        turns[name] = max(1, math.ceil(shortest / (seconds(calls, 1) * len(calls))))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, calls in sides.items():
            times[name].append(seconds(calls, turns[name]))
    return times


def kernel_seconds(calls: Sequence[Side]) -> float | None:
    """Time of a call during which kernels, copies and fills ran; None where the profiler may not look.

    Below some 100 us the time between events is Python's and the driver's; this leaves them out.
    """
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        for call in calls:
            call()
        torch.cuda.synchronize()
    return on_device(seen.key_averages()) / len(calls) or None


def on_device(averages: Iterable) -> float:
    """Seconds of a profile's kernels; operators, which hold the same kernels again, do not count."""
    kernels = [row for row in averages if row.device_type == DeviceType.CUDA and not row.is_user_annotation]
    return sum(row.self_device_time_total for row in kernels) / 1e6
