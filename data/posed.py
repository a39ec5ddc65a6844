"""Captures that come with their poses: what holds for every such kind, without opening any file.

Standard library only, because a study's plan needs it.
"""

from __future__ import annotations

from typing import Any

from fieldbook.errors import UserError

POSED_KINDS = ("blender", "neus", "colmap")
"""Kinds of a capture whose own poses are the reference."""


def check_frame_keys(where: str, kind: str, frames: dict[str, Any]) -> None:
    """Refuse a ``frames.count`` other than ``all``: these formats list their frames, and all of them are wanted.

    Raises:
        UserError: Names ``where`` the key stands.
    """
    if frames["count"] != "all":
        raise UserError(
            f"{where}.count is {frames['count']}; a {kind} capture lists its own frames, so only all is possible: "
            "ask for fewer training frames with the study's counts, and for fewer test frames with split.file"
        )
