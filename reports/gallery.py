"""Which pictures a report shows, within its budget."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fieldbook.layout import StudyFiles
from reports.pictures import MAX_TOTAL_CHARS, chosen_views, long_side_for, pictures, total_chars
from reports.records import RunRecord
from reports.text import label

Row = dict[str, str]


def page_size(cells: list[Row]) -> int:
    """Pixels per picture: six pictures for every cell that has a finished run."""
    return long_side_for(6 * sum(c["n_runs"] != "0" for c in cells))


class Gallery:
    """Pictures cell by cell, until the page's budget is spent.

    Attributes:
        count: Pictures drawn so far.
        left_out: Cells without pictures because the budget was spent.
    """

    def __init__(self, runs: Iterable[RunRecord], out: StudyFiles, axes: list[str], long_side: int):
        """Take pictures from ``runs``, which must be ok: others may hold pictures of an earlier training."""
        self._runs: dict[str, list[RunRecord]] = {}
        for run in runs:
            self._runs.setdefault(run.entry["cell"], []).append(run)
        self._out, self._axes, self._long_side = out, axes, long_side
        self._chars = self.count = self.left_out = 0

    def of_cell(self, cell: Row) -> dict[str, Any] | None:
        """Label and pictures of a cell's first rendered run; None without one or beyond the budget."""
        for run in self._runs.get(cell["cell"], []):
            views = chosen_views(run, self._out)
            if views:
                return self._drawn(cell, run, [(v, pictures(v, self._long_side)) for v in views])
        return None

    def _drawn(self, cell: Row, run: RunRecord, views: list[Any]) -> dict[str, Any] | None:
        chars = sum(total_chars(drawn) for _, drawn in views)
        if self._chars + chars > MAX_TOTAL_CHARS:
            self.left_out += 1
            return None
        self._chars += chars
        self.count += sum(len(drawn) for _, drawn in views)
        seed = f"seed {run.entry['seed']}, repeat {run.entry['repeat']}"
        return {"label": label(cell, self._axes), "seed": seed, "views": views}
