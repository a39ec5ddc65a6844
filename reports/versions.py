"""What the runs of a study were made with, as each of them recorded when it was trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fieldbook.documents import RUN
from reports.records import RunRecord, optional_status, read_optional
from reports.text import plural


@dataclass(frozen=True)
class VersionSet:
    """One combination of commit, Python and packages.

    Attributes:
        versions: Name to version.
        runs: How many runs were trained with it.
    """

    versions: dict[str, str]
    runs: int


def run_versions(run: RunRecord) -> dict[str, str]:
    """Versions that the run's training recorded; empty where it did not end well, the file may be an older one."""
    status = optional_status(run.files.root, "train")
    if status is None or not status.ok:
        return {}
    return {name: str(value) for name, value in read_optional(run.files.run, RUN).get("versions", {}).items()}


def version_sets(runs: Iterable[RunRecord]) -> list[VersionSet]:
    """Every distinct combination, the most used first; runs that recorded none are left out."""
    recorded = [v for v in map(run_versions, runs) if v]
    distinct = [v for i, v in enumerate(recorded) if v not in recorded[:i]]
    return sorted((VersionSet(v, recorded.count(v)) for v in distinct), key=lambda s: -s.runs)


def differing(sets: list[VersionSet]) -> list[str]:
    """Names whose versions are not the same in all sets."""
    names = dict.fromkeys(name for s in sets for name in s.versions)
    return [n for n in names if len({s.versions.get(n) for s in sets}) > 1]


def short_commit(commit: str) -> str:
    """The first 12 digits, and whether files differed from the commit."""
    return commit[:12] + ("-dirty" if commit.endswith("-dirty") else "") if len(commit) >= 40 else commit


def commits(sets: list[VersionSet]) -> list[str]:
    """The distinct commits of the sets, short."""
    return list(dict.fromkeys(short_commit(s.versions["commit"]) for s in sets if "commit" in s.versions))


def mixed_note(sets: list[VersionSet]) -> str:
    """A warning where runs were made with different software, else empty."""
    names = differing(sets)
    if not names:
        return ""
    parts = "; ".join(f"{plural(s.runs, 'run')} with {_some(s, names)}" for s in sets)
    return (
        f"The runs of this study were not all made with the same software: {parts}. "
        "A difference between cells may come from that."
    )


def _some(versions: VersionSet, names: list[str]) -> str:
    return ", ".join(f"{n} {short_commit(versions.versions.get(n, 'not recorded'))}" for n in names)
