"""Which cell is best: complete cells of one scene against each other, never an incomplete one."""

from __future__ import annotations

from eval.statistics import Summary, rank
from reports.records import number
from reports.text import RANKED_BY


def summary_of(cell: dict[str, str], column: str) -> Summary:
    """A value's summary as ``cells.csv`` holds it; the spread is not kept there."""
    mean, low, high = (number(cell, f"{column}_{part}") for part in ("mean", "lo95", "hi95"))
    return Summary(mean, low, high, None, int(number(cell, f"{column}_n") or 0), int(cell["planned"]))


def ranks(cells: list[dict[str, str]]) -> dict[str, int]:
    """Place of each complete cell by test PSNR, 1 the best; ``cells`` are those of one scene.

    A cell whose runs all ended is complete only if each of them has the value.
    """
    summaries = {c["cell"]: summary_of(c, RANKED_BY.column) for c in cells if c["complete"] == "1"}
    return rank(summaries, higher_is_better=True)


def sorted_cells(cells: list[dict[str, str]]) -> list[dict[str, str]]:
    """Complete cells from the best on, then incomplete ones by their mean, then those without any number."""
    places = ranks(cells)

    def key(cell: dict[str, str]) -> tuple[float, float]:
        mean = RANKED_BY.mean(cell)
        return (places.get(cell["cell"], float("inf")), float("inf") if mean is None else -mean)

    return sorted(cells, key=key)
