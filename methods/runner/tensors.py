"""Read files of tensors without running what is in them: a pickle can name any function, to be called when loaded."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from fieldbook.errors import UserError


def load_tensors(path: Path) -> dict[str, Any]:
    """Load a file of ``torch.save`` that holds only tensors and plain values, onto the CPU.

    Raises:
        UserError: No such file, a damaged one, one that asks for anything else, or one that unpacks to more than its
            size; nothing of it was run.
    """
    if not path.is_file():
        raise UserError(f"no such file of tensors: {path}")
    try:
        _check_archive(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except pickle.UnpicklingError:  # its text explains how to load the file all the same
        raise UserError(
            f"{path} was not loaded: it is damaged, or it holds more than tensors and plain values"
        ) from None
    except Exception as error:  # a damaged stream may make the unpickler stumble over anything
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{path} was not loaded: it is damaged ({reason})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not tensors by name")
    return value


def _check_archive(path: Path) -> None:
    """``torch.save`` stores tensors as they are; what is packed, or stored once for many, could fill any memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries):
        raise ValueError("its tensors are packed")
    if sum(e.file_size for e in entries) > path.stat().st_size:
        raise ValueError("its tensors are larger than the file")
