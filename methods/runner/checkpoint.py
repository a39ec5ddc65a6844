"""Checkpoints in nerfstudio's format and name that load with ``torch.load(weights_only=True)``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldbook.errors import UserError
from fieldbook.files import atomic_path, read_json, sha256_file, write_json
from fieldbook.layout import RunFiles

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


def save_checkpoint(run: RunFiles, step: int, pipeline: Any, optimizers: Any, scaler: Any) -> Path:
    """Write the checkpoint after ``step`` atomically, then delete older ones, as nerfstudio does by default.

    Args:
        run: The run's files.
        step: Last step done, 0-based.
        pipeline: nerfstudio pipeline.
        optimizers: nerfstudio's ``Optimizers``.
        scaler: Gradient scaler.
    """
    path = checkpoint_path(run, step)
    state = {
        "step": step,
        "pipeline": pipeline.state_dict(),
        "optimizers": {k: v.state_dict() for k, v in optimizers.optimizers.items()},
        "schedulers": {k: v.state_dict() for k, v in optimizers.schedulers.items()},
        "scalers": scaler.state_dict(),
    }
    # Through a file object: torch names the archive's root after a path's stem, so equal runs would differ in bytes.
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        torch.save({k: plain(v) for k, v in state.items()}, stream)
    for old in run.checkpoints.glob("step-*.ckpt"):
        if old != path and _NAME.fullmatch(old.name):
            old.unlink()
    return path


def write_manifest(run: RunFiles, step: int) -> dict[str, Any]:
    """Write ``checkpoint.json``: name, step and SHA-256 of the final checkpoint."""
    path = checkpoint_path(run, step)
    manifest = {"checkpoint": path.name, "step": step, "sha256": sha256_file(path)}
    write_json(run.checkpoint_manifest, manifest)
    return manifest


def read_checkpoint(run: RunFiles) -> dict[str, Any]:
    """Load the final checkpoint onto the CPU.

    Raises:
        UserError: The run has none, or the file is not the one its manifest describes.
    """
    manifest = read_json(run.checkpoint_manifest)
    path = run.checkpoints / str(manifest["checkpoint"])
    if not path.is_file():
        raise UserError(f"no checkpoint {path}; train the run again with `fieldbook train`")
    if sha256_file(path) != manifest["sha256"]:
        raise UserError(f"{path} is not the checkpoint its manifest describes; train the run again")
    return torch.load(path, map_location="cpu", weights_only=True)
