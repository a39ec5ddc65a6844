"""Whether the machine and the scene have what the commands of an external method need."""

from __future__ import annotations

import shutil
import sys

from fieldbook.errors import Infeasible, UserError
from fieldbook.gpus import visible_devices
from fieldbook.layout import DatasetFiles
from fieldbook.machine import choose_device
from methods.external.template import PLACEHOLDERS, STAGES, Commands, Stage
from methods.runner.transforms import scene_gives

NEEDS = {"masks": "masks", "points": "sparse points"}
"""What a command may need of a scene, in words for the reason of an infeasible cell; and it may need a ``gpu``."""


def resolve_device(asked: str) -> str:
    """``cpu`` or ``cuda``, without asking torch: the method may bring another one, or none.

    Raises:
        UserError: Unknown device, or ``cuda`` where there is none.
    """
    return choose_device(asked, lambda: bool(visible_devices()), "there is no GPU that this process may use")


def check_files(commands: Commands) -> None:
    """Check that the working folder and the scripts that stand in the commands are there.

    Raises:
        UserError: Names the first that is not.
    """
    where, cwd = f"methods: {commands.method!r}", commands.cwd
    if not cwd.is_dir():
        raise UserError(f"{where}: cwd: there is no folder {cwd}; it is relative to the folder you start from")
    for stage in STAGES:
        if missing := commands.missing_files(stage):
            raise UserError(f"{where}: {stage}: there is no {missing[0]}; files are relative to `cwd`, which is {cwd}")


def check_machine(commands: Commands, device: str) -> None:
    """Check that the programs are there, and a GPU where one is needed.

    Raises:
        UserError: A program is missing.
        Infeasible: There is no GPU.
    """
    if "gpu" in commands.needs and device != "cuda":
        raise Infeasible(f"{commands.method} needs a CUDA GPU; the device is {device}", {"device": device})
    for stage in commands.templates:
        _check_program(commands, stage)


def check_scene(commands: Commands, dataset: DatasetFiles) -> None:
    """Check that the scene has what the commands need.

    Raises:
        Infeasible: It lacks something.
    """
    gives = scene_gives(dataset.transforms) | ({"points"} if dataset.points.is_file() else set())
    lacks = [need for need in commands.needs if need in NEEDS and need not in gives]
    if lacks:
        words = " and ".join(NEEDS[need] for need in lacks)
        raise Infeasible(f"{commands.method} needs {words}, which this scene does not have", {"lacks": lacks})


def _check_program(commands: Commands, stage: Stage) -> None:
    anything = dict.fromkeys(PLACEHOLDERS[stage], "-")
    program = commands.words(stage, anything | {"python": sys.executable})[0]
    place = str(commands.cwd / program) if "/" in program else program
    if shutil.which(place) is None:
        where = "in that folder, or it cannot be executed" if "/" in program else "on PATH"
        raise UserError(f"methods: {commands.method!r}: {stage}: there is no program {program!r} {where}")
