"""The report of a study: one HTML file that opens offline and loads nothing."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml
from plotly.offline import get_plotlyjs

from fieldbook.files import write_text
from fieldbook.layout import StudyFiles
from fieldbook.status import OK
from reports.cell_table import cell_table, dropped_frames, lpips_note
from reports.costs import cost_table
from reports.facts import has_own_world, headline, poses_are_given, scene_facts
from reports.figures import MAX_COST_BARS, Figure, cost_bars, frame_curve
from reports.gallery import Gallery, page_size
from reports.log import append_log_entry
from reports.pictures import ERROR_CSS, ERROR_GAIN
from reports.provenance import href, run_provenance, version_facts
from reports.ranking import ranking_words, single_run_note, sorted_cells
from reports.records import StudyRecord, load_study
from reports.space import scene_figure
from reports.tables import read_tables
from reports.text import QUALITY, label, present, shown_axes

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
    ok = {r["run"] for r in runs if r["state"] == OK}
    gallery = Gallery([r for r in study.runs if r.entry["id"] in ok], out, axes, page_size(cells))
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
                "table": cell_table(own_cells, axes),
                "ranking": ranking_words(own_cells),
                "single_runs": single_run_note(own_cells),
                "dropped": dropped_frames([r for r in study.runs if r.entry["scene"] == name], axes),
                "facts": scene_facts(study.results.scene(name)),
                "pictures": [g for c in own_cells if (g := gallery.of_cell(c))],
            }
        )
    return {
        "study": study.name,
        "headline": headline(runs, cells),
        "scenes": scenes,
        "figures": figures,
        "given": [name for name in study.scenes if poses_are_given(study.results.scene(name))],
        "own_world": [name for name in study.scenes if has_own_world(study.results.scene(name))],
        "policies": sorted({c["policy"] for c in cells}),
        "infeasible": [c for c in cells if c["infeasible"] != "0"],
        "unfinished": [r for r in runs if r["state"] == "missing"],
        "axes": axes,
        "label": label,
        "costs": cost_table(study, out),
        "max_cost_bars": MAX_COST_BARS,
        "picture_count": gallery.count,
        "pictures_left_out": gallery.left_out,
        "error_css": ERROR_CSS,
        "error_gain": ERROR_GAIN,
        "lpips": lpips_note(runs),
        "versions": version_facts(study),
        "config": yaml.safe_dump(study.content.get("config", {}), sort_keys=False, allow_unicode=True),
        "tables": [(p.name, href(p, out)) for p in (out.images_csv, out.runs_csv, out.cells_csv, out.resolved)],
        "provenance": [run_provenance(run, out, run.entry["id"] in ok) for run in study.runs],
    }


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
