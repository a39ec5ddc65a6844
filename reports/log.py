"""The research log: one entry per state of a study, never rewritten, all compiled into one page."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fieldbook.errors import UserError
from fieldbook.files import read_text, write_text
from fieldbook.layout import Results, StudyFiles
from fieldbook.safe_yaml import load_yaml
from reports.facts import headline
from reports.ranking import by_mask, ranking_words, ranks, single_run_note, sorted_cells
from reports.records import StudyRecord, load_study
from reports.tables import read_tables
from reports.text import QUALITY, label, plural, present, shown_axes
from reports.versions import mixed_note, version_sets

_HEADING = re.compile(r"^# (\d{4}-\d\d-\d\d) (.*)$")
_UNSET = "not set"


@dataclass(frozen=True)
class Entry:
    """One file of ``results/log/``."""

    path: Path
    date: str
    study: str
    body: str

    @property
    def number(self) -> int:
        """1 for ``<date>-<study>.md``, k for ``<date>-<study>-<k>.md``."""
        rest = self.path.stem.removeprefix(f"{self.date}-{self.study}").removeprefix("-")
        return int(rest) if rest.isdigit() else 1

    @property
    def config(self) -> dict[str, str] | None:
        """The config the entry quotes, flattened to dotted keys; None where it quotes none that can be read."""
        found = re.search(r"^(`{3,})yaml\n(.*?)^\1$", self.body, re.DOTALL | re.MULTILINE)
        try:
            return _flatten(load_yaml(found[2], str(self.path))) if found else None
        except UserError:  # edited by hand
            return None


def append_log_entry(
    results: Path, study_json: Path, out: StudyFiles, today: datetime.date | None = None
) -> dict[str, Any]:
    """Write an entry on the study as its tables stand, unless the study's latest entry says the same already.

    Args:
        results: Root of everything Fieldbook writes; entries go to ``log/``, all of them into ``log.md``.
        study_json: The resolved study.
        out: Holds the tables.
        today: The entry's date; the current one by default.

    Returns:
        ``{"log_entry": file name, "log_entry_new": bool}``.

    Raises:
        UserError: The tables or ``study_json`` are missing.
    """
    date = (today or datetime.date.today()).isoformat()
    study = load_study(results, study_json)
    runs, cells = read_tables(out)
    log = Results(results)
    folder = log.log
    earlier = [e for e in read_entries(folder) if e.study == study.name]
    # Written against its own predecessor, an unchanged study reads exactly as its latest entry does.
    if earlier and _body(study, runs, cells, out, earlier[:-1]) == earlier[-1].body:
        path, new = earlier[-1].path, False
    else:
        path, new = _free_path(folder, f"{date}-{study.name}"), True
        write_text(path, f"# {date} {study.name}\n{_body(study, runs, cells, out, earlier)}")
    _compile(folder, log.compiled_log)
    return {"log_entry": path.name, "log_entry_new": new}


def read_entries(folder: Path) -> list[Entry]:
    """All entries of a log folder, by date, study and number; files that are no entries are left alone."""
    found = []
    for path in folder.glob("*.md"):
        try:
            first, _, body = read_text(path).partition("\n")
        except UserError:
            continue
        if heading := _HEADING.match(first):
            found.append(Entry(path, heading[1], heading[2], body))
    return sorted(found, key=lambda e: (e.date, e.study, e.number))


def _free_path(folder: Path, stem: str) -> Path:
    path, number = folder / f"{stem}.md", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.md"
    return path


def _compile(folder: Path, target: Path) -> None:
    entries = [f"#{e.path.read_text(encoding='utf-8').strip()}\n" for e in read_entries(folder)]
    write_text(target, "\n".join(["# Research log\n", *entries]))


def _body(
    study: StudyRecord, runs: list[dict[str, str]], cells: list[dict[str, str]], out: StudyFiles, earlier: list[Entry]
) -> str:
    config = study.content.get("config", {})
    sections = [
        [_plain(headline(runs, cells))],
        _best(study, cells),
        _infeasible(cells),
        _difference(config, earlier),
        ["Files: " + ", ".join(f"`{out.root.name}/{p.name}`" for p in (out.report, out.cells_csv, out.runs_csv))],
        _versions(study),
        _config(config),
    ]
    return "\n" + "\n".join("\n".join(lines) + "\n" for lines in sections if lines)


def _best(study: StudyRecord, cells: list[dict[str, str]]) -> list[str]:
    lines = []
    for scene in study.scenes:
        for group in by_mask([c for c in cells if c["scene"] == scene]).values():
            first = sorted_cells(group)[0]
            if ranks(group).get(first["cell"]) == 1:
                values = "; ".join(f"{m.heading} {m.show(first)}" for m in present(QUALITY, [first]))
                lines.append(f"- {_plain(scene)}: {_plain(label(first, shown_axes(cells)))}. {values}")
    note = single_run_note(cells)
    heading = f"Best complete cell of each scene, {ranking_words(cells)}.{' ' + note if note else ''}"
    return [heading, "", *lines] if lines else []


def _infeasible(cells: list[dict[str, str]]) -> list[str]:
    failed = [c for c in cells if c["infeasible"] != "0"]
    axes = shown_axes(cells) if cells else []
    lines = [
        f"- {_plain(c['scene'])}: {_plain(label(c, axes))} "
        f"({c['infeasible']} of {c['planned']} runs, stage {_plain(c['stage'])}): {_plain(c['reason'])}"
        for c in failed
    ]
    return ["Infeasible:", "", *lines] if lines else []


def _difference(config: dict[str, Any], earlier: list[Entry]) -> list[str]:
    before = earlier[-1].config if earlier else None
    if before is None:
        return []
    now = _flatten(config)
    changed = [k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k)]
    since = f"Config since {earlier[-1].path.stem}:"
    if not changed:
        return [f"{since} unchanged."]
    return [since, "", *(f"- {_plain(k)}: {_plain(_change(before, now, k))}" for k in changed)]


def _change(before: dict[str, str], now: dict[str, str], key: str) -> str:
    return f"{before.get(key, _UNSET)} → {now.get(key, _UNSET)}"


def _versions(study: StudyRecord) -> list[str]:
    sets = version_sets(study.runs)
    lines = [
        f"- {plural(s.runs, 'run')}: " + ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in s.versions.items())
        for s in sets
    ]
    return [f"Versions that the runs were made with. {_plain(mixed_note(sets))}".rstrip(), "", *lines] if lines else []


def _config(config: dict[str, Any]) -> list[str]:
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    # A fence longer than any in the text cannot be closed by the text.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}yaml", text.rstrip("\n"), fence]


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Dotted keys of nested mappings; lists and plain values in YAML's one-line form."""
    if isinstance(value, dict) and value:
        pairs = (_flatten(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items())
        return {key: text for part in pairs for key, text in part.items()}
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return {prefix: text.removesuffix("\n").removesuffix("\n...").strip()} if prefix else {}


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
