"""The protocol every stage keeps: infeasible inputs pass through, costs are measured, a status is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fieldbook.errors import Infeasible, UserError
from fieldbook.layout import ledger_path, status_path
from fieldbook.ledger import ledger
from fieldbook.status import INFEASIBLE, OK, Status, read_status, write_status


def run_stage(
    stage: str,
    folder: Path,
    work: Callable[[], dict[str, Any] | None],
    inputs: Iterable[Path] = (),
    spec: dict[str, Any] | None = None,
) -> Status:
    """Run ``work`` and write ``<stage>.status.json`` and ``<stage>.ledger.json`` into ``folder``.

    Args:
        stage: Name of the stage.
        folder: Where the status and the ledger go.
        work: Does the stage; returns numbers for the status. Raises ``Infeasible`` where the cell cannot be.
        inputs: Status files of the stages this one needs; the first infeasible one is passed on unchanged.
        spec: The scene's keys that decide the outputs, kept in the status.

    Raises:
        UserError: From ``work``; no status is written, so the stage runs again once the mistake is mended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ledger(ledger_path(folder, stage), stage):
        status = _first_infeasible(inputs) or _do(stage, work, spec or {})
    write_status(status_path(folder, stage), status)
    return status


def _first_infeasible(inputs: Iterable[Path]) -> Status | None:
    inputs = list(inputs)
    for path in inputs:
        if not path.exists():
            raise UserError(f"{path} is missing: the stage {path.name.removesuffix('.status.json')!r} has to run first")
    return next((s for s in map(read_status, inputs) if not s.ok), None)


def _do(stage: str, work: Callable[[], dict[str, Any] | None], spec: dict[str, Any]) -> Status:
    try:
        return Status(OK, stage, numbers=work() or {}, spec=spec)
    except Infeasible as result:
        return Status(INFEASIBLE, stage, result.reason, result.numbers, spec)
    except MemoryError:
        return Status(INFEASIBLE, stage, "out of memory on the host", spec=spec)
