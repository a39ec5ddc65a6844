"""From images to runs to cells: what may be averaged, and what the average is worth.

Images of one video are not independent samples: they are averaged within a run first, then runs are compared.
Missing values are ``None``, NaN or an empty cell; they are never counted and make what they belong to
incomplete. Infinite values (the PSNR of equal pictures) stay: the mean is then infinite and has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student_t

CONFIDENCE = 0.95
# Two runs give a "95 % interval" almost 13 times as wide as their difference: a band that says nothing.
MIN_FOR_BAND = 3


@dataclass(frozen=True)
class RunMean:
    """One run's mean over the views of one split.

    Attributes:
        mean: Over the views that have the value; ``None`` where none has.
        count: Views that have the value.
        views: Views of the split.
    """

    mean: float | None
    count: int
    views: int

    @property
    def complete(self) -> bool:
        """Whether every view has the value."""
        return 0 < self.count == self.views


@dataclass(frozen=True)
class Summary:
    """One cell's value over its runs.

    Attributes:
        mean: Over the runs that have a value; ``None`` where none has.
        low: Lower end of the 95 % Student-t interval of the mean; ``None`` for fewer than 3 or infinite
            values.
        high: Upper end of it.
        std: Sample standard deviation (n - 1), under the same condition as ``low``.
        count: Runs that have a value.
        planned: Runs that the study asked for.
    """

    mean: float | None
    low: float | None
    high: float | None
    std: float | None
    count: int
    planned: int

    @property
    def complete(self) -> bool:
        """Whether all planned runs are in; only complete cells may be ranked."""
        return 0 < self.count == self.planned


def run_means(rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, dict[str, RunMean]]:
    """Average each column over one run's views, per split.

    Args:
        rows: Rows of one run's ``images.csv``, as read (strings) or as made (numbers, ``None``).
        columns: Columns to average.

    Returns:
        ``{split: {column: RunMean}}``.
    """
    splits: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        splits.setdefault(row["split"], []).append(row)
    names = list(columns)
    return {split: {name: _run_mean([row[name] for row in part]) for name in names} for split, part in splits.items()}


def summarise(values: Iterable[float | None], planned: int) -> Summary:
    """Summarise one cell.

    Args:
        values: One value per run, already averaged over the run's images.
        planned: How many runs the study asked for.

    Raises:
        ValueError: More values than planned, which means that something was counted twice.
    """
    present = _present(values)
    if len(present) > planned:
        raise ValueError(f"{len(present)} values for {planned} planned runs: was a run counted twice?")
    mean = fmean(present) if present else None
    if mean is None or len(present) < MIN_FOR_BAND or not math.isfinite(mean):
        return Summary(mean, None, None, None, len(present), planned)
    std = stdev(present)
    half = float(student_t.ppf((1 + CONFIDENCE) / 2, len(present) - 1)) * std / math.sqrt(len(present))
    return Summary(mean, mean - half, mean + half, std, len(present), planned)


def rank(cells: Mapping[str, Summary], higher_is_better: bool) -> dict[str, int]:
    """Places from 1 among complete cells, by mean; equal means share a place, the others have none."""
    means = {name: cell.mean for name, cell in cells.items() if cell.complete and cell.mean is not None}
    sign = 1 if higher_is_better else -1
    return {name: 1 + sum(sign * other > sign * mean for other in means.values()) for name, mean in means.items()}


def _present(values: Iterable[Any]) -> list[float]:
    numbers = [float(value) for value in values if value is not None and value != ""]
    return [number for number in numbers if not math.isnan(number)]


def _run_mean(values: list[Any]) -> RunMean:
    present = _present(values)
    return RunMean(fmean(present) if present else None, len(present), len(values))
