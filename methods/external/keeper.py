"""Ends a command of the user's and all that it started: when we are stopped, and also when we are killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_S = 5.0
"""Between SIGTERM and SIGKILL, for a command that is stopped."""
_POLL_S = 0.05


@contextmanager
def keeper(name: str) -> Iterator[int]:
    """Fork a process that ends the command if this one is killed inside the block.

    As a fork it has our locks open, of the run and of the GPU, so they are held until nothing of the command is left.
    The command itself could not hold them: what it starts has other files closed, as Python's subprocess does it.

    Args:
        name: Of the command, for a message.

    Yields:
        File descriptor that the command writes its process group to, before it becomes the user's program.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(writer)
            _keep(reader, name)
        finally:
            os._exit(0)
    os.close(reader)
    try:
        yield writer
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(writer)


def _keep(reader: int, name: str) -> None:
    os.setsid()  # a signal for our whole group is none for it
    said = b""
    while part := os.read(reader, 32):  # ends when nobody has the other end open: the process that forked us is dead
        said += part
    if not said:
        return
    with suppress(OSError):  # nobody may be reading
        os.write(2, f"Fieldbook was killed: {name} is ended, and the run stays locked until it has\n".encode())
    end_group(int(said))
    while _alive(int(said)):  # in a system call that SIGKILL waits for
        time.sleep(1)


def end_group(group: int) -> None:
    """SIGTERM to all processes of a group; SIGKILL to those that are left ``GRACE_S`` later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + GRACE_S
        while _alive(group) and time.monotonic() < end:
            time.sleep(_POLL_S)


def _alive(group: int) -> bool:
    """Whether a process of the group runs; not one that is dead and that nobody waits for, as in some containers."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, its_group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False
