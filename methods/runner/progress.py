"""What a person sees while a run trains, and ``train.csv``."""

from __future__ import annotations

import csv
import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from fieldbook.files import atomic_path

log = logging.getLogger(__name__)

COLUMNS = ("step", "loss", "lr", "rays_per_s", "seconds")
LINE_EVERY_S = 10.0


class TrainLog:
    """Rows of ``train.csv``; written as a whole, so that a killed run leaves the last good one."""

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Add a row with the columns of ``COLUMNS``."""
        self.rows.append({name: row[name] for name in COLUMNS})

    def write(self) -> None:
        """Write all rows atomically."""
        with atomic_path(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
            writer: csv.DictWriter[str] = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


class Progress:
    """A bar on a terminal; elsewhere (a rule's log) one line now and then. Writes to stderr only."""

    def __init__(self, label: str, total: int, unit: str = "step", done: int = 0):
        self.label, self.total, self.done, self.before = label, total, done, done
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=label, unit=unit, file=sys.stderr) if terminal else None
        self.started = self.said = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, done: int, **facts: float) -> None:
        """Say that ``done`` of the total are done; ``facts`` (loss, rays/s) stand beside the bar."""
        step, self.done = done - self.done, done
        if self.bar is not None:
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in facts.items()}, refresh=False)
            self.bar.update(step)
        elif time.monotonic() - self.said >= LINE_EVERY_S:
            self.said = time.monotonic()
            left = (self.said - self.started) / max(done - self.before, 1) * (self.total - done)
            text = ", ".join(f"{k} {v:.4g}" for k, v in facts.items())
            log.info("%s: %d of %d, %s, %.0f s left", self.label, done, self.total, text, left)
