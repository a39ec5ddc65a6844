"""Who may write where: one process per stage of a folder, and Snakemake's lock of which the owner is dead."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

SNAKEMAKE = Path(".snakemake")
_alive: list[int] = []  # kept open as long as this process lives


@contextmanager
def exclusive(path: Path, say: str) -> Iterator[None]:
    """Hold an flock on a file; wait for a process that has it. The lock goes with the process, however that dies.

    Args:
        path: The file; made if need be, and left behind.
        say: What is being waited for, if it comes to that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait(handle, say)
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.uname().nodename} {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _wait(handle: int, say: str) -> None:
    try:
        if not _try(handle, fcntl.LOCK_EX):
            log.info("waiting for %s, which process %s is at", say, os.pread(handle, 200, 0).decode().strip() or "?")
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        log.warning("this file system knows no locks: nothing keeps two processes from %s at a time", say)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_stale_lock(folder: Path = SNAKEMAKE) -> list[Path]:
    """Remove what a dead Snakemake left of its lock, and mark this one as alive until its process ends.

    Snakemake's own lock names no owner. Every Snakemake that reads our Snakefile holds a shared flock; if nobody does,
    whoever made a lock is dead. Jobs that live on after their Snakemake do not count: the folders they write have locks
    of their own.

    Args:
        folder: Snakemake's folder in the working directory.

    Returns:
        The files removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "alive.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    _alive.append(handle)
    removed: list[Path] = []
    if _try(handle, fcntl.LOCK_EX):
        removed = sorted(p for p in (folder / "locks").glob("*") if p.is_file())
        for path in removed:
            path.unlink()
    fcntl.flock(handle, fcntl.LOCK_SH)
    return removed
