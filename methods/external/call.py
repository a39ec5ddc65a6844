"""Call a command of an external method for one run: its placeholders, its environment, its log."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldbook.layout import RunFiles
from methods.external.dataset import unchanged
from methods.external.process import Job, run
from methods.external.template import Commands, Stage

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Caller:
    """The commands of a method as one run calls them.

    Attributes:
        commands: The method's.
        run: The run's files.
        spec: The run's; ``seed`` and ``torch_threads`` are used.
        device: ``cpu`` or ``cuda``.
    """

    commands: Commands
    run: RunFiles
    spec: dict[str, Any]
    device: str

    def name(self, stage: Stage, views: str = "") -> str:
        """What is called, for messages."""
        return f"the {stage} command of {self.commands.method}" + (f" for {views}" if views else "")

    def call(self, stage: Stage, views: str = "", **files: Path) -> float:
        """Call the command of a stage; its wall seconds.

        Args:
            stage: Which.
            views: Name of the cameras it is called for, if it is.
            files: Placeholders that only this call has.

        Raises:
            UserError: It failed, or changed its dataset.
            Infeasible: It said so, or ran out of memory.
        """
        own, name = self.run.external, self.name(stage, views)
        paths = {"dataset": own.dataset, "model": own.model, **files}
        words = self.commands.words(stage, self._values() | {key: path.absolute() for key, path in paths.items()})
        log = self.run.command_log(f"{stage}-{views}" if views else stage).absolute()
        cwd = self.commands.cwd.absolute()
        with unchanged(own.dataset, name):
            return run(Job(name, words, cwd, self._environment(), log))

    def _values(self) -> dict[str, Any]:
        threads = self.spec.get("torch_threads") or len(os.sched_getaffinity(0))
        seed = self.spec.get("seed", 0)
        return {"seed": seed, "device": self.device, "threads": threads, "python": sys.executable}

    def _environment(self) -> dict[str, str]:
        """Ours, with the study's threads, and no GPU in it where the study has none."""
        found = {"PYTHONUNBUFFERED": "1", **os.environ}  # what a command says comes when it says it
        if threads := self.spec.get("torch_threads"):
            found |= dict.fromkeys(_THREADS, str(threads))
        return found if self.device == "cuda" else found | {"CUDA_VISIBLE_DEVICES": ""}
