"""``<stage>.status.json``: how a stage ended. ``infeasible`` is a result, kept with its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fieldbook.documents import STATUS, read_document
from fieldbook.files import write_json

OK = "ok"
INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Status:
    """How a stage ended.

    Attributes:
        state: ``ok`` or ``infeasible``.
        stage: The stage that decided it (an infeasible input keeps the name of the stage that failed first).
        reason: Empty when ok.
        numbers: Figures worth a column or a sentence.
        spec: The scene's keys that decided the outputs; empty for stages whose folder carries their keys in its name.
    """

    state: Literal["ok", "infeasible"]
    stage: str
    reason: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the stage's other outputs exist."""
        return self.state == OK


def write_status(path: Path, status: Status) -> None:
    """Write a status file atomically."""
    write_json(path, asdict(status))


def read_status(path: Path) -> Status:
    """Read a status file.

    Raises:
        UserError: It is missing or damaged.
    """
    return Status(**read_document(path, STATUS))
