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
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # what a file system without flock says
_alive: list[int] = []  # kept open as long as this process lives


@contextmanager
def exclusive(path: Path, say: str) -> Iterator[None]:
    """Hold an flock on a file; wait for a process that has it. The lock goes with the process, however that dies.

    Args:
        path: The file; made if need be, and left behind.
        say: What is being waited for, if it comes to that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _open(path)
    try:
        _wait(handle, say)
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.uname().nodename} {os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _open(path: Path) -> int:
    # No link is followed: what it leads to would be emptied. Who may write in the folder may lock it: umask decides.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)


def _wait(handle: int, say: str) -> None:
    try:
        if not try_lock(handle, fcntl.LOCK_EX):
            log.info("waiting for %s, which process %s is at", say, os.pread(handle, 200, 0).decode().strip() or "?")
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        log.warning("this file system knows no locks: nothing keeps two processes from %s at a time", say)


def try_lock(handle: int, kind: int) -> bool:
    """Take an flock of a kind on an open file, if nobody holds one against it; whether that worked."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_stale_lock(folder: Path = SNAKEMAKE, remove: bool = True) -> list[Path]:
    """Remove what a dead Snakemake left of its lock, and mark this one as alive until its process ends.

    Snakemake's own lock names no owner. Every Snakemake that reads our Snakefile holds a shared flock; if nobody does,
    whoever made a lock is dead. Jobs that live on after their Snakemake do not count: the folders they write have locks
    of their own.

    Args:
        folder: Snakemake's folder in the working directory.
        remove: False only marks this one as alive. A cluster's jobs must not remove: on a file system whose locks hold
            on one node each, they do not see the Snakemake that submitted them.

    Returns:
        The files removed; none where the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = _open(folder / "alive.lock")
    _alive.append(handle)
    try:
        removed = _locks(folder) if remove and try_lock(handle, fcntl.LOCK_EX) else []
        for path in removed:
            path.unlink()
        fcntl.flock(handle, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return []
    return removed


def _locks(folder: Path) -> list[Path]:
    return sorted(p for p in (folder / "locks").glob("*") if p.is_file())
