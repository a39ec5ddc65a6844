"""One run's row of ``runs.csv``: how it ended, what it scored, what it cost."""

from __future__ import annotations

import statistics
from typing import Any

from eval.protocol import MASKED_COLUMNS, METRIC_COLUMNS
from eval.statistics import run_means
from fieldbook.documents import MANIFEST
from fieldbook.status import OK
from reports.pose_numbers import pose_numbers
from reports.records import (
    SURFACE_STAGES,
    Outcome,
    RunRecord,
    mean,
    number,
    optional_status,
    read_csv,
    read_ledgers,
    read_optional,
)
from reports.versions import run_versions

METRICS = (*METRIC_COLUMNS, *MASKED_COLUMNS)


def run_row(run: RunRecord, end: Outcome, images: list[dict[str, str]]) -> dict[str, Any]:
    """One row of ``runs.csv``: means over the images of the last step that was scored.

    Args:
        run: The run.
        end: How it ended; only a run that is ok has speeds and metrics.
        images: Rows of its ``images.csv``.
    """
    row = run.identity | {
        "state": end.state,
        "stage": end.stage,
        "reason": end.reason,
        "dir": run.entry["dir"],
    }
    row |= pose_numbers(run) | _cost_numbers(run) | {"commit": run_versions(run).get("commit", "")}
    if end.state != OK:
        return row
    last = _last_step(images)
    test = [r for r in last if r["split"] == "test"]
    novel = [r for r in last if r["split"] != "test"]
    row |= _metric_means(test, novel) | _image_numbers(test, novel) | _training_numbers(run) | _lpips(run)
    return row | (_surface_numbers(run) if run.has_surface else {})


def metric_column(group: str, metric: str) -> str:
    """Column of a metric's mean over ``test``, ``novel`` or ``cone:<path>`` views."""
    return f"{group}:{metric}" if group.startswith("cone:") else f"{group}_{metric}"


def _metric_means(test: list[dict[str, str]], novel: list[dict[str, str]]) -> dict[str, float | None]:
    """Means over the views that have a true image: of the test, of each path, and of all paths together."""
    groups = [r | {"split": "test"} for r in test]
    groups += [r | {"split": split} for r in novel for split in ("novel", f"cone:{r['split']}")]
    means = run_means([r for r in groups if r["has_truth"] == "1"], METRICS)
    return {metric_column(group, m): value.mean for group, part in means.items() for m, value in part.items()}


def _last_step(images: list[dict[str, str]]) -> list[dict[str, str]]:
    last = max((number(r, "step") or 0 for r in images), default=0)
    return [r for r in images if (number(r, "step") or 0) == last]


def _cost_numbers(run: RunRecord) -> dict[str, Any]:
    ledgers = read_ledgers(run)
    row: dict[str, Any] = {f"wall_s:{stage}": ledger["wall_s"] for stage, ledger in ledgers.items()}
    row |= {f"cpu_s:{stage}": ledger["cpu_s"] for stage, ledger in ledgers.items()}
    for column in ("peak_rss_bytes", "peak_gpu_bytes"):
        row[column] = max((v for x in ledgers.values() if (v := x.get(column)) is not None), default=None)
    return row


def _training_numbers(run: RunRecord) -> dict[str, Any]:
    speeds = [v for r in read_csv(run.files.train_log) if (v := number(r, "rays_per_s")) is not None]
    # The first logged steps pay for warm-up and compilation; the median does not mind them.
    speed = statistics.median(speeds) if speeds else None
    return {"train_rays_per_s": speed, "step": read_optional(run.files.checkpoint_manifest, MANIFEST).get("step")}


def _lpips(run: RunRecord) -> dict[str, str]:
    """What the scoring says became of LPIPS."""
    status = optional_status(run.files.root, "score")
    return {"lpips": str(status.numbers.get("lpips", "")) if status else ""}


def _surface_numbers(run: RunRecord) -> dict[str, Any]:
    """What is known of the run's mesh; ``geometry`` says ``available``, or what there is not and why."""
    row: dict[str, Any] = {}
    for stage in SURFACE_STAGES:
        status = optional_status(run.files.root, stage)
        if status is None:
            return row | {"geometry": f"not finished: no result of the stage {stage!r} yet"}
        if not status.ok:
            return row | {"geometry": status.reason}
        names = {f"mesh_{name}": name for name in status.numbers} if stage == "mesh" else {n: n for n in status.numbers}
        row |= {column: _as_number(status.numbers[name]) for column, name in names.items()}
    return row


def _as_number(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _image_numbers(test: list[dict[str, str]], novel: list[dict[str, str]]) -> dict[str, Any]:
    seconds, rays = (sum(number(r, c) or 0 for r in test + novel) for c in ("seconds", "rays"))
    return {
        "test_views": len(test),
        "novel_views": len(novel),
        "test_nearest_angle_deg": mean([number(r, "nearest_angle_deg") for r in test]),
        "novel_nearest_angle_deg": mean([number(r, "nearest_angle_deg") for r in novel]),
        "seconds_per_test_view": mean([number(r, "seconds") for r in test]),
        "seconds_per_novel_view": mean([number(r, "seconds") for r in novel]),
        "render_rays_per_s": rays / seconds if seconds else None,
    }
