"""The table of a scene's cells, and what must be read with it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reports.pose_numbers import outlier_names
from reports.ranking import ranks
from reports.records import RunRecord, number
from reports.text import AXIS_WORDS, COST, TABLE_QUALITY, axis_value, label, plural, present

Row = dict[str, str]
POSE_AXES = ("count", "policy", "mapper", "sfm_mask", "sfm_seed", "subset_draw")
LPIPS_FOUND = "available"


def cell_table(cells: list[Row], axes: list[str]) -> dict[str, Any]:
    """Headings, metrics and rows of a scene's cells, in the order of ``cells``."""
    places = ranks(cells)
    quality, cost = present(TABLE_QUALITY, cells), present(COST, cells)
    return {
        "headings": [AXIS_WORDS[a] for a in axes],
        "quality": quality,
        "cost": cost,
        "rows": [
            {
                "place": places.get(cell["cell"]),
                "axes": [(a, axis_value(cell, a)) for a in axes],
                "registered": _share(cell, "registered"),
                "trained": _share(cell, "trained") if _dropped(cell) else "",
                "cell": cell,
                "quality": [m.parts(cell) for m in quality],
                "cost": [m.parts(cell) for m in cost],
            }
            for cell in cells
        ],
    }


def _share(cell: Row, column: str) -> str:
    found, asked = number(cell, f"{column}_mean"), number(cell, "requested_mean")
    return "" if found is None or asked is None else f"{found:g} / {asked:g}"


def _dropped(cell: Row) -> bool:
    """Whether a run trained with other frames than COLMAP registered."""
    trained = number(cell, "trained_mean")
    return trained is not None and trained != number(cell, "registered_mean")


def dropped_frames(runs: Iterable[RunRecord], axes: Iterable[str]) -> list[tuple[str, str]]:
    """Which poses dropped which frames in the alignment: label of the poses, and the frames' names."""
    shown = [a for a in axes if a in POSE_AXES]
    by_folder = {run.poses.root: run for run in runs}
    dropped = ((run, outlier_names(run)) for run in by_folder.values())
    return [(label(run.identity, shown), ", ".join(names)) for run, names in dropped if names]


def lpips_note(runs: Iterable[Row]) -> str:
    """Why scored runs lack LPIPS, or empty where none does."""
    scored = [r for r in runs if r["state"] == "ok" and r["lpips"]]
    lacking = [r["lpips"] for r in scored if r["lpips"] != LPIPS_FOUND]
    reasons = "; ".join(dict.fromkeys(lacking))
    return f"LPIPS is missing in {len(lacking)} of {plural(len(scored), 'scored run')}: {reasons}." if lacking else ""
