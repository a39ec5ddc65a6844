"""The stage ``sync``: what a study's files say, logged to MLflow.

Stages write files and never open MLflow; one sync at a time logs what the store does not have. The queue is the files:
whatever is not in the store yet is what the next sync logs, be it for a server that was away or a sync that was killed.

One experiment is one study. A parent run is a cell: its params are those that its runs share, its metrics their means
and 95 % intervals, so that comparing parents is comparing cells. Its child runs are the cell's runs, one per seed and
repeat, with their own metrics, training curves, table of images and pictures. An infeasible run is a run that FAILED,
with its reason; an unfinished one is not there yet.

A run of the store is never rewritten. Where a run of the study has changed, by its params or by being trained or scored
anew, a new one is logged and the old one is tagged ``superseded = yes`` and ``superseded_by``; so is one that the study
no longer plans, and ``superseded = no`` finds what is valid. A cell's metrics grow with its runs, in one parent run.
What is what is told by hashes that the store keeps as tags, so any store will do, and a copy of a results folder adds
nothing. Several people may log to one experiment: a sync touches only runs of its own results folder (tag ``origin``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from eval.tracking_connection import alone, plain_errors, tracking_uri
from eval.tracking_entries import CELL, RUN, Entry, Plan, read_plan, slot
from eval.tracking_store import Known, Store
from fieldbook.layout import Results, StudyFiles, lock_path
from fieldbook.locks import exclusive


def sync(study: StudyFiles, uri: str | None = None) -> dict[str, Any]:
    """Log what the tracking store does not have of a study.

    Args:
        study: A study with tables.
        uri: Any of MLflow's tracking URIs; None takes ``MLFLOW_TRACKING_URI``, else SQLite under the results.

    Returns:
        ``logged`` (new runs), ``updated`` (cells), ``unchanged``, ``superseded`` and ``waiting`` (planned runs that
        are not finished).

    Raises:
        UserError: The study has no tables; the store is away, or fails. What was logged before stays and is not
            logged again.
    """
    results, todo = Results(study.root.parent), f"fieldbook sync {study.root}"
    address = tracking_uri(results, uri)
    with (
        exclusive(lock_path(results.root, "sync"), f"the sync of {results.root}"),
        alone(address, todo),
        plain_errors(address, todo),
    ):
        plan = read_plan(study)
        return _Sync(plan, Store(address, results, study.root.name)).run()


class _Sync:
    def __init__(self, plan: Plan, store: Store):
        self.plan, self.store = plan, store
        self.known = store.known()
        self.counts: Counter[str] = Counter()

    def run(self) -> dict[str, Any]:
        cells = {cell.key: self._settle(cell, "") for cell in self.plan.cells}
        runs = {run.key: self._settle(run, cells[run.cell].id) for run in self.plan.runs}
        self._supersede_the_unplanned(cells, runs)
        names = ("logged", "updated", "unchanged", "superseded")
        return {name: self.counts[name] for name in names} | {"waiting": self.plan.waiting}

    def _settle(self, entry: Entry, parent: str) -> Known:
        """The store's run of an entry: the one it has, or a new one; its others are superseded."""
        same = [k for k in self.known if k.what == (entry.kind, entry.key)]
        held = next((k for k in same if _holds(k, entry)), None)
        if held is None:
            held = self.store.log(entry, parent)
            self.counts["logged"] += 1
        else:
            self._refresh(held, entry, parent)
        for other in same:
            if other.id != held.id:
                self._supersede(other, held)
        return held

    def _refresh(self, held: Known, entry: Entry, parent: str) -> None:
        # A run of old that is valid again, or of which the parent is a new one.
        wanted: dict[str, str | None] = {"superseded": "no", "superseded_by": None}
        wanted |= {"mlflow.parentRunId": parent} if parent else {}
        changed = self.store.set_tags(held, wanted)
        if held.tags["content_sha256"] != entry.content:  # a cell; a run is held by its content
            self.store.update(held, entry)
            changed = True
        self.counts["updated" if changed else "unchanged"] += 1

    def _supersede(self, old: Known, by: Known | None) -> None:
        tags: dict[str, str | None] = {"superseded": "yes"}
        tags |= {"superseded_by": by.id} if by else {}
        self.counts["superseded"] += self.store.set_tags(old, tags)

    def _supersede_the_unplanned(self, cells: dict[str, Known], runs: dict[str, Known]) -> None:
        for old in self.known:
            if old.what not in self.plan.keys:
                found = cells if old.what[0] == CELL else runs
                heirs = [k for k in found.values() if slot(k.params) == slot(old.params)]
                self._supersede(old, heirs[0] if len(heirs) == 1 else None)


def _holds(known: Known, entry: Entry) -> bool:
    if entry.kind == RUN:
        return known.tags["content_sha256"] == entry.content
    return known.tags["config_sha256"] == entry.config
