"""Files that are either whole or absent: everything is written under a temporary name and renamed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldbook.errors import UserError

LONGEST_PART = 255
"""Bytes of one part of a path, on every file system there is."""
LARGEST_TEXT = 1 << 28
"""Bytes of a text file that is read whole: the poses of a million pictures, and no more than memory holds."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` (same suffix); rename it onto ``path`` if the block succeeds.

    A link under the name of ``path`` is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{_owner()}.tmp{path.suffix}")
    temporary.unlink(missing_ok=True)  # a link of that name, out of an archive, would be written through
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a fresh temporary folder; it replaces ``path`` as a whole if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{_owner()}.tmp")
    remove(temporary)
    temporary.mkdir()
    try:
        yield temporary
        remove(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def _owner() -> str:
    return f"{os.uname().nodename.partition('.')[0]}-{os.getpid()}"


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders, however deep, whose process of this machine is dead."""
    ours = re.compile(rf"\..+\.{re.escape(_owner().rpartition('-')[0])}-(\d+)\.tmp(\.\w+)?")
    for path in list(folder.rglob(".*.tmp*")):
        found = ours.fullmatch(path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            remove(path)


def remove(path: Path) -> None:
    """Remove a folder with all it holds, a file, or a link but not what it leads to; what is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON atomically; NaN and infinities are refused, JSON has no word for them."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Text of a file.

    Args:
        path: A regular file, or a link to one: a pipe would be waited for, and a device may never end.
        largest: Bytes it may have.

    Raises:
        UserError: It is missing, is no regular file, is too large, cannot be read or is not UTF-8.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"{path} is not a file" if path.exists() else f"no such file: {path}")
        if path.stat().st_size > largest:
            raise UserError(f"{path} has more than {largest} bytes, so it is not what it should be; replace it")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8: {error}; replace it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def parse_json(text: str, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: It is not JSON, is nested too deeply, or has a number that is not finite: JSON has no word for
            them, Python reads them all the same, and what is computed with one is lost.
    """

    def number(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise ValueError(f"{word} is not a finite number")
        return value

    try:
        return json.loads(text, parse_float=number, parse_constant=number, object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read a JSON file.

    Raises:
        UserError: The file cannot be read, or is not JSON with finite numbers.
    """
    text = read_text(path)
    try:
        return parse_json(text, object_hook)
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def inside(folder: Path, name: str, root: Path | None = None) -> Path:
    """``folder / name`` for a name that stands in a file, wherever that file is from.

    Links in the folder are followed: whoever made it chose them, and no name in a file can make one.

    Args:
        folder: What the name is relative to.
        name: Of a file.
        root: What it may not leave; the folder itself by default.

    Raises:
        UserError: The name leads out, or cannot be a file's.
    """
    top = os.path.abspath(root or folder)
    target = os.path.normpath(os.path.join(os.path.abspath(folder), name))
    possible = name and name.isprintable() and max(len(part.encode()) for part in name.split("/")) <= LONGEST_PART
    if not possible or os.path.commonpath([top, target]) != top:
        raise UserError(f"{name!r} is not a file in {top}, which names in files may not leave; copy it there")
    return folder / name


def user_path(text: str) -> Path:
    """The path that a user wrote, its ``~`` filled in.

    Raises:
        UserError: No file can have it, or it starts with a ``~`` of nobody's.
    """
    try:
        path = Path(text).expanduser()
        path.exists()  # refuses names that are too long
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{text!r} cannot be a path: {reason}") from None
    if not text or "\0" in text:
        raise UserError(f"{text!r} cannot be a path; give one relative to the folder you start from, or absolute")
    return path


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
