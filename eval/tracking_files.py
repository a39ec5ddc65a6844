"""Curves, tables and pictures that a run left in its folder, as the tracking store takes them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldbook.files import read_json
from fieldbook.layout import RunFiles, ledger_path


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
    rows, ledger = read_rows(files.train_log), ledger_path(files.root, "train")
    if not rows:
        return []
    times = read_json(ledger) if ledger.exists() else {"started_unix_s": 0.0, "wall_s": 0.0}
    begin = times["started_unix_s"] + times["wall_s"] - float(rows[-1]["seconds"])
    return [
        Point(f"train/{name}", float(value), int(row["step"]), begin + float(row["seconds"]))
        for row in rows
        for name, value in row.items()
        if name not in ("step", "seconds") and value
    ]


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
    for row in read_rows(files.images_csv):
        names.setdefault(row["split"], {})[row["view"]] = None
    for split, views in names.items():
        folder, ordered = files.test if split == "test" else files.path(split), sorted(views)
        spread = {round(k * (len(ordered) - 1) / max(most - 1, 1)) for k in range(most)}
        for view in (ordered[k] for k in sorted(spread)):
            if (path := folder / f"{view}.png").exists():
                yield f"{split}/{view}", path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
