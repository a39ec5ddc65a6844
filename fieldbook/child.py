"""A process that watches a stage, to tell how it died when the kernel killed it for want of memory."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from fieldbook.machine import end_with, oom_kills

killed_at_mb: int | None = None
"""The most memory that the child of this process ever had resident, if the kernel has killed it for want of memory."""


def fork_and_watch() -> int | None:
    """Go on in a child process. Call it before there are threads.

    The parent passes SIGTERM and SIGINT on; if it dies itself, the child gets SIGTERM.

    Returns:
        In the parent, once the child has ended, its exit code (128 + the signal's number where a signal ended it).
        ``None`` where work is to be done: in the child, and in a parent whose child the kernel has killed for want of
        memory, which ``killed_at_mb`` then tells.
    """
    global killed_at_mb
    kills, parent = oom_kills(), os.getpid()
    child = os.fork()
    if child == 0:
        end_with(parent)
        return None
    _pass_signals_on_until_it_ends(child)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and oom_kills() > kills:
        killed_at_mb = usage.ru_maxrss >> 10  # Linux counts it in KiB
        return None
    return 128 - code if code < 0 else code


def _pass_signals_on_until_it_ends(child: int) -> None:
    def pass_on(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    # It is left to be waited for: until the handlers are gone, no other process can get its number.
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    for number, handler in before.items():
        signal.signal(number, handler)
