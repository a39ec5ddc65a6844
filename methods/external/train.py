"""The ``train`` stage of an external method, and what it leaves for the stages after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from fieldbook.errors import UserError
from fieldbook.files import inside, read_json, sha256_file, write_json
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.machine import cpu_name
from fieldbook.versions import lock_sha256, versions
from methods.external.call import Caller
from methods.external.dataset import write_dataset
from methods.external.machine import check_files, check_machine, check_scene, resolve_device
from methods.external.template import Commands
from methods.runner.identity import training_identity


def check_method(spec: dict[str, Any]) -> dict[str, Any]:
    """Check the commands of a method before anything else of a study is computed.

    Raises:
        UserError: A program, a script or the working folder is missing.
        Infeasible: There is no GPU, and it needs one.
    """
    commands = Commands.of(spec)
    check_files(commands)
    check_machine(commands, resolve_device(spec["device"]))
    return {}


def identity(dataset: DatasetFiles, spec: dict[str, Any]) -> str:
    """SHA-256 of all that decides what training makes: spec and commands, files that train names, dataset, code."""
    return training_identity(dataset, {**spec, "files": Commands.of(spec).file_hashes("train")})


def train(run_files: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Write the dataset folder, run the train command if there is one, and write ``run.json``.

    Args:
        run_files: The run's files.
        dataset: The dataset's files.
        spec: ``method``, ``resolved`` (the commands), ``seed``, ``device``, ``torch_threads``; the rest is stored.

    Returns:
        ``seconds`` of the command, ``checkpoint_bytes`` and ``checkpoint_sha256`` of what it left, ``device``.

    Raises:
        UserError: The command ended with an error, left nothing, or changed its dataset.
        Infeasible: The command said so, or the scene or the machine lacks what it needs.
    """
    commands, files, device = Commands.of(spec), run_files.external, resolve_device(spec.get("device", "auto"))
    check_scene(commands, dataset)
    check_files(commands)
    check_machine(commands, device)
    made_from = identity(dataset, spec)
    shutil.rmtree(files.root, ignore_errors=True)
    write_dataset(dataset, files.dataset)
    files.model.mkdir(parents=True)
    seconds = _train(Caller(commands, run_files, spec, device)) if "train" in commands.templates else 0.0
    contents = {path.relative_to(files.model).as_posix(): sha256_file(path) for path in _files(files.model)}
    write_json(files.contents, contents)
    size = sum(path.stat().st_size for path in _files(files.model))
    numbers = {"seconds": round(seconds, 3), "checkpoint_bytes": size, "made_from": made_from, "device": device}
    numbers["checkpoint_sha256"] = sha256_file(files.contents)
    _write_manifest(run_files, numbers)
    _describe(run_files, dataset, spec, device)
    return numbers


def _train(caller: Caller) -> float:
    seconds, model = caller.call("train"), caller.run.external.model
    if not _files(model):
        raise UserError(f"{caller.name('train')} ended well and left nothing in {{model}}, which is {model}")
    return seconds


def is_final(run_files: RunFiles, numbers: dict[str, Any]) -> bool:
    """Whether what a finished training left is still there; if so, its manifest is there too afterwards.

    What a render command put beside it meanwhile does not count.
    """
    files = run_files.external
    if not files.dataset.is_dir() or not files.contents.is_file():  # a training that began anew and was killed
        return False
    if sha256_file(files.contents) != numbers["checkpoint_sha256"]:
        return False
    for name, sha256 in read_json(files.contents).items():
        path = inside(files.model, name)
        if not path.is_file() or sha256_file(path) != sha256:
            return False
    _write_manifest(run_files, numbers)
    return True


def _write_manifest(run_files: RunFiles, numbers: dict[str, Any]) -> None:
    # What a method without a training renders depends on the dataset all the same; rendering looks at this file.
    keys = {"sha256": numbers["checkpoint_sha256"], "made_from": numbers["made_from"]}
    write_json(run_files.checkpoint_manifest, {"checkpoint": run_files.external.model.name, "step": None, **keys})


def _describe(run_files: RunFiles, dataset: DatasetFiles, spec: dict[str, Any], device: str) -> None:
    """Write ``run.json``: everything that defines the run."""
    commands = Commands.of(spec)
    record = {
        "spec": spec,
        "needs": list(commands.needs),
        "gives": ["rgb"],
        "files_sha256": {stage: commands.file_hashes(stage) for stage in commands.templates},
        "transforms_sha256": sha256_file(dataset.transforms),
        "versions": versions(),
        "lock_sha256": lock_sha256(),
        "device": cpu_name() if device == "cpu" else device,
        "torch_threads": spec.get("torch_threads"),
    }
    write_json(run_files.run, record)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
