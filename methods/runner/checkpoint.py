"""Checkpoints in nerfstudio's format and name that load with ``torch.load(weights_only=True)``."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldbook.documents import MANIFEST, RESUME, read_document
from fieldbook.errors import UserError
from fieldbook.files import atomic_path, sha256_file, write_json
from fieldbook.layout import RunFiles
from methods.runner.tensors import load_tensors

log = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints kept while training: the newest, and one to go back to."""
_PARTS = ("pipeline", "optimizers", "schedulers", "scalers", "fieldbook")
_NAME = re.compile(r"step-(\d{9})\.ckpt")


def checkpoint_path(run: RunFiles, step: int) -> Path:
    """nerfstudio's name of the checkpoint after step ``step`` (0-based)."""
    return run.checkpoints / f"step-{step:09d}.ckpt"


def plain(value: Any) -> Any:
    """Copy a nest with NumPy scalars turned into Python's, which is all that ``weights_only`` lets through.

    (A learning-rate schedule that uses ``np.exp`` leaves them in the optimiser's and the scheduler's state.)
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return type(value)(plain(v) for v in value)
    if type(value) is dict:
        return {k: plain(v) for k, v in value.items()}
    return value


def save_checkpoint(run: RunFiles, step: int, state: dict[str, Any], identity: str | None) -> Path:
    """Write the checkpoint after ``step`` atomically; of those to go on from, the two newest stay.

    Args:
        run: The run's files.
        step: Last step done, 0-based.
        state: What it holds besides the step.
        identity: What is being trained, for a checkpoint to go on from; None for the last one.

    Raises:
        UserError: The disk is full; the checkpoints before it are untouched.
    """
    path = checkpoint_path(run, step)
    _write(path, {"step": step, **{k: plain(v) for k, v in state.items()}})
    if identity is not None:
        older = [e for e in _entries(run, identity) if e["checkpoint"] != path.name]
        entries = [{"checkpoint": path.name, "step": step, "sha256": sha256_file(path)}, *older][:KEPT]
        write_json(run.resume, {"identity": identity, "checkpoints": entries})
        _delete_others(run, {e["checkpoint"] for e in entries})
    return path


def _write(path: Path, state: dict[str, Any]) -> None:
    # Through a file object: torch names the archive's root after a path's stem, so equal runs would differ in bytes.
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as stream:
            torch.save(state, stream)
    except (OSError, RuntimeError) as error:  # torch's writer turns an OSError into a RuntimeError of its own
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and shutil.disk_usage(path.parent).free > 1 << 20:
            raise
        text = f"no space left for {path}; what was saved before is whole: free some and run the same command again"
        raise UserError(text) from error


def _record(run: RunFiles, identity: str) -> dict[str, Any]:
    """What ``resume.json`` says of this training; nothing where it is of another one, damaged or missing."""
    try:
        record = read_document(run.resume, RESUME)
        return record if record["identity"] == identity else {}
    except UserError:
        return {}


def _entries(run: RunFiles, identity: str) -> list[dict[str, Any]]:
    return list(_record(run, identity).get("checkpoints", []))


def _delete_others(run: RunFiles, keep: set[str]) -> None:
    for old in run.checkpoints.glob("step-*.ckpt"):
        if old.name not in keep and _NAME.fullmatch(old.name):
            old.unlink()


def newest_checkpoint(run: RunFiles, identity: str) -> dict[str, Any] | None:
    """The state to go on from, on the CPU; None to start from scratch.

    A damaged checkpoint is left out, with a warning, for the one before it. Where there is none to go on from, what was
    to be gone on from is set aside until this training is finished: it may be of an older version of the code.
    """
    for entry in _entries(run, identity):
        path = run.checkpoints / str(entry["checkpoint"])
        try:
            if sha256_file(path) == entry["sha256"]:
                return _read(path, *_PARTS)
            problem = "its content is not what was written"
        except (OSError, UserError) as error:
            problem = str(error)
        log.warning("%s is damaged (%s)", path, problem)
    if run.resume.exists():
        _set_aside(run, "whole" if _entries(run, identity) else "of the same spec, pictures, code and packages")
    _delete_others(run, set())
    return None


def _set_aside(run: RunFiles, lacking: str) -> None:
    shutil.rmtree(run.set_aside, ignore_errors=True)
    if run.checkpoints.is_dir():
        run.checkpoints.rename(run.set_aside)
        text = "no checkpoint in %s is %s: training starts again from step 0, and they are kept in %s until it is done"
        log.warning(text, run.checkpoints, lacking, run.set_aside)
    run.resume.unlink()


def record_finish(run: RunFiles, identity: str, numbers: dict[str, Any]) -> None:
    """Note that the training is done, for a process that dies before its status says so.

    Args:
        run: The run's files.
        identity: What was trained.
        numbers: For the status.
    """
    write_json(run.resume, {"identity": identity, "checkpoints": _entries(run, identity), "finished": numbers})


def finished(run: RunFiles, identity: str) -> dict[str, Any] | None:
    """The numbers of a training that was done, but for its status; None where there is something left to train."""
    numbers = _record(run, identity).get("finished")
    return numbers if numbers is not None and is_final(run, numbers) else None


def forget_finish(run: RunFiles) -> None:
    """Let a training that was done be done again."""
    try:
        if "finished" in read_document(run.resume, RESUME):
            run.resume.unlink()
    except UserError:
        return


def tidy(run: RunFiles) -> None:
    """Delete what was there to go on from, once the status says that the training is done."""
    manifest = read_document(run.checkpoint_manifest, MANIFEST)
    run.resume.unlink(missing_ok=True)
    _delete_others(run, {str(manifest["checkpoint"])})
    shutil.rmtree(run.set_aside, ignore_errors=True)


def write_manifest(run: RunFiles, step: int) -> dict[str, Any]:
    """Write ``checkpoint.json``: name, step and SHA-256 of the final checkpoint."""
    path = checkpoint_path(run, step)
    manifest = {"checkpoint": path.name, "step": step, "sha256": sha256_file(path)}
    write_json(run.checkpoint_manifest, manifest)
    return manifest


def is_final(run: RunFiles, numbers: dict[str, Any]) -> bool:
    """Whether the checkpoint of a finished training is still there; if so, its manifest is there too afterwards.

    Args:
        run: The run's files.
        numbers: Of the training's status.
    """
    path = checkpoint_path(run, int(numbers["steps"]) - 1)
    if not path.is_file() or sha256_file(path) != numbers["checkpoint_sha256"]:
        return False
    write_manifest(run, int(numbers["steps"]) - 1)
    return True


def read_checkpoint(run: RunFiles) -> dict[str, Any]:
    """Load the final checkpoint onto the CPU.

    Raises:
        UserError: The run has none, the file is not the one its manifest describes, or it holds more than tensors and
            plain values.
    """
    manifest = read_document(run.checkpoint_manifest, MANIFEST)
    path = run.checkpoints / str(manifest["checkpoint"])
    if not path.is_file():
        raise UserError(f"no checkpoint {path}; train the run again with `fieldbook train`")
    if sha256_file(path) != manifest["sha256"]:
        raise UserError(f"{path} is not the checkpoint its manifest describes; train the run again")
    return _read(path, "pipeline")


def _read(path: Path, *parts: str) -> dict[str, Any]:
    state = load_tensors(path)
    if not isinstance(state.get("step"), int) or not all(isinstance(state.get(part), dict) for part in parts):
        raise UserError(f"{path} lacks its step, or one of {', '.join(parts)}; train the run again")
    return state
