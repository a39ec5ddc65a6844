"""What the commands share: arguments, and the JSON that carries a stage's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fieldbook.documents import Keys
from fieldbook.errors import UserError
from fieldbook.files import parse_json, read_text, user_path

Spec = Annotated[str, arg(help="The stage's keys as JSON or @FILE; see `fieldbook plan --json`.", metavar="JSON")]
SceneDir = Annotated[Positional[Path], arg(help="Folder of the scene: results/scenes/<scene>.")]
RunDir = Annotated[Positional[Path], arg(help="Folder of the run.")]
Again = Annotated[bool, arg(help="Do it again, even if it was done before from the same inputs.")]


def load_spec(spec: str) -> dict[str, Any]:
    """The object that ``--spec`` gives.

    Raises:
        UserError: It is not JSON with finite numbers, or no object; a missing key raises it when it is asked for.
    """
    remedy = "`fieldbook plan --json` prints whole ones"
    try:
        text = read_text(user_path(spec[1:])) if spec.startswith("@") else spec
        value = parse_json(text, lambda entries: Keys(entries, "--spec", remedy))
    except (UserError, ValueError) as error:
        raise UserError(f"--spec takes JSON or @FILE: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--spec takes a JSON object, not {type(value).__name__}")
    return value
