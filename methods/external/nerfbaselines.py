"""Ready-made commands for the methods of nerfbaselines, on its command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from fieldbook.errors import UserError
from methods.external.template import Stage

PREFIX = "nerfbaselines:"
# Test views are Fieldbook's to render and to score: nerfbaselines evaluates nothing (0 is a step that never ends), and
# keeps no log for its viewer and no archive for its web page.
TRAIN = (
    "nerfbaselines train --method {id} --data {{dataset}} --output {{model}} --logger none"
    " --eval-few-iters 0 --eval-all-iters 0 --disable-output-artifact"
)
# -P, so that no folder `methods` of the working directory takes the place of ours.
RENDER = (
    "{python} -P -m methods.external.nerfbaselines_render"
    " --model {model} --cameras {cameras} --trajectory {trajectory} --output {output}"
)


def commands(method: str, overrides: Mapping[str, str]) -> tuple[str, dict[Stage, str]]:
    """Name and commands of ``nerfbaselines:<id>``.

    Args:
        method: As in the study.
        overrides: The method's own settings, each passed with ``--set``; a value may be a placeholder, ``{seed}``.

    Raises:
        UserError: There is no id, or it cannot be one.
    """
    name = method.removeprefix(PREFIX)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", name):
        raise UserError(
            f"methods: {method!r}: {name!r} cannot be a method's id; `nerfbaselines train --help` lists them, "
            f"for example {PREFIX}gaussian-splatting"
        )
    settings = "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in overrides.items())
    return f"nerfbaselines-{name}", {"train": TRAIN.format(id=name) + settings, "render": RENDER}
