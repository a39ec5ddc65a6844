"""The tables of a study: every image, every run, every cell.

Images of one video are not independent samples: a run's images are averaged first, runs are compared after.
An infeasible or unfinished run keeps its row, with the reason.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eval.geometry_columns import MESH_COLUMNS, geometry_columns
from eval.statistics import summarise
from fieldbook.errors import UserError
from fieldbook.files import write_text
from fieldbook.layout import StudyFiles
from fieldbook.status import INFEASIBLE, OK
from reports.pose_numbers import POSE_COLUMNS
from reports.records import (
    CELL_COLUMNS,
    IDENTITY_COLUMNS,
    MISSING,
    RUN_STAGES,
    SURFACE_STAGES,
    StudyRecord,
    load_study,
    mean,
    number,
    outcome,
    read_csv,
)
from reports.run_rows import METRICS, metric_column, run_row

IMAGE_NEEDS = ("split", "view", "step", "has_truth")
"""Columns without which the rows of ``images.csv`` say nothing."""
_NOVELTY_COLUMNS = ("test_nearest_angle_deg", "novel_nearest_angle_deg")
_SPEED_COLUMNS = (
    "train_rays_per_s",
    "render_rays_per_s",
    "seconds_per_test_view",
    "seconds_per_novel_view",
)


def value_columns(study: StudyRecord) -> tuple[str, ...]:
    """Columns of ``runs.csv`` that ``cells.csv`` averages over runs, in their order."""
    groups = ("test", "novel", *(f"cone:{name}" for name in study.paths))
    metrics = tuple(metric_column(group, metric) for group in groups for metric in METRICS)
    surface = (*geometry_columns(study.thresholds), *MESH_COLUMNS) if study.surfaces else ()
    stages = (*RUN_STAGES, *SURFACE_STAGES) if study.surfaces else RUN_STAGES
    costs = (
        *(f"{kind}:{stage}" for kind in ("wall_s", "cpu_s") for stage in stages),
        "peak_rss_bytes",
        "peak_gpu_bytes",
    )
    return metrics + surface + _NOVELTY_COLUMNS + _SPEED_COLUMNS + costs


def run_columns(study: StudyRecord) -> tuple[str, ...]:
    """Header of ``runs.csv``."""
    head = (
        *IDENTITY_COLUMNS,
        "state",
        "stage",
        "reason",
        "commit",
        "lpips",
        *(["geometry"] if study.surfaces else []),
        *POSE_COLUMNS,
    )
    return (*head, "step", "test_views", "novel_views", *value_columns(study), "dir")


def cell_columns(study: StudyRecord) -> tuple[str, ...]:
    """Header of ``cells.csv``: identity, counts, then mean, 95 % interval and number of runs per value."""
    head = (*CELL_COLUMNS, "n_runs", "planned", "complete", "infeasible", "missing", "stage", "reason")
    poses = tuple(f"{c}_mean" for c in POSE_COLUMNS)
    parts = ("mean", "lo95", "hi95", "n")
    return (*head, *poses, *(f"{c}_{part}" for c in value_columns(study) for part in parts))


def make_tables(results: Path, study_json: Path, out: StudyFiles) -> dict[str, Any]:
    """Write ``images.csv``, ``runs.csv`` and ``cells.csv`` of a study.

    Args:
        results: Root of everything Fieldbook writes.
        study_json: The resolved study; every run in it gets a row, whatever became of it.
        out: Where the tables go.

    Returns:
        Counts of runs and cells for the status.

    Raises:
        UserError: ``study_json`` is missing or is not JSON.
    """
    study = load_study(results, study_json)
    ends = {run.entry["id"]: outcome(run) for run in study.runs}
    images = {
        run.entry["id"]: read_csv(run.files.images_csv, IMAGE_NEEDS) if ends[run.entry["id"]].state == OK else []
        for run in study.runs
    }
    runs = [run_row(run, ends[run.entry["id"]], images[run.entry["id"]]) for run in study.runs]
    cells = cell_rows(runs, value_columns(study))
    _write_csv(out.images_csv, *_image_table(study, images))
    _write_csv(out.runs_csv, run_columns(study), runs)
    _write_csv(out.cells_csv, cell_columns(study), cells)
    states = [row["state"] for row in runs]
    counts = {state: states.count(state) for state in (OK, INFEASIBLE, MISSING)}
    return {
        "runs": len(runs),
        **counts,
        "cells": len(cells),
        "complete_cells": sum(c["complete"] for c in cells),
    }


def cell_rows(runs: list[dict[str, Any]], values: Iterable[str]) -> list[dict[str, Any]]:
    """Rows of ``cells.csv``, in the order in which the cells first appear among ``runs``."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for row in runs:
        cells.setdefault(row["cell"], []).append(row)
    values = tuple(values)
    return [_cell_row(rows, values) for rows in cells.values()]


def _cell_row(rows: list[dict[str, Any]], values: Sequence[str]) -> dict[str, Any]:
    finished = [r for r in rows if r["state"] == OK]
    failed = [r for r in rows if r["state"] == INFEASIBLE]
    row = {column: rows[0][column] for column in CELL_COLUMNS} | {
        "n_runs": len(finished),
        "planned": len(rows),
        "complete": int(len(finished) == len(rows)),
        "infeasible": len(failed),
        "missing": len(rows) - len(finished) - len(failed),
        "stage": "; ".join(dict.fromkeys(r["stage"] for r in failed)),
        "reason": "; ".join(dict.fromkeys(r["reason"] for r in failed)),
    }
    row |= {f"{c}_mean": mean([number(r, c) for r in rows]) for c in POSE_COLUMNS}
    for column in values:
        row |= _summary(column, finished, len(rows))
    return row


def _summary(column: str, rows: list[dict[str, Any]], planned: int) -> dict[str, Any]:
    if column.endswith((":poses", ":dataset")):  # one job for all runs of the cell: one measurement
        rows, planned = rows[:1], min(planned, 1)
    summary = summarise([number(r, column) for r in rows], planned)
    parts = {"mean": summary.mean, "lo95": summary.low, "hi95": summary.high, "n": summary.count}
    return {f"{column}_{part}": value for part, value in parts.items()}


def _image_table(
    study: StudyRecord, images: dict[str, list[dict[str, str]]]
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    own = dict.fromkeys(column for rows in images.values() for row in rows[:1] for column in row)
    columns = (*IDENTITY_COLUMNS, *(c for c in own if c not in IDENTITY_COLUMNS))
    return columns, [row | run.identity for run in study.runs for row in images[run.entry["id"]]]


def _write_csv(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def read_tables(out: StudyFiles) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of ``runs.csv`` and ``cells.csv``, as text.

    Raises:
        UserError: The tables are not there yet.
    """
    if not (out.runs_csv.exists() and out.cells_csv.exists()):
        raise UserError(f"{out.root} has no tables yet; run `fieldbook tables` for this study first")
    return read_csv(out.runs_csv, (*IDENTITY_COLUMNS, "state")), read_csv(out.cells_csv, (*CELL_COLUMNS, "n_runs"))
