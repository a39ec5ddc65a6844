"""Curves, tables and pictures that a run left in its folder, as the tracking store takes them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldbook.documents import LEDGER, read_document
from fieldbook.errors import UserError
from fieldbook.files import read_text
from fieldbook.layout import RunFiles, ledger_path, part


@dataclass(frozen=True)
class Point:
    """One value of a curve; ``time`` is Unix time in s."""

    name: str
    value: float
    step: int
    time: float


def curves(files: RunFiles) -> list[Point]:
    """The columns of ``train.csv`` over its steps, as ``train/<column>``.

    ``train.csv`` counts seconds of all sessions of a training together; its last row stands where the training ended.
    """
    rows, ledger = read_rows(files.train_log, ("step", "seconds")), ledger_path(files.root, "train")
    if not rows:
        return []
    times = read_document(ledger, LEDGER) if ledger.exists() else {"started_unix_s": 0.0, "wall_s": 0.0}
    begin = times["started_unix_s"] + times["wall_s"]
    try:
        begin -= float(rows[-1]["seconds"])
        return [
            Point(f"train/{name}", float(value), int(row["step"]), begin + float(row["seconds"]))
            for row in rows
            for name, value in row.items()
            if name not in ("step", "seconds") and value
        ]
    except ValueError as error:
        raise UserError(f"{files.train_log} is damaged: {error}; train the run again") from None


def image_table(files: RunFiles) -> dict[str, list[Any]]:
    """The columns of ``images.csv``: numbers where every value is one, None where a cell is empty."""
    rows = read_rows(files.images_csv)
    return {name: _typed([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _typed(values: list[str]) -> list[Any]:
    for kind in (int, float):
        try:
            return [kind(v) if v else None for v in values]
        except ValueError:
            continue
    return [v or None for v in values]


def pictures(files: RunFiles, most: int) -> Iterator[tuple[str, Path]]:
    """Key and file of rendered views, at most ``most`` of each split, evenly spread over its names."""
    names: dict[str, dict[str, None]] = {}
    for row in read_rows(files.images_csv, ("split", "view")):
        names.setdefault(row["split"], {})[row["view"]] = None
    for split, views in names.items():
        folder, ordered = files.test if split == "test" else files.path(split), sorted(views)
        spread = {round(k * (len(ordered) - 1) / max(most - 1, 1)) for k in range(most)}
        for view in (ordered[k] for k in sorted(spread)):
            if (path := folder / f"{part(view)}.png").exists():
                yield f"{split}/{view}", path


def read_rows(path: Path, needs: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none where there is no file.

    Raises:
        UserError: It is not a table in text, or lacks a column.
    """
    if not path.exists():
        return []
    try:
        text = read_text(path)
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows = list(table)
    except csv.Error as error:
        raise UserError(f"{path} is not a table: {error}; {_AGAIN.get(path.name, 'make it again')}") from None
    whole = text.endswith("\n") and set(table.fieldnames or ()) >= set(needs)
    if not whole or any(None in row or None in row.values() for row in rows):
        reason = "it is cut, its rows do not fit its header, or a column is missing"
        raise UserError(f"{path} is damaged: {reason}; {_AGAIN.get(path.name, 'make it again')}")
    return rows


_AGAIN = {
    "runs.csv": "make it again with `fieldbook tables`",
    "cells.csv": "make it again with `fieldbook tables`",
    "images.csv": "make it again with `fieldbook score`",
    "train.csv": "make it again with `fieldbook train --again`",
}
