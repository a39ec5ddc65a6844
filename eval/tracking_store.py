"""The tracking store: MLflow, wherever it is, reduced to what a sync needs of it.

A run of the store is RUNNING until everything of it is logged. One that a sync of the same results folder finds RUNNING
is what a killed sync left: it is deleted and logged anew. Where the store has no locks, as a server, a copy of that
folder may be logging it just now: its runs are left alone for an hour.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from data.pictures import open_picture
from eval.tracking_connection import connect, has_locks, sqlite_file
from eval.tracking_entries import CELL, RUN, Entry
from eval.tracking_files import curves, image_table, pictures
from fieldbook.errors import UserError
from fieldbook.files import write_text
from fieldbook.layout import Results

ABANDONED_S = 3600.0  # after which nobody is at a run any more: one takes seconds, over a slow network minutes
PICTURES = 4  # of each split of a run
NOTE = "A study of Radiance Fieldbook. Parent runs are cells, child runs their seeds and repeats."


@dataclass
class Known:
    """A run that the store has.

    Attributes:
        id: MLflow's.
        tags: MLflow's own among them.
    """

    id: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def what(self) -> tuple[str, str]:
        """Kind and key, as of the entry that it was logged from."""
        kind = self.tags.get("kind", "")
        return kind, self.tags.get(kind, "")


class Store:
    """One study's experiment in a store.

    Args:
        uri: Any of MLflow's tracking URIs.
        results: The folder whose studies are logged; its store in SQLite is made if need be.
        study: Name of the study, and of the experiment.

    Raises:
        UserError: The experiment cannot be used as it is.
    """

    def __init__(self, uri: str, results: Results, study: str):
        self.client, self.alone = connect(uri, results), has_locks(uri)
        self.origin, self.place = _origin(results), f"{os.uname().nodename}:{results.root.resolve()}"
        # A server knows where its files are to be; without one MLflow would take the working directory.
        location = None if uri.startswith("http") else (results.tracking_artifacts.resolve() / study).as_uri()
        self.experiment = self._experiment(study, location, sqlite_file(uri) == results.tracking_db.resolve())

    def _experiment(self, name: str, location: str | None, own: bool) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            tags = {"mlflow.note.content": NOTE, "mlflow.experimentKind": "custom_model_development"}
            try:
                return self.client.create_experiment(name, artifact_location=location, tags=tags)
            except MlflowException:  # somebody else's sync was faster
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            way = f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
            raise UserError(f"the experiment {name!r} was deleted in the tracking store; {way} brings it back")
        if own and found.artifact_location != location:
            raise UserError(
                f"the results folder was moved: its tracking store keeps files in {found.artifact_location}; remove "
                "mlflow.db and mlartifacts from it and sync again, everything comes from the studies' files"
            )
        return found.experiment_id

    def known(self) -> list[Known]:
        """Every whole run that came from this results folder; what a killed sync left is deleted."""
        whole = []
        for run in list(self._runs()):
            if run.info.status != "RUNNING":
                whole.append(Known(run.info.run_id, run.data.params, run.data.metrics, run.data.tags))
            elif self._is_abandoned(run.data.tags):
                self.client.delete_run(run.info.run_id)
        return whole

    def _is_abandoned(self, tags: dict[str, str]) -> bool:
        if self.alone or tags.get("sync_from", self.place) == self.place:  # of which this is the only sync
            return True
        return time.time() - float(tags.get("sync_unix_s", 0)) > ABANDONED_S

    def _runs(self) -> Iterator[Any]:
        token, ours = None, f"tags.origin = '{self.origin}'"
        while True:
            page = self.client.search_runs([self.experiment], ours, max_results=500, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def log(self, entry: Entry, parent: str) -> Known:
        """Log an entry as a new run.

        Args:
            entry: The entry.
            parent: The store's id of the parent run; empty for none.
        """
        now = time.time()
        start, end = (
            _ms(now if entry.started is None else entry.started),
            _ms(now if entry.ended is None else entry.ended),
        )
        tags = entry.tags | {
            "kind": entry.kind,
            CELL: entry.cell,
            **({RUN: entry.key} if entry.kind == RUN else {}),
            "config_sha256": entry.config,
            "content_sha256": entry.content,
            "superseded": "no",
            "origin": self.origin,
            "sync_from": self.place,
            "sync_unix_s": str(round(now)),
            "mlflow.source.name": "fieldbook",
            **({"mlflow.parentRunId": parent} if parent else {}),
            **_git(entry.tags.get("commit", "")),
        }
        run = self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=entry.name).info.run_id
        self._log_params(run, entry.params)
        self._log_metrics(run, ((name, value, entry.step, end) for name, value in entry.metrics.items()))
        if entry.files is not None:
            self._log_files(run, entry, end)
        failed = entry.tags.get("state") == "infeasible"
        self.client.set_terminated(run, "FAILED" if failed else "FINISHED", end_time=end)
        return Known(run, entry.params, entry.metrics, tags)

    def _log_files(self, run: str, entry: Entry, end: int) -> None:
        assert entry.files is not None
        files = entry.files
        points = curves(files)
        self._log_metrics(run, ((p.name, p.value, p.step, _ms(p.time)) for p in points))
        table = image_table(files)
        if table:
            self.client.log_table(run, table, "images.json")
        surface = (files.mesh, files.mesh_glb, files.mesh_info, files.geometry)  # not mesh.obj: the same, larger
        for path in (files.run, files.config, files.checkpoint_manifest, files.train_log, files.images_csv, *surface):
            if path.exists():
                self.client.log_artifact(run, str(path))
        for key, path in pictures(files, PICTURES):
            with open_picture(path) as opened:
                picture = opened.convert("RGB")
            key = re.sub(r"[^\w\-./ ]", "_", key, flags=re.ASCII)  # what MLflow allows
            self.client.log_image(run, picture, key=key, step=entry.step, timestamp=end)

    def update(self, known: Known, entry: Entry) -> None:
        """Log new metrics of a cell into the run that it has; one that is gone becomes NaN, MLflow forgets none."""
        step = int(known.tags.get("revision", 0)) + 1
        gone = dict.fromkeys(known.metrics.keys() - entry.metrics.keys(), float("nan"))
        metrics = gone | entry.metrics
        now = _ms(time.time())
        self._log_metrics(known.id, ((name, value, step, now) for name, value in metrics.items()))
        self.set_tags(known, {"revision": str(step), "content_sha256": entry.content})

    def set_tags(self, known: Known, tags: dict[str, str | None]) -> bool:
        """Set those tags that differ, remove those that shall be None; whether there were any."""
        new = {name: value for name, value in tags.items() if known.tags.get(name) != value}
        for name, value in new.items():
            if value is None:
                self.client.delete_tag(known.id, name)
                del known.tags[name]
            else:
                self.client.set_tag(known.id, name, value)
                known.tags[name] = value
        return bool(new)

    def _log_params(self, run: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        for part in _parts([Param(name, value) for name, value in params.items()], 100):
            self.client.log_batch(run, params=part)

    def _log_metrics(self, run: str, values: Iterable[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(name, value, ms, step) for name, value, step, ms in values]
        for part in _parts(metrics, 1000):
            self.client.log_batch(run, metrics=part)


def _git(commit: str) -> dict[str, str]:
    """MLflow's own tags for a commit."""
    clean = commit.removesuffix("-dirty")
    tags = {"mlflow.source.git.commit": clean, "mlflow.source.git.dirty": str(commit != clean).lower()}
    return tags if commit else {}


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _parts(values: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    return (values[i : i + most] for i in range(0, len(values), most))  # what MLflow takes in one request


def _origin(results: Results) -> str:
    """What tells the runs of this results folder from those that others log to the same experiment."""
    if not results.tracking_origin.exists():
        write_text(results.tracking_origin, uuid.uuid4().hex + "\n")
    return results.tracking_origin.read_text(encoding="utf-8").strip()
