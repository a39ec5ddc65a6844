"""Where a report's numbers come from: files and versions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fieldbook.documents import MANIFEST
from fieldbook.layout import StudyFiles
from reports.records import RunRecord, StudyRecord, read_optional
from reports.text import NONE, plural
from reports.versions import commits, differing, mixed_note, version_sets


def href(path: Path, out: StudyFiles) -> str:
    """Link from the report to a file, quoted, so that no name can be a scheme or leave the attribute."""
    return "./" + quote(os.path.relpath(path, out.root).replace(os.sep, "/"))


def run_provenance(run: RunRecord, out: StudyFiles, ok: bool) -> dict[str, Any]:
    """Links to a run's files and its checkpoint; of a run that is not ok no results, they may be older ones."""
    checkpoint = read_optional(run.files.checkpoint_manifest, MANIFEST) if ok else {}
    results = (
        {"images.csv": run.files.images_csv, "config.yml": run.files.config, "mesh.glb": run.files.mesh_glb}
        if ok
        else {}
    )
    places = {
        "run": run.files.root,
        **results,
        "dataset": run.dataset.root,
        "poses": run.poses.root,
    }
    return {
        "id": run.entry["id"],
        "links": [(name, href(path, out)) for name, path in places.items() if path.exists()],
        "step": "" if checkpoint.get("step") is None else checkpoint["step"],  # commands of the user's count none
        "sha256": (checkpoint.get("sha256") or "")[:12],
    }


def version_facts(study: StudyRecord) -> dict[str, Any]:
    """What the runs were made with, one column per distinct combination, and the tables after them.

    Returns:
        ``commits`` of the runs, ``note`` where they differ, ``headings`` and ``rows`` ``(name, differs, values)``.
    """
    sets = version_sets(study.runs)
    tables = {name: str(value) for name, value in study.content.get("versions", {}).items()}
    columns = [s.versions for s in sets] + [tables]
    names = dict.fromkeys(name for column in columns for name in column)
    odd = differing(sets)
    return {
        "commits": commits(sets),
        "note": mixed_note(sets),
        "headings": [plural(s.runs, "run") for s in sets] + ["These tables"],
        "rows": [(name, name in odd, [column.get(name, NONE) for column in columns]) for name in names],
    }
