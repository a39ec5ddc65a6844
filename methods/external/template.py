"""Command templates of an external method: words with ``{placeholders}``, checked before anything runs.

Import-light: a study reads and checks its templates without torch, and ``check`` looks at no file.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from fieldbook.errors import UserError, nearest
from fieldbook.files import sha256_file, user_path

EXTERNAL = "external"
"""What stands for the preset of an external method, which has none."""

Stage = Literal["train", "render"]
STAGES: tuple[Stage, ...] = ("train", "render")
PLACEHOLDERS: dict[Stage, dict[str, str]] = {
    "train": {
        "dataset": "the folder with the training frames",
        "model": "the folder for what it learns",
        "seed": "the run's seed",
        "device": "cpu or cuda",
        "threads": "CPU threads it may use",
        "python": "the Python that runs Fieldbook",
    }
}
PLACEHOLDERS["render"] = PLACEHOLDERS["train"] | {
    "cameras": "the JSON file with the cameras",
    "trajectory": "the same as nerfbaselines' trajectory",
    "output": "the folder for the pictures",
}
"""What Fieldbook fills in, in words for messages."""


def runs_commands(spec: Mapping[str, Any]) -> bool:
    """Whether a run's spec, or that of a method's early check, is one of an external method."""
    return spec.get("preset") == EXTERNAL


@dataclass(frozen=True)
class Commands:
    """The commands of an external method, as a run's spec holds them.

    Attributes:
        method: Its name, which is the name of a folder too.
        templates: By stage; a method that needs no training has none for it.
        cwd: Where they run.
        needs: What they need: ``gpu``, ``masks``, ``points``.
        overrides: Values for placeholders of the user's own.
    """

    method: str
    templates: Mapping[Stage, str]
    cwd: Path
    needs: tuple[str, ...]
    overrides: Mapping[str, str]

    @staticmethod
    def of(spec: Mapping[str, Any]) -> Commands:
        """The commands in a run's spec, or in that of a method's early check."""
        resolved = spec["resolved"]
        templates: dict[Stage, str] = {stage: resolved[stage] for stage in STAGES if stage in resolved}
        cwd, needs = user_path(resolved["cwd"]), tuple(resolved["needs"])
        return Commands(spec["method"], templates, cwd, needs, resolved["overrides"])

    def words(self, stage: Stage, values: Mapping[str, Any]) -> list[str]:
        """The command of a stage as a process takes it, every placeholder filled in."""
        filled = {**values, **self.overrides}
        return ["".join(_fill(word, filled)) for word in shlex.split(self.templates[stage])]

    def named_files(self, stage: Stage) -> list[Path]:
        """Files that stand in the command of a stage and exist, in the order of the words; the program on PATH is none.

        What they hold decides what the command makes, so it is looked at when asking whether a run is done.
        """
        found = (self.cwd / word for word in self._plain_words(stage))
        return [path for path in dict.fromkeys(found) if path.is_file()]

    def file_hashes(self, stage: Stage) -> dict[str, str]:
        """SHA-256 of ``named_files``."""
        return {path.as_posix(): sha256_file(path) for path in self.named_files(stage)}

    def missing_files(self, stage: Stage) -> list[Path]:
        """Scripts that stand in the command of a stage and are not there."""
        scripts = (word for word in self._plain_words(stage) if Path(word).suffix in (".py", ".sh"))
        return [path for word in scripts if not (path := self.cwd / word).is_file()]

    def _plain_words(self, stage: Stage) -> Iterator[str]:
        program, *rest = shlex.split(self.templates.get(stage, "")) or [""]
        values = [word.partition("=")[2] for word in rest]
        for word in ([program] if "/" in program else []) + rest + values:
            if word and not any(name is not None for _, name in _parts(word)):
                yield "".join(_fill(word, {}))


def check(commands: Commands) -> None:
    """Check templates as far as a study's plan can: words, placeholders, overrides.

    Raises:
        UserError: One line on the first mistake.
    """
    where = f"methods: {commands.method!r}"
    used: set[str] = set()
    for stage, template in commands.templates.items():
        names = _names(f"{where}: {stage}", template)
        for name in names:
            allowed = {**PLACEHOLDERS[stage], **commands.overrides}
            if name not in allowed:
                raise UserError(f"{where}: {stage} has the placeholder {{{name}}}; {nearest(name, allowed)}")
        for choice in _required(commands, stage):
            if names.isdisjoint(choice):
                meaning = f"{{{choice[0]}}}, {PLACEHOLDERS[stage][choice[0]]}"
                raise UserError(f"{where}: {stage} lacks the placeholder {meaning}; put it into the command")
        used |= names
    for name in commands.overrides:
        if name in PLACEHOLDERS["render"]:
            raise UserError(f"{where}: overrides: {{{name}}} is filled in by Fieldbook; give yours another name")
        if name not in used:
            raise UserError(f"{where}: overrides: {name!r} stands in no command; put {{{name}}} where it belongs")


def _required(commands: Commands, stage: Stage) -> Iterator[tuple[str, ...]]:
    """Placeholders without which the command cannot do its stage, each with what does as well."""
    if stage == "train" or "train" not in commands.templates:
        yield ("dataset",)
    if "train" in commands.templates:
        yield ("model",)
    if stage == "render":
        yield from (("cameras", "trajectory"), ("output",))


def _names(where: str, template: str) -> set[str]:
    try:
        words = shlex.split(template)
        names = {name for word in words for _, name in _parts(word) if name is not None}
    except ValueError as error:
        raise UserError(f"{where} cannot be read as a command: {error}; it is {template!r}") from None
    if not words:
        raise UserError(f"{where} is empty; write the command there")
    return names


def _parts(word: str) -> Iterator[tuple[str, str | None]]:
    """Text and placeholder after it; ``{{`` and ``}}`` are braces."""
    for text, name, form, conversion in Formatter().parse(word):
        odd = f"!{conversion}" if conversion else f":{form}" if form else ""
        yield text, None if name is None else name + odd


def _fill(word: str, values: Mapping[str, Any]) -> Iterator[str]:
    for text, name in _parts(word):
        yield text
        if name is not None:
            yield str(values[name])
