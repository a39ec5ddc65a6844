"""The protocol every stage keeps: infeasible inputs pass through, costs are measured, a status is left."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fieldbook import child
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import read_json, remove_leftovers, write_json
from fieldbook.layout import done_path, ledger_path, lock_path, status_path
from fieldbook.ledger import ledger
from fieldbook.locks import exclusive
from fieldbook.machine import out_of_memory
from fieldbook.status import INFEASIBLE, OK, Status, read_status, write_status

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Keep:
    """How a stage recognises what it has done before.

    Snakemake deletes a job's declared outputs before the job starts, also when it starts only because an earlier
    Snakemake died before it saw the job end. What such a job made is still there, and is not made twice.

    Attributes:
        made_from: What everything the stage makes depends on, as text.
        intact: Given the numbers of its status, whether what it made is still there and whole; puts back the small
            files that Snakemake deletes.
    """

    made_from: Callable[[], str]
    intact: Callable[[dict[str, Any]], bool]


def run_stage(
    stage: str,
    folder: Path,
    work: Callable[[], dict[str, Any] | None],
    inputs: Iterable[Path] = (),
    spec: dict[str, Any] | None = None,
    keep: Keep | None = None,
    prepare: Callable[[], object] = lambda: None,
) -> Status:
    """Run ``work`` and write ``<stage>.status.json`` and ``<stage>.ledger.json`` into ``folder``.

    Another process that is at the same stage of the folder is waited for. In a process whose child the kernel has
    killed at this work, the stage is infeasible.

    Args:
        stage: Name of the stage.
        folder: Where the status and the ledger go.
        work: Does the stage; returns numbers for the status. Raises ``Infeasible`` where the cell cannot be.
        inputs: Status files of the stages this one needs; the first infeasible one is passed on unchanged.
        spec: The scene's keys that decide the outputs, kept in the status.
        keep: Lets the work be left out where it was done before; None does it always.
        prepare: Called if the work will be done, before its cost is measured: takes what it needs, or waits for it.

    Raises:
        UserError: From ``work``; no status is written, so the stage runs again once the mistake is mended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(lock_path(folder, stage), f"{stage} of {folder}"):
        remove_leftovers(folder)
        infeasible = _first_infeasible(inputs) or _killed(stage, spec or {})
        made_from = keep.made_from() if keep is not None and infeasible is None else ""
        status = _done_before(stage, folder, keep, made_from)
        if status is None:
            if infeasible is None:
                prepare()
            status = infeasible or _measured(stage, folder, work, spec or {})
            if made_from and status.ok:
                write_json(done_path(folder, stage), {"made_from": made_from, "status": asdict(status)})
        write_status(status_path(folder, stage), status)
    return status


def _measured(stage: str, folder: Path, work: Callable[[], dict[str, Any] | None], spec: dict[str, Any]) -> Status:
    path = ledger_path(folder, stage)
    try:
        with ledger(path, stage):
            return _do(stage, work, spec)
    except UserError:
        path.unlink(missing_ok=True)  # what a mistake cost is nobody's number
        raise


def _done_before(stage: str, folder: Path, keep: Keep | None, made_from: str) -> Status | None:
    path = done_path(folder, stage)
    if keep is None or not made_from or not path.is_file():
        return None
    try:
        record = read_json(path)
        if record["made_from"] == made_from and keep.intact(record["status"]["numbers"]):
            log.info("%s of %s was done before from the same inputs and is kept", stage, folder)
            return Status(**record["status"])
    except (UserError, KeyError, TypeError):  # a damaged record is none
        log.warning("%s is damaged; %s is done again", path, stage)
    path.unlink()
    return None


def _first_infeasible(inputs: Iterable[Path]) -> Status | None:
    inputs = list(inputs)
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path} is missing: the stage {path.name.removesuffix('.status.json')!r} has to run first")
    return next((s for s in map(read_status, inputs) if not s.ok), None)


def _killed(stage: str, spec: dict[str, Any]) -> Status | None:
    if child.killed_at_mb is None:
        return None
    result = out_of_memory(f"the stage {stage!r}", child.killed_at_mb)
    return Status(INFEASIBLE, stage, result.reason, result.numbers, spec)


def _do(stage: str, work: Callable[[], dict[str, Any] | None], spec: dict[str, Any]) -> Status:
    try:
        return Status(OK, stage, numbers=work() or {}, spec=spec)
    except Infeasible as result:
        return Status(INFEASIBLE, stage, result.reason, result.numbers, spec)
    except MemoryError:
        return Status(INFEASIBLE, stage, "out of memory on the host", spec=spec)
