"""Configs that nobody should write: each is refused in one line before anything is made, or read as it was meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fieldbook.cli import main
from fieldbook.scenes import load_study

from .safety_harness import bounded, refused

GOOD = """
study: s
scenes: {card: {capture: {kind: synthetic}}}
counts: [all]
methods: [{method: nerfacto}]
"""


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def name(where: str, value: str) -> str:
    """The config with a name of the user's; ``value`` is YAML."""
    return {
        "study": changed("study: s", f"study: {value}"),
        "scenes": changed("card:", f"{value}:"),
        "masks": changed("synthetic}", f"synthetic}}, masks: {{{value}: {{kind: truth}}}}"),
        "cones": GOOD + f"cones: {{{value}: {{angle: 10, distance: 1}}}}\n",
        "label": changed("nerfacto}", f"nerfacto, label: {value}}}"),
        "method": changed("nerfacto", value),
    }[where]


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED: dict[str, tuple[str | bytes, str]] = {
    # What is no YAML, or not text.
    "empty": ("", "is empty"),
    "comments only": ("# nothing\n", "is empty"),
    "random bytes": (bytes(range(256)) * 20, "UTF-8"),
    "nul": (GOOD + "\0", "not valid YAML"),
    "utf-16": (GOOD.encode("utf-16"), "UTF-8"),
    "latin-1": (GOOD.replace("study: s", "study: caf\xe9").encode("latin-1"), "UTF-8"),
    "tabs": ("scenes:\n\tcard: 1\n", "line 2"),
    "unclosed": ("a: [1, 2\nb: 3", "not valid YAML in line"),
    "list": ("- 1\n- 2\n", "holds list"),
    "scalar": ("forty-two", "holds str"),
    "json cut short": ('{"study": "s", "scenes": ', "not valid YAML"),
    "two documents": (GOOD + "---\nstudy: t\n", "another document"),
    "larger than a config": ("a: " + "x" * (2 << 20), "more than"),
    # What YAML can do and a config must not.
    "python call": ("a: !!python/object/apply:os.system [touch pwned]", "python/object/apply"),
    "python name": ("a: !!python/name:os.system", "python/name"),
    "python object": ("a: !!python/object/new:pathlib.Path [x]", "python/object/new"),
    "unknown tag": ("a: !secret 1", "!secret"),
    "template code": ('__use_yte__: true\na: ?__import__("os").system("touch pwned")\n', "template"),
    "alias bomb": (BOMB, "more than 100000 values"),
    "alias of itself": ("a: &a [*a]", "within what it stands for"),
    "alias of nothing": ("a: *b", "undefined alias"),
    "a thousand deep": ("a: " + "[" * 1000, "deep"),
    "sixty deep": ("a: " + "[" * 60 + "]" * 60, "deep"),
    "key twice": (GOOD + "counts: [6]\n", "line 6: the key 'counts' is given twice"),
    "inner key twice": (changed("kind: synthetic", "kind: synthetic, kind: video"), "'kind' is given twice"),
    "list as key": ("? [1, 2]\n: 3", "unhashable"),
    "no such date": (GOOD + "seeds: [2024-13-45]\n", "month"),
    "5000 digits": (GOOD + f"seeds: [{'9' * 5000}]\n", "digits"),
    "number that is none": (GOOD + 'seeds: [!!int ""]\n', "does not fit its type"),
    # Values that no key can have.
    "unknown key": (GOOD + "torch_thread: 2\n", "did you mean 'torch_threads'"),
    "number as key": (GOOD + "1: 2\n", "unknown key 1"),
    "text for a list": (changed("[all]", "all"), "counts"),
    "mapping for a list": (changed("[all]", "{a: 1}"), "counts"),
    "null": (changed("[all]", "null"), "counts"),
    "date": (changed("study: s", "study: 2024-01-01"), "study"),
    "nan": (GOOD + "seeds: [.nan]\n", "not a finite number"),
    "infinity in an override": (changed("nerfacto}", "nerfacto, overrides: {a: .inf}}"), "not a finite number"),
    "nan point of interest": (changed("synthetic}", "synthetic}, poi: [0, 0, .nan]"), "not a finite number"),
    "set in an override": (changed("nerfacto}", "nerfacto, overrides: {a: !!set {x}}}"), "plain values"),
    "bytes in an override": (changed("nerfacto}", "nerfacto, overrides: {a: !!binary aGk=}}"), "plain values"),
    "a billion repeats": (GOOD + "repeats: 1000000000\n", "repeats"),
    "more runs than a study has": (GOOD + "repeats: 10000\nseeds: [0, 1]\n", "more than 10000 runs"),
    "negative seed": (GOOD + "seeds: [-1]\n", "seeds"),
    "seed beyond 32 bits": (GOOD + "seeds: [4294967296]\n", "seeds"),
    "a million threads": (GOOD + "torch_threads: 1000000\n", "torch_threads"),
    "a picture of terabytes": (changed("synthetic}", "synthetic, size: [1048576, 1048576]}"), "size"),
    "a billion frames": (changed("synthetic}", "synthetic, frames: 1000000000}"), "frames"),
    "count of 400 digits": (changed("[all]", f"['{'9' * 400}']"), "not possible"),
    "kind that is a list": (changed("kind: synthetic", "kind: [video]"), "['video'] is not known"),
    "control character": (changed("kind: synthetic", 'kind: video, path: "a\\e[31m.mp4"'), "cannot be printed"),
    # Paths and names.
    "empty path": (changed("kind: synthetic", 'kind: images, path: ""'), "path"),
    "home of nobody": (changed("kind: synthetic", "kind: video, path: ~nobody-at-all/a.mp4"), "cannot be a path"),
    "path of 5000 letters": (changed("kind: synthetic", f"kind: video, path: {'x' * 5000}"), "cannot be a path"),
    "path with a nul": (changed("kind: synthetic", 'kind: video, path: "a\\0b"'), "cannot be printed"),
    "no such path": (changed("kind: synthetic", "kind: video, path: none.mp4"), "there is no none.mp4"),
    "results that are a file": (GOOD + "results: config.yaml\n", "is a file"),
    "results in a folder called ~": (GOOD + "results: ~/results\n", "~"),
    "results that Snakemake fills in": (GOOD + "results: 'r{scene}'\n", "braces"),
    "weights in a file": (GOOD + "weights: config.yaml\n", "no folder"),
    "empty weights": (GOOD + "weights: ''\n", "weights"),
}
BAD_NAMES = {
    "parent": '"../x"',
    "path": "a/b",
    "absolute": "/tmp/x",
    "hidden": ".x",
    "two dots": "..",
    "backslash": "'a\\b'",
    "empty": '""',
    "space": '"a b"',
    "dash first": '"-rf"',
    "newline": '"x\\n"',
    "nul": '"x\\0"',
    "65 letters": "x" * 65,
    "composed": '"caf\xe9"',
    "decomposed": '"cafe\u0301"',
    "invisible": '"x\u200b"',
    "glob": '"*"',
    "shell": '"$(id)"',
}
RESERVED = {
    ("study", "scenes"): "reserved",
    ("study", "log"): "reserved",
    ("study", "mlartifacts"): "reserved",
    ("study", "Scenes"): "upper and lower case",
    ("scenes", "methods"): "reserved",
    ("scenes", "LOGS"): "upper and lower case",
    ("masks", "none"): "cannot be a name",
    ("masks", "None"): "upper and lower case",
    ("cones", "test"): "reserved",
    ("scenes", "card: {capture: {kind: synthetic}}, Card"): "upper and lower case",
    ("masks", "a: {kind: truth}, A"): "upper and lower case",
    ("cones", "a: {angle: 1, distance: 1}, A"): "upper and lower case",
}


def refused_config(path: Path, note: str = "") -> str:
    return refused(lambda: load_study(path), path.parent, note)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(content: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(("content", "word"), REFUSED.values(), ids=REFUSED)
def test_a_broken_config_is_one_line_and_makes_nothing(written, content: str | bytes, word: str):
    assert word in refused_config(written(content))


@pytest.mark.parametrize("where", ["study", "scenes", "masks", "cones", "label", "method"])
def test_a_name_that_is_no_single_part_of_a_path_is_refused(written, where: str):
    for what, value in BAD_NAMES.items():
        refused_config(written(name(where, value)), what)


@pytest.mark.parametrize(("case", "word"), RESERVED.items(), ids=[" ".join(c) for c in RESERVED])
def test_reserved_names_and_twins_in_upper_and_lower_case_are_refused(written, case: tuple[str, str], word: str):
    assert word in refused_config(written(name(*case)))


def test_labels_that_differ_by_case_only_would_share_a_folder_and_are_refused(written):
    twice = changed("{method: nerfacto}", "{method: nerfacto, label: a}, {method: nerfacto, label: A}")
    assert "asks twice" in refused_config(written(twice))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, link_to_itself, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_neither_waited_for_nor_read(tmp_path: Path, make):
    make(tmp_path / "config.yaml")
    assert "config.yaml" in refused_config(tmp_path / "config.yaml")


READ = {
    "byte order mark": "\ufeff" + GOOD,
    "windows line ends": GOOD.replace("\n", "\r\n"),
    "json": '{"study": "s", "scenes": {"card": {"capture": {"kind": "synthetic"}}}, "counts": ["all"], '
    '"methods": [{"method": "nerfacto"}]}',
    "merged mapping": changed("[{method: nerfacto}]", "[&m {method: nerfacto}, {<<: *m, preset: smoke}]"),
    "64 letters": changed("study: s", f"study: {'x' * 64}"),
    "every key of a mapping an anchor's": GOOD + "cones: {a: &c {angle: 1, distance: 1}, b: *c}\n",
}


@pytest.mark.parametrize("content", READ.values(), ids=READ)
def test_what_only_looks_odd_is_read(written, content: str):
    with bounded():
        assert load_study(written(content)).runs


def test_a_link_to_a_config_is_followed(written, tmp_path: Path):
    link = tmp_path / "link.yaml"
    link.symlink_to(written(GOOD))
    assert load_study(link).runs


@pytest.mark.parametrize("case", ["python call", "alias bomb", "key twice", "random bytes"])
def test_the_command_ends_with_exit_code_2_and_one_line(written, tmp_path: Path, capsys, case: str):
    assert main(["plan", "--config", str(written(REFUSED[case][0]))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fieldbook: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "pwned").exists()
