"""The one exception tree: library code raises these, only the command line exits."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

LONGEST = 1000  # characters of a message


class FieldbookError(Exception):
    """Base of every error that Fieldbook raises on purpose; its text is one printable line."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    """Text as one printable line of bounded length: messages quote files, and a file may hold anything."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    # The beginning says where, the end what to do: what is too long is a value between them.
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


class UserError(FieldbookError):
    """Something the user can mend: one line with what was given, what is allowed and what to do next."""


class Infeasible(FieldbookError):  # noqa: N818 - a result, not an error: it becomes a row of the tables
    """A stage that cannot be done for this cell; kept in the tables with its reason, never stops a study.

    Args:
        reason: One sentence a reader of the report understands.
        numbers: Figures behind the reason, JSON-serialisable, e.g. ``{"registered": 3, "requested": 6}``.
    """

    def __init__(self, reason: str, numbers: dict[str, Any] | None = None):
        super().__init__(reason)
        self.reason = reason
        self.numbers = numbers or {}


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Say which names are allowed and which one was probably meant, for the tail of an error message."""
    names = sorted(str(a) for a in allowed)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"allowed: {', '.join(names)}{hint}"
