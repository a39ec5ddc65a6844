"""Throw one bad input at a reader: what it did, within a time and a memory that no honest reader needs."""

from __future__ import annotations

import faulthandler
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fieldbook.errors import LONGEST, Infeasible, UserError

HANG_S = 20.0
"""A reader that is still at it ends the whole test process, with its stack: no signal stops compiled code."""
SPARE_BYTES = 2 << 30
"""What a reader may take beyond what the process has; a bomb wants more."""
_ALWAYS_LEFT = (".lock", ".ledger.json")  # by every stage, also by one that fails


@contextmanager
def bounded() -> Iterator[None]:
    """Let the block neither hang nor fill the memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES, before[1]))
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, before)


def contents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder, and what changes when anybody writes or replaces it."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(_ALWAYS_LEFT):
                path = os.path.join(parent, name)
                facts = os.lstat(path)
                found[path] = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
    return found


def refused(work: Callable[[], Any], folder: Path | None = None, note: str = "") -> str:
    """The message of a reader that must refuse its input, which it does in one clear line and without a trace.

    Args:
        work: Calls the reader.
        folder: Where nothing may change.
        note: Which of several inputs it is, for the message of a test that fails.
    """
    before = contents(folder) if folder is not None else {}
    try:
        with bounded(), pytest.raises(UserError) as error:
            work()
    except BaseException as failure:
        failure.add_note(note)
        raise
    message = str(error.value)
    assert message.isprintable()
    assert 10 < len(message) <= LONGEST + 5
    assert (contents(folder) if folder is not None else {}) == before
    return message


def read_or_refused(work: Callable[[], Any], given: bytes = b"") -> bool:
    """Whether a reader took its input; it may refuse it in one line, and do nothing else.

    Args:
        work: Calls the reader.
        given: The input, for the message of a test that fails.
    """
    try:
        with bounded():
            work()
    except (UserError, Infeasible) as error:
        message = str(error)
    except BaseException as failure:
        failure.add_note(f"the input was {given!r}")
        raise
    else:
        return True
    assert message.isprintable()
    return False
