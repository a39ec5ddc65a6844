"""What the stages of a study cost, stage by stage."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fieldbook.documents import LEDGER
from fieldbook.layout import StudyFiles, ledger_path
from reports.records import RUN_STAGES, SCENE_STAGES, SURFACE_STAGES, StudyRecord, read_optional
from reports.text import gibibytes


def cost_table(study: StudyRecord, out: StudyFiles) -> list[dict[str, str]]:
    """One row per stage over all jobs of the study, shared ones counted once; in the order they first ran."""
    found = (read_optional(path, LEDGER) for path in dict.fromkeys(_ledger_paths(study, out)))
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for ledger in sorted(filter(None, found), key=lambda x: x.get("started_unix_s", 0)):
        by_stage.setdefault(ledger["stage"], []).append(ledger)
    return [_cost_row(stage, ledgers) for stage, ledgers in by_stage.items()]


def _ledger_paths(study: StudyRecord, out: StudyFiles) -> Iterator[Path]:
    """Ledgers of the stages that this study uses: a scene's folder holds those of other studies too."""
    for scene in study.scenes:
        yield from (ledger_path(study.results.scene(scene).root, stage) for stage in SCENE_STAGES)
        yield from (ledger_path(out.path(scene, path).root, "path") for path in study.paths)
    for run in study.runs:
        yield from (ledger_path(run.scene.root, stage) for stage in run.scene_stages)
        yield from (ledger_path(run.stage_folder(stage), stage) for stage in (*RUN_STAGES, *SURFACE_STAGES))


def _cost_row(stage: str, ledgers: list[dict[str, Any]]) -> dict[str, str]:
    wall = [x["wall_s"] for x in ledgers]
    gpu = [v for x in ledgers if (v := x.get("peak_gpu_bytes")) is not None]
    return {
        "stage": stage,
        "jobs": str(len(ledgers)),
        "total": f"{sum(wall):.1f}",
        "median": f"{statistics.median(wall):.1f}",
        "longest": f"{max(wall):.1f}",
        "cpu": f"{sum(x['cpu_s'] for x in ledgers):.1f}",
        "memory": gibibytes(max(x["peak_rss_bytes"] for x in ledgers)),
        "gpu": gibibytes(max(gpu, default=None)),
    }
