"""Comparisons on a GPU: what one is, how it is made, and the table.

Inputs rotate, outputs are poisoned before errors are taken, errors are to float64. ``must`` and ``aim`` are this
project's targets on one H200.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from common import median, spread
from gpu_timing import in_turn, kernel_seconds
from kernel_inputs import difference
from torch import Tensor

SETS = 4
"""Input sets that take turns; one alone would stay in the L2 cache."""

Made = TypeVar("Made")
Tensors = Sequence[Tensor]
Side = Callable[[int], Tensors]
"""From the number of an input set to results."""
Targets = tuple[float | None, float | None]
NO_TARGETS: Targets = (None, None)


@dataclass(frozen=True)
class GpuRow:
    """One comparison, or a rate.

    Attributes:
        name: What is compared.
        sides: ``ours``, and ``peer`` unless it is a rate: a call on each of the input sets.
        must: The ratio (or rate) to reach.
        aim: The ratio (or rate) hoped for.
        errors: Of both sides, to float64, over its largest number; None where nothing is compared.
        work: Units per call, for a rate.
    """

    name: str
    sides: dict[str, list[Callable[[], Any]]]
    must: float | None = None
    aim: float | None = None
    errors: tuple[float | None, float | None] = (None, None)
    work: float | None = None


def worst(made: Tensors, want: Tensors) -> float:
    """Largest difference within a tensor, over its largest number in float64; NaN where something is NaN."""
    found = [difference(a.detach().double(), b.detach()) for a, b in zip(made, want, strict=True)]
    return float(torch.tensor(found).max())


def row(
    name: str,
    ours: Side,
    peer: Side,
    targets: Targets = NO_TARGETS,
    want: Tensors | None = None,
    error: Callable[[Tensors, Tensors], float] = worst,
) -> GpuRow:
    """A comparison whose errors are taken on the first input set.

    Args:
        name: What is compared.
        ours: Our side.
        peer: The other.
        targets: Must and aim.
        want: The results in float64, as many as the sides give; None: nothing is compared.
        error: Of results against ``want``.
    """
    errors = (_error(ours, want, error), None if want is None else error(peer(0), want))
    return GpuRow(name, {"ours": _calls(ours), "peer": _calls(peer)}, *targets, errors)


def of_a_copy(name: str, ours: Side, size: int, targets: Targets = NO_TARGETS, want: Tensors | None = None) -> GpuRow:
    """Share of the bandwidth of a copy: the time to copy as many bytes over ours.

    Args:
        name: What is measured.
        ours: Our side.
        size: Bytes that it must read and write at least.
        targets: Must and aim.
        want: As in ``row``.
    """
    errors = (_error(ours, want, worst), None)
    source = torch.zeros(size // 8, device=ours(0)[0].device)
    target = torch.empty_like(source)
    sides = {"ours": _calls(ours), "peer": [lambda: target.copy_(source)]}
    return GpuRow(f"{name} / a copy of its bytes", sides, *targets, errors)


def rate(name: str, ours: Side, work: float, targets: Targets = NO_TARGETS, want: Tensors | None = None) -> GpuRow:
    """Units of work per second."""
    return GpuRow(name, {"ours": _calls(ours)}, *targets, (_error(ours, want, worst), None), work)


def _error(ours: Side, want: Tensors | None, error: Callable[[Tensors, Tensors], float]) -> float | None:
    with poisoned():
        made = ours(0)
    return None if want is None else error(made, want)


def _calls(side: Side) -> list[Callable[[], Any]]:
    return [partial(side, k) for k in range(SETS)]


@contextmanager
def poisoned() -> Iterator[None]:
    """Within, new memory is NaN, or the largest integer, until a kernel writes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)


def sets(make: Callable[[], Made]) -> list[Made]:
    """Fresh random inputs, ``SETS`` of them."""
    return [make() for _ in range(SETS)]


def without_gradient(side: Side) -> Side:
    """The side under ``no_grad``."""

    def run(k: int) -> Tensors:
        with torch.no_grad():
            return side(k)

    return run


# --- the table -------------------------------------------------------------------------------------------------------

COLUMNS = ("ours us", "peer us", "ratio", "must", "aim", "kernels", "spread", "error", "peer's")
WIDTHS = (10, 11, 8, 7, 6, 9, 8, 9, 9)


def header() -> None:
    """Print the table's first line."""
    print(f"{'':<50}" + "".join(f"{c:>{w}}" for c, w in zip(COLUMNS, WIDTHS, strict=True)))


def measure(rows: Iterable[GpuRow], rounds: int, results: list[dict[str, Any]]) -> None:
    """Time the rows, print a line for each, append the numbers to the results.

    ``ratio`` is of the times between events, Python's share in them; ``kernels`` of the times kernels ran.
    """
    for each in rows:
        results.append(_measured(each, rounds))
        print(_line(results[-1]), flush=True)


def _measured(each: GpuRow, rounds: int) -> dict[str, Any]:
    times = in_turn(each.sides, rounds)
    kernels = {name: kernel_seconds(calls) for name, calls in each.sides.items()}
    return {
        "name": each.name,
        "value": _value({name: median(t) for name, t in times.items()}, each.work),
        "kernels": _value(kernels, each.work),
        "must": each.must,
        "aim": each.aim,
        "errors": each.errors,
        "times_s": times,
        "kernels_s": kernels,
    }


def _value(times: Mapping[str, float | None], work: float | None) -> float | None:
    """The peer's time over ours, or work over ours."""
    ours = times["ours"]
    above = work if work is not None else times["peer"]
    return above / ours if ours and above else None


def _line(result: dict[str, Any]) -> str:
    times = result["times_s"]
    micro = [median(times[name]) * 1e6 if name in times else None for name in ("ours", "peer")]
    numbers = [*micro, result["value"], result["must"], result["aim"], result["kernels"]]
    numbers += [max(spread(t) for t in times.values()), *result["errors"]]
    forms = (".1f", ".1f", ".2f", "g", "g", ".2f", ".2f", ".1e", ".1e")
    cells = ("-" if v is None else format(v, form) for v, form in zip(numbers, forms, strict=True))
    return f"{result['name']:<50}" + "".join(f"{c:>{w}}" for c, w in zip(cells, WIDTHS, strict=True))
