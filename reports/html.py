"""The report of a study: one HTML file that opens offline and loads nothing."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from plotly.offline import get_plotlyjs

from fieldbook.files import write_text
from fieldbook.layout import StudyFiles
from reports.facts import cost_table, headline, scene_facts
from reports.figures import MAX_COST_BARS, Figure, cost_bars, frame_curve
from reports.log import append_log_entry
from reports.pictures import (
    ERROR_CSS,
    ERROR_GAIN,
    MAX_TOTAL_CHARS,
    chosen_views,
    long_side_for,
    pictures,
    total_chars,
)
from reports.ranking import ranks, sorted_cells
from reports.records import RunRecord, StudyRecord, load_study, read_optional
from reports.space import scene_figure
from reports.tables import read_tables
from reports.text import (
    AXIS_WORDS,
    COST,
    QUALITY,
    TABLE_QUALITY,
    axis_value,
    label,
    present,
    shown_axes,
)

Row = dict[str, str]


def make_report(results: Path, study_json: Path, out: StudyFiles, today: datetime.date | None = None) -> dict[str, Any]:
    """Write ``report.html`` from the study's tables, and the study's entry in the research log.

    Args:
        results: Root of everything Fieldbook writes.
        study_json: The resolved study.
        out: Holds the tables; the report goes beside them.
        today: Date in the title and the log; the current one by default.

    Returns:
        Numbers for the status: size of the page, pictures in it, and what the log did.

    Raises:
        UserError: The tables or ``study_json`` are missing.
    """
    today = today or datetime.date.today()
    study = load_study(results, study_json)
    runs, cells = read_tables(out)
    context = report_context(study, out, runs, cells) | {"date": today.isoformat()}
    page = _environment().get_template("report.html.j2").render(context, plotly_js=get_plotlyjs())
    write_text(out.report, page)
    numbers = {"bytes": len(page.encode()), "pictures": context["picture_count"]}
    return numbers | append_log_entry(results, study_json, out, today)


def report_context(study: StudyRecord, out: StudyFiles, runs: list[Row], cells: list[Row]) -> dict[str, Any]:
    """Everything the template shows; ``runs`` and ``cells`` are the rows of the tables."""
    axes = shown_axes(cells) if cells else []
    figures: dict[str, Figure] = {}
    gallery = _Gallery(study, out, axes, _page_size(cells))
    scenes = []
    for index, name in enumerate(study.scenes):
        own_cells = sorted_cells([c for c in cells if c["scene"] == name])
        own_runs = [r for r in runs if r["scene"] == name]
        paths = [(path, out.path(name, path)) for path in study.paths]
        drawn = {
            "curve": frame_curve(own_runs, own_cells, present(QUALITY, own_cells), axes),
            "space": scene_figure(study.results.scene(name), paths),
            "cost": cost_bars(own_cells, axes),
        }
        ids = {kind: f"{kind}-{index}" if figure else None for kind, figure in drawn.items()}
        figures |= {f"{kind}-{index}": figure for kind, figure in drawn.items() if figure}
        scenes.append(
            {
                "name": name,
                "index": index,
                "figures": ids,
                "table": _cell_table(own_cells, axes),
                "facts": scene_facts(study.results.scene(name)),
                "pictures": [g for c in own_cells if (g := gallery.of_cell(c))],
            }
        )
    return {
        "study": study.name,
        "headline": headline(runs, cells),
        "scenes": scenes,
        "figures": figures,
        "policies": sorted({c["policy"] for c in cells}),
        "infeasible": [c for c in cells if c["infeasible"] != "0"],
        "unfinished": [r for r in runs if r["state"] == "missing"],
        "axes": axes,
        "label": label,
        "costs": cost_table(study, out.root),
        "max_cost_bars": MAX_COST_BARS,
        "picture_count": gallery.count,
        "pictures_left_out": gallery.left_out,
        "error_css": ERROR_CSS,
        "error_gain": ERROR_GAIN,
        "versions": _flat(study.content.get("versions", {})),
        "config": yaml.safe_dump(study.content.get("config", {}), sort_keys=False, allow_unicode=True),
        "tables": [(p.name, _href(p, out)) for p in (out.images_csv, out.runs_csv, out.cells_csv, out.resolved)],
        "provenance": [_provenance(run, out) for run in study.runs],
    }


def _page_size(cells: list[Row]) -> int:
    """Pixels per picture: six pictures for every cell that has a finished run."""
    return long_side_for(6 * sum(c["n_runs"] != "0" for c in cells))


class _Gallery:
    """Pictures cell by cell, until the page's budget is spent."""

    def __init__(self, study: StudyRecord, out: StudyFiles, axes: list[str], long_side: int):
        self._runs: dict[str, list[RunRecord]] = {}
        for run in study.runs:
            self._runs.setdefault(run.entry["cell"], []).append(run)
        self._out, self._axes, self._long_side = out, axes, long_side
        self._chars = self.count = self.left_out = 0

    def of_cell(self, cell: Row) -> dict[str, Any] | None:
        """Label and pictures of a cell's first rendered run; None without one or beyond the budget."""
        for run in self._runs[cell["cell"]]:
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


def _cell_table(cells: list[Row], axes: list[str]) -> dict[str, Any]:
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
                "registered": _registered(cell),
                "cell": cell,
                "quality": [m.parts(cell) for m in quality],
                "cost": [m.parts(cell) for m in cost],
            }
            for cell in cells
        ],
    }


def _registered(cell: Row) -> str:
    found, asked = cell["registered_mean"], cell["requested_mean"]
    return f"{float(found):g} / {float(asked):g}" if found and asked else ""


def _href(path: Path, out: StudyFiles) -> str:
    """Link from the report to a file, quoted, so that no name can be a scheme or leave the attribute."""
    return "./" + quote(os.path.relpath(path, out.root).replace(os.sep, "/"))


def _provenance(run: RunRecord, out: StudyFiles) -> dict[str, Any]:
    checkpoint = read_optional(run.files.checkpoint_manifest)
    places = {
        "run": run.files.root,
        "images.csv": run.files.images_csv,
        "config.yml": run.files.config,
        "dataset": run.dataset.root,
        "poses": run.poses.root,
    }
    return {
        "id": run.entry["id"],
        "links": [(name, _href(path, out)) for name, path in places.items() if path.exists()],
        "step": checkpoint.get("step", ""),
        "sha256": (checkpoint.get("sha256") or "")[:12],
    }


def _flat(versions: Any, prefix: str = "") -> list[tuple[str, str]]:
    if not isinstance(versions, dict):
        return [(prefix, str(versions))]
    return [
        pair for key, value in versions.items() for pair in _flat(value, f"{prefix} {key}".replace("_", " ").strip())
    ]


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Coordinates and curves need no spaces; hundreds of runs make the difference of megabytes.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    return environment
