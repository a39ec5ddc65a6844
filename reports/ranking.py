"""Which cell is best: complete cells of one scene and one training mask against each other.

A training inside a mask learns nothing outside of it, so its whole pictures lose to those of an unmasked training
whatever it learned: cells are ranked only among those of the same mask, by what lies inside of it.
"""

from __future__ import annotations

from eval.statistics import Summary, rank
from reports.records import NO_MASK, number
from reports.text import RANKED_BY, RANKED_BY_IN_MASK, Metric

Row = dict[str, str]


def summary_of(cell: Row, column: str) -> Summary:
    """A value's summary as ``cells.csv`` holds it; the spread is not kept there."""
    mean, low, high = (number(cell, f"{column}_{part}") for part in ("mean", "lo95", "hi95"))
    return Summary(mean, low, high, None, int(number(cell, f"{column}_n") or 0), int(cell["planned"]))


def ranked_by(cell: Row) -> Metric:
    """What decides a cell's place: PSNR of the whole test views, or inside the mask that it trained with."""
    return RANKED_BY if cell["mask"] == NO_MASK else RANKED_BY_IN_MASK


def by_mask(cells: list[Row]) -> dict[str, list[Row]]:
    """Cells that may be compared, by their training mask, in the order of the table."""
    groups: dict[str, list[Row]] = {}
    for cell in cells:
        groups.setdefault(cell["mask"], []).append(cell)
    return groups


def ranks(cells: list[Row]) -> dict[str, int]:
    """Place of each complete cell among those of its mask, 1 the best; ``cells`` are those of one scene.

    A cell whose runs all ended is complete only if each of them has the value.
    """
    places: dict[str, int] = {}
    for group in by_mask(cells).values():
        column = ranked_by(group[0]).column
        summaries = {c["cell"]: summary_of(c, column) for c in group if c["complete"] == "1"}
        places |= rank(summaries, higher_is_better=True)
    return places


def sorted_cells(cells: list[Row]) -> list[Row]:
    """Mask by mask: complete cells from the best on, then incomplete ones by mean, then those without any number."""
    places = ranks(cells)

    def key(cell: Row) -> tuple[float, float]:
        mean = ranked_by(cell).mean(cell)
        return (places.get(cell["cell"], float("inf")), float("inf") if mean is None else -mean)

    return [cell for group in by_mask(cells).values() for cell in sorted(group, key=key)]


def ranking_words(cells: list[Row]) -> str:
    """How the cells are ranked, as the end of a sentence that starts with "ranked" or "best"."""
    masked = [mask != NO_MASK for mask in by_mask(cells)]
    if not any(masked):
        return "by PSNR on the test views"
    if len(masked) == 1:
        return "by PSNR on the test views inside the training mask"
    inside = "inside it" if all(masked) else "inside it where there is one, of the whole picture else"
    return f"among cells of the same training mask, by PSNR on the test views ({inside})"


def single_run_note(cells: list[Row]) -> str:
    """A warning where no cell has more than one run, else empty."""
    if not cells or any(c["planned"] != "1" for c in cells):
        return ""
    return (
        "Each cell is a single run: differences between single runs are not significant, since another seed alone "
        "moves the numbers."
    )
