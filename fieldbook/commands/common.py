"""What the commands share: arguments, and the JSON that carries a stage's keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fieldbook.errors import UserError

Spec = Annotated[str, arg(help="The stage's keys as JSON or @FILE; see `fieldbook plan --json`.", metavar="JSON")]
SceneDir = Annotated[Positional[Path], arg(help="Folder of the scene: results/scenes/<scene>.")]
RunDir = Annotated[Positional[Path], arg(help="Folder of the run.")]
Again = Annotated[bool, arg(help="Do it again, even if it was done before from the same inputs.")]


class _Keys(dict[str, Any]):
    """A JSON object whose missing keys are a mistake of the user's, not of ours."""

    def __missing__(self, key: str) -> Any:
        raise UserError(f"--spec has no key {key!r}; `fieldbook plan --json` prints whole ones")


def load_spec(spec: str) -> dict[str, Any]:
    """The object that ``--spec`` gives.

    Raises:
        UserError: It is not JSON, or no object; a missing key raises it when it is asked for.
    """
    try:
        text = Path(spec[1:]).read_text(encoding="utf-8") if spec.startswith("@") else spec
        value = json.loads(text, object_hook=_Keys)
    except (OSError, ValueError) as error:
        raise UserError(f"--spec takes JSON or @FILE: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--spec takes a JSON object, not {type(value).__name__}")
    return value
