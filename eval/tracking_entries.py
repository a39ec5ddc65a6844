"""What a study has for the tracking store: an entry per finished run and per cell, read from its files alone.

A param is named like its key in the config: the overrides by their dotted names, the axes in the singular as in the
tables, the scene's keys under ``scene.``. A metric is named like its column of ``runs.csv``, with ``/`` for ``:``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.tracking_files import read_rows
from fieldbook import documents
from fieldbook.documents import read_document
from fieldbook.errors import UserError
from fieldbook.files import inside, sha256_file
from fieldbook.layout import RunFiles, StudyFiles, ledger_path
from fieldbook.status import INFEASIBLE, OK

RUN, CELL = "run", "cell"
AXES = (
    *("scene", "count", "subset_draw", "policy", "mapper", "sfm_mask", "sfm_seed", "mask"),
    *("method", "preset", "variant", "seed", "repeat"),
)
OF_THE_RUN = ("seed", "repeat")  # what the runs of one cell differ in
_SETTINGS = ("long_side", "device", "torch_threads", "metrics", "weights")
_WORDS = {"run", "cell", *AXES, "state", "stage", "reason", "commit", "lpips", "geometry", "dir"}
_WITH_INTERVALS = ("_float", "_uint8", "_world", "_scene", "fscore", "normal_consistency")
_INTERVALS = tuple(f"{name}_{end}" for name in _WITH_INTERVALS for end in ("lo95", "hi95"))
_COUNTS = ("n_runs", "planned", "infeasible", "missing")


@dataclass(frozen=True)
class Entry:
    """One run of the tracking store, as it should be.

    Attributes:
        kind: ``run`` or ``cell``.
        key: The run's id, or the cell's; what becomes of either later keeps it.
        cell: Id of the cell.
        name: For people.
        params: Flat, as text.
        metrics: Means and costs.
        tags: Facts that are no settings.
        content: SHA-256 of what the entry is made from.
        started: Unix time in s; None where no ledger says it.
        ended: The same.
        step: Training step that the metrics belong to.
        files: The run's folder; None of a cell, and of a run that has no results.
    """

    kind: str
    key: str
    cell: str
    name: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    content: str
    started: float | None = None
    ended: float | None = None
    step: int = 0
    files: RunFiles | None = None

    @property
    def config(self) -> str:
        """SHA-256 of the params."""
        return _hash(self.params)

    @property
    def slot(self) -> tuple[str, ...]:
        """Equal for the runs, or cells, of which a changed override makes one follow the other."""
        return slot(self.params)


@dataclass(frozen=True)
class Plan:
    """What a study has, and everything that it will have.

    Attributes:
        cells: Those of which a run is there.
        runs: Those that are finished or infeasible.
        keys: Kind and key of every planned run and cell.
        waiting: How many planned runs are not there yet.
    """

    cells: list[Entry]
    runs: list[Entry]
    keys: set[tuple[str, str]]
    waiting: int


def slot(params: dict[str, str]) -> tuple[str, ...]:
    """The axes of an entry's params, the variant without the hash of its overrides."""
    values = params | {"variant": params.get("variant", "").rpartition("-")[0]}
    return tuple(values.get(axis, "") for axis in AXES)


def read_plan(study: StudyFiles) -> Plan:
    """Read ``study.json``, the tables, and what the runs left beside them.

    Raises:
        UserError: The study has no tables yet, or a file is damaged.
    """
    if not (study.resolved.exists() and study.runs_csv.exists() and study.cells_csv.exists()):
        raise UserError(f"{study.root} has no tables yet; run `fieldbook tables` for this study first")
    content = read_document(study.resolved, documents.STUDY)
    rows = {row["run"]: row for row in read_rows(study.runs_csv, ("run", "state", "stage", "reason"))}
    runs = [
        _run_entry(study, content, entry, rows[entry["id"]])
        for entry in content["runs"]
        if rows.get(entry["id"], {}).get("state") in (OK, INFEASIBLE)
    ]
    cells = [
        _cell_entry(content["study"], row, runs_of_cell)
        for row in read_rows(study.cells_csv, ("cell",))
        if (runs_of_cell := [r for r in runs if r.cell == row["cell"]])
    ]
    if lost := {run.cell for run in runs} - {cell.key for cell in cells}:
        raise UserError(f"{study.cells_csv} lacks the cell {min(lost)}; make it again with `fieldbook tables`")
    keys = {(kind, e[name]) for e in content["runs"] for kind, name in ((RUN, "id"), (CELL, "cell"))}
    return Plan(cells, runs, keys, len(content["runs"]) - len(runs))


def _run_entry(study: StudyFiles, content: dict[str, Any], entry: dict[str, Any], row: dict[str, str]) -> Entry:
    files, ok = RunFiles(inside(study.root.parent, entry["dir"])), row["state"] == OK
    # What the run was trained with is in its own folder; the study's keys may have changed since.
    made = read_document(files.run, documents.RUN) if ok and files.run.exists() else {}
    params = _params(content, entry | made.get("spec", {}))
    tags = {
        "study": content["study"],
        **{key: row.get(key, "") for key in ("state", "stage", "reason", "lpips")},
        "commit": made.get("versions", {}).get("commit", ""),
        "lock_sha256": made.get("lock_sha256", ""),
        "device_name": made.get("device", ""),
        "folder": files.root.resolve().as_posix(),
    }
    if not ok:
        tags["mlflow.note.content"] = f"Infeasible ({row['stage']}): {row['reason']}"
    parts = (files.run, files.checkpoint_manifest, files.train_log, files.images_csv, files.mesh_info, files.geometry)
    parts = parts if ok else ()
    hashes = {path.name: sha256_file(path) for path in parts if path.exists()}
    state = {key: row[key] for key in ("state", "stage", "reason")}
    started, ended = _times(files, inside(study.root.parent, entry["poses_dir"]))
    return Entry(
        kind=RUN,
        key=entry["id"],
        cell=entry["cell"],
        name=f"{entry['cell']}-seed{entry['seed']}-rep{entry['repeat']}",
        params=params,
        metrics=_numbers(row.items()),
        tags={key: value for key, value in tags.items() if value},
        content=_hash({"params": params, "files": hashes} | state),
        started=started,
        ended=ended,
        step=0 if math.isnan(step := _number(row.get("step", ""))) else int(step),
        files=files if ok else None,
    )


def _cell_entry(study: str, row: dict[str, str], runs: list[Entry]) -> Entry:
    params = {key: value for key, value in runs[0].params.items() if key not in OF_THE_RUN}
    means = _numbers((name.removesuffix("_mean"), value) for name, value in row.items() if name.endswith("_mean"))
    others = _numbers((k, v) for k, v in row.items() if k in _COUNTS or k.endswith(_INTERVALS))
    metrics = means | others
    return Entry(
        kind=CELL,
        key=row["cell"],
        cell=row["cell"],
        name=row["cell"],
        params=params,
        metrics=metrics,
        tags={"study": study},
        content=_hash(metrics),
        started=min((r.started for r in runs if r.started is not None), default=None),
        ended=max((r.ended for r in runs if r.ended is not None), default=None),
    )


def _params(content: dict[str, Any], entry: dict[str, Any]) -> dict[str, str]:
    config, scene = content.get("config", {}), content.get("scenes", {}).get(entry["scene"], {})
    values = dict(flat(entry.get("resolved", entry.get("overrides", {}))))
    values |= {axis: entry.get(axis, "") for axis in AXES}
    values |= {key: entry.get(key, config.get(key)) for key in _SETTINGS if key in entry or key in config}
    values |= dict(flat(scene, "scene.")) | dict(flat(content.get("paths", {}), "cones."))
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for key, value in values.items()
    }


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values of nested mappings; a list is one value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _numbers(cells: Iterable[tuple[str, str]]) -> dict[str, float]:
    present = {name.replace(":", "/"): value for name, value in cells if name not in _WORDS}
    return {name: number for name, value in present.items() if not math.isnan(number := _number(value))}


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:  # an empty cell, or a word
        return math.nan


def _times(files: RunFiles, poses: Path) -> tuple[float | None, float | None]:
    """When the first and the last stage of a run's own began and ended; of its poses where it has none."""
    paths = [ledger_path(files.root, stage) for stage in ("train", "render", "score", "mesh", "geometry")]
    own = [path for path in paths if path.exists()]
    shared = [path for path in [ledger_path(poses, "poses")] if path.exists()]
    ledgers = [read_document(path, documents.LEDGER) for path in own or shared]
    starts = [x["started_unix_s"] for x in ledgers]
    ends = [x["started_unix_s"] + x["wall_s"] for x in ledgers]
    return min(starts, default=None), max(ends, default=None)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
