"""A process that watches a stage, to tell how it died when the kernel killed it for want of memory."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from fieldbook.machine import oom_kills

killed: OutOfMemory | None = None
"""How the child of this process ended, if it was for want of memory."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class OutOfMemory:
    """The child was killed because the machine, or its control group, had no memory left.

    Attributes:
        peak_mb: The most memory it ever had resident.
    """

    peak_mb: int


def fork_and_watch() -> int | None:
    """Go on in a child process. Call it before there are threads.

    The parent passes SIGTERM and SIGINT on; if it dies itself, the child gets SIGTERM.

    Returns:
        In the parent, once the child has ended, its exit code (128 + the signal's number where a signal ended it).
        ``None`` where work is to be done: in the child, and in a parent whose child the kernel has killed for want of
        memory, which ``killed`` then tells.
    """
    global killed
    kills, parent = oom_kills(), os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os.kill(os.getpid(), signal.SIGTERM)
        return None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: _pass_on(child, received))
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and oom_kills() > kills:
        killed = OutOfMemory(usage.ru_maxrss >> 10)  # Linux counts it in KiB
        return None
    return 128 - code if code < 0 else code


def _pass_on(child: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(child, number)
