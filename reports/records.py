"""What a study's runs left on disk, read without judging it: statuses, poses, ledgers and tables."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.geometry_columns import DEFAULT_THRESHOLDS
from fieldbook.documents import LEDGER, STUDY, Document, check_document, read_document
from fieldbook.errors import UserError
from fieldbook.files import inside, read_json, read_text
from fieldbook.layout import DatasetFiles, PoseFiles, Results, RunFiles, SceneFiles, ledger_path, status_path
from fieldbook.status import OK, Status, read_status
from methods.presets import gives_mesh

MISSING = "missing"
NO_MASK = "none"
SCENE_STAGES = ("capture", "frames", "reference", "splits", "scene_frame")
RUN_STAGES = ("poses", "dataset", "train", "render", "score")
SURFACE_STAGES = ("mesh", "geometry")
"""Of runs whose method has a surface; how they end does not decide whether the run is ok."""
# Identity columns of every table, in this order; "run" is the run's id.
CELL_COLUMNS = (
    "cell",
    "scene",
    "count",
    "subset_draw",
    "policy",
    "mapper",
    "sfm_mask",
    "sfm_seed",
    "mask",
    "method",
    "preset",
    "variant",
)
IDENTITY_COLUMNS = ("run", *CELL_COLUMNS, "seed", "repeat")


@dataclass(frozen=True)
class RunRecord:
    """One run of ``study.json`` with the folders of everything it rests on.

    Attributes:
        scene_stages: Stages of the scene that this run uses; the folder may hold those of other studies too.
    """

    entry: dict[str, Any]
    files: RunFiles
    dataset: DatasetFiles
    poses: PoseFiles
    scene: SceneFiles
    scene_stages: tuple[str, ...]

    @property
    def identity(self) -> dict[str, Any]:
        """Values of ``IDENTITY_COLUMNS``."""
        return {"run": self.entry["id"]} | {k: self.entry.get(k, "") for k in IDENTITY_COLUMNS[1:]}

    @property
    def has_surface(self) -> bool:
        """Whether a mesh is taken of it, or was."""
        return gives_mesh(self.entry) or self.files.status("mesh").exists()

    def stage_folder(self, stage: str) -> Path:
        """Folder that holds the status and the ledger of a stage."""
        return {"poses": self.poses.root, "dataset": self.dataset.root}.get(stage, self.files.root)


@dataclass(frozen=True)
class StudyRecord:
    """``study.json``, its runs in order, and the root they lie under."""

    results: Results
    content: dict[str, Any]
    runs: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.content["study"]

    @property
    def scenes(self) -> list[str]:
        """Scene names in the config's order."""
        named = list(self.content.get("scenes", {}))
        return named + sorted({r.entry["scene"] for r in self.runs} - set(named))

    @property
    def surfaces(self) -> bool:
        """Whether a mesh is taken of any run."""
        return any(run.has_surface for run in self.runs)

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of the F-scores of meshes."""
        return tuple(self.content.get("config", {}).get("geometry", {}).get("thresholds", DEFAULT_THRESHOLDS))

    @property
    def paths(self) -> list[str]:
        """Names of the novel-view paths in the config's order."""
        return list(self.content.get("paths", {}))


@dataclass(frozen=True)
class Outcome:
    """How far a run got: ``ok``, ``infeasible`` or ``missing`` (not finished), and who said so."""

    state: str
    stage: str = ""
    reason: str = ""


def load_study(results: Path, study_json: Path) -> StudyRecord:
    """Read ``study.json`` and locate its runs below ``results``.

    Raises:
        UserError: ``study_json`` is missing or damaged, or names a folder outside ``results``.
    """
    content = read_json(study_json)
    check_document(content, str(study_json), STUDY)
    root = Results(results)
    runs = tuple(
        RunRecord(
            entry,
            RunFiles(inside(results, entry["dir"])),
            DatasetFiles(inside(results, entry["dataset_dir"])),
            PoseFiles(inside(results, entry["poses_dir"])),
            root.scene(entry["scene"]),
            _scene_stages(entry, content.get("config", {}).get("long_side", 0)),
        )
        for entry in content["runs"]
    )
    return StudyRecord(root, content, runs)


def _scene_stages(entry: dict[str, Any], long_side: int) -> tuple[str, ...]:
    mask, sfm_mask = (entry.get(axis, NO_MASK) for axis in ("mask", "sfm_mask"))
    sources = (f"mask-{name}" for name in dict.fromkeys((mask, sfm_mask)) if name != NO_MASK)
    scaled = (f"images-{long_side}", *(() if mask == NO_MASK else (f"scaled-{mask}-{long_side}",)))
    return (*SCENE_STAGES, *sources, *scaled)


def outcome(run: RunRecord) -> Outcome:
    """State of a run: infeasible by the first stage that says so, ok once every stage is, else missing.

    Files of an earlier, successful training may still lie in the folder of a run that is not ok.
    """
    scene = _statuses((stage, run.scene.root) for stage in run.scene_stages)
    own = _statuses((stage, run.stage_folder(stage)) for stage in RUN_STAGES)
    for status in (*scene.values(), *own.values()):
        if not status.ok:
            return Outcome(status.state, status.stage, status.reason)
    waiting = next((s for s in RUN_STAGES if s not in own), None)
    if waiting is None:
        return Outcome(OK)
    return Outcome(MISSING, waiting, f"not finished: no result of the stage {waiting!r} yet")


def _statuses(stages: Iterable[tuple[str, Path]]) -> dict[str, Status]:
    found = {stage: optional_status(folder, stage) for stage, folder in stages}
    return {stage: status for stage, status in found.items() if status}


def optional_status(folder: Path, stage: str) -> Status | None:
    """How a stage ended, or None before it has."""
    path = status_path(folder, stage)
    return read_status(path) if path.exists() else None


def read_optional(path: Path, kind: Document) -> dict[str, Any]:
    """A JSON object of a kind, or an empty one where the file is not there yet."""
    return read_document(path, kind) if path.exists() else {}


def read_ledgers(run: RunRecord) -> dict[str, dict[str, Any]]:
    """Ledgers of a run's stages, by stage; stages without one are left out."""
    stages = (*RUN_STAGES, *SURFACE_STAGES)
    found = {s: read_optional(ledger_path(run.stage_folder(s), s), LEDGER) for s in stages}
    return {stage: ledger for stage, ledger in found.items() if ledger}


def read_csv(path: Path, needs: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV file with a header, as text; no rows where the file is not there yet.

    Args:
        path: The file.
        needs: Columns that must be there.

    Raises:
        UserError: It is not a table in text, or lacks a column.
    """
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error}; make it again") from None
    lacking = [column for column in needs if column not in (reader.fieldnames or ())]
    if lacking:
        raise UserError(f"{path} has no column {lacking[0]!r}; make it again")
    if any(None in row or None in row.values() for row in rows):  # where csv puts what is too much or too little
        raise UserError(f"{path} has rows of different lengths; make it again")
    return rows


def number(row: dict[str, Any], column: str) -> float | None:
    """A row's value as float, or None where the cell is empty, absent or NaN.

    Raises:
        UserError: It is something else.
    """
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        found = float(value)
    except ValueError:
        raise UserError(f"the column {column} of a table has {value!r}, not a number; make the table again") from None
    return None if math.isnan(found) else found


def mean(values: list[float | None]) -> float | None:
    """Mean of the values that are there, or None without any."""
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else None
