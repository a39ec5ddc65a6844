"""Nothing is written outside the results folder or through a link, and what is written others may read by the umask."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fieldbook.cli import main
from fieldbook.errors import UserError, one_line
from fieldbook.files import atomic_dir, atomic_path, inside, read_json, user_path, write_json, write_text
from fieldbook.layout import DatasetFiles, Results, RunFiles, done_path, ledger_path, lock_path, status_path
from fieldbook.locks import exclusive

from .safety_harness import contents, refused
from .safety_project import Project

ROOT = Path("/r")
RESULTS, DATASET, RUN = Results(ROOT), DatasetFiles(ROOT / "d"), RunFiles(ROOT / "run")
# Every way in which a name becomes part of a path.
JOINS: dict[str, Callable[[str], Any]] = {
    "study": lambda name: RESULTS.study(name).root,
    "scene": lambda name: RESULTS.scene(name).root,
    "mask": lambda name: RESULTS.scene("s").masks(name),
    "scaled mask": lambda name: RESULTS.scene("s").scaled_masks(name, 4),
    "count": lambda name: RESULTS.scene("s").poses(name, "p", "m", "none", 0, 0).root,
    "policy": lambda name: RESULTS.scene("s").poses("6", name, "m", "none", 0, 0).root,
    "mapper": lambda name: RESULTS.scene("s").poses("6", "p", name, "none", 0, 0).root,
    "sfm mask": lambda name: RESULTS.scene("s").poses("6", "p", "m", name, 0, 0).root,
    "dataset's scene": lambda name: RESULTS.study("s").dataset(name, "6", 0, "p", "none").root,
    "dataset's poses": lambda name: RESULTS.study("s").dataset("c", "6", 0, name, "none").root,
    "dataset's mask": lambda name: RESULTS.study("s").dataset("c", "6", 0, "p", name).root,
    "path's scene": lambda name: RESULTS.study("s").path(name, "p").root,
    "path": lambda name: RESULTS.study("s").path("c", name).root,
    "method's check": lambda name: RESULTS.study("s").method(name),
    "method": lambda name: DATASET.run(name, "run").root,
    "run": lambda name: DATASET.run("m", name).root,
    "rendered path": lambda name: RUN.path(name),
    "status": lambda name: status_path(ROOT, name),
    "ledger": lambda name: ledger_path(ROOT, name),
    "lock": lambda name: lock_path(ROOT, name),
    "done": lambda name: done_path(ROOT, name),
}
NAMES = st.text() | st.text(alphabet="./\\~ab\0\n-")


@given(name=NAMES)
@example(name="..")
@example(name="../../etc")
@example(name="/etc/passwd")
@example(name="x" * 300)
def test_no_name_leaves_the_folder_it_is_joined_to(name: str):
    for what, join in JOINS.items():
        try:
            path = join(name)
        except UserError:
            continue
        assert os.path.normpath(path) == str(path), what
        assert path.is_relative_to(ROOT), what
        assert len(path.parts) == len(join("x").parts), what
        assert str(path).isprintable(), what
        assert max(map(len, path.parts)) <= 255, what


@given(name=NAMES)
def test_a_name_in_a_file_stays_in_its_folder(name: str):
    try:
        path = inside(Path("/a/b"), name)
    except UserError:
        return
    assert Path(os.path.normpath(path)).is_relative_to("/a/b")


@given(text=st.text())
@example(text="~nobody-at-all/x")
@example(text="x" * 5000)
def test_whatever_a_user_writes_is_a_path_or_one_line(text: str):
    try:
        path = user_path(text)
    except UserError as error:
        message = str(error)
    else:
        message = "read" if isinstance(path, Path) else ""
    assert message
    assert message.isprintable()


@given(text=st.text())
def test_a_message_is_one_printable_line_whatever_it_quotes(text: str):
    line = one_line(f"begin {text} end")
    assert line.isprintable()
    assert len(line) <= 1010
    assert line.startswith("begin")
    assert line.endswith("end")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project")).make()


@pytest.mark.parametrize(
    "arguments",
    [
        ["mask", "SCENE", "../../x", "--spec", '{"mask": {"kind": "truth"}}'],
        ["scaled-mask", "SCENE", "../../x", "--long-side", "4"],
        ["poses", "SCENE", "--count", "../../x", "--spec", '{"sfm": {}}'],
        ["poses", "SCENE", "--count", "6", "--sfm-mask", "../../x", "--spec", '{"sfm": {}}'],
        ["dataset", "DATASET", "--scene", "SCENE", "--poses", "POSES", "--mask", "../../x"],
        ["capture", "SCENE", "--spec", '{"capture": {"kind": "video", "path": "~nobody-at-all/x"}}'],
        ["capture", "SCENE", "--spec", '{"capture": 5}'],
        ["capture", "SCENE", "--spec", '{"capture": {"kind": "video"}}'],
        ["splits", "SCENE", "--spec", '{"split": {"test_every": NaN, "file": null}, "nested": true}'],
        ["splits", "SCENE", "--spec", '{"split": {"test_every": 0, "file": null}, "nested": true}'],
        ["scene-frame", "SCENE", "--spec", '{"poi": [1, 2]}'],
        ["reference", "SCENE", "--spec", '{"sfm": {"threads": 1000000}}'],
        ["score", "RUN", "--spec", "[" * 100_000],
        ["score", "RUN", "--spec", '{"metrics": 5}'],
        ["score", "RUN", "--spec", '{"metrics": [["psnr"]], "weights": 5}'],
        ["score", "RUN", "--spec", "@/dev/zero"],
    ],
    ids=lambda a: " ".join(a)[:60],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(project: Project, capsys, arguments: list[str]):
    places = {"SCENE": project.scene.root, "DATASET": project.dataset.root, "RUN": project.run.root}
    places["POSES"] = project.poses.root
    before = contents(project.root)
    assert main([str(places.get(word, word)) for word in arguments]) == 2
    assert contents(project.root) == before
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("fieldbook: ")


def test_writing_replaces_links_and_never_follows_them(tmp_path: Path):
    secret, folder = tmp_path / "secret", tmp_path / "elsewhere"
    secret.write_text("keep me")
    folder.mkdir()
    (folder / "kept").touch()
    results = tmp_path / "results"
    results.mkdir()
    with atomic_path(results / "b.json") as written, atomic_dir(results / "e") as made:
        written.touch()
    for path in (results / "a.json", written):  # under the name that it will be written to first, too
        path.symlink_to(secret)
    for path in (results / "d", made):
        path.symlink_to(folder)
    write_json(results / "a.json", {})
    write_json(results / "b.json", {})
    for name in ("d", "e"):
        with atomic_dir(results / name) as temporary:
            (temporary / "new").touch()
    assert secret.read_text() == "keep me"
    assert [p.name for p in folder.iterdir()] == ["kept"]
    assert read_json(results / "a.json") == {}
    assert [p.name for p in (results / "d").iterdir()] == ["new"]


def test_a_lock_that_is_a_link_leaves_alone_what_it_leads_to(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("keep me")
    (tmp_path / ".stage.lock").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic link"), exclusive(tmp_path / ".stage.lock", "a stage"):
        pass
    assert secret.read_text() == "keep me"


def test_a_link_in_place_of_a_lock_ends_a_command_with_one_line(tmp_path: Path, capsys):
    project = Project(tmp_path).make()
    (project.scene.root / ".splits.lock").unlink(missing_ok=True)
    (project.scene.root / ".splits.lock").symlink_to(tmp_path / "elsewhere")
    spec = '{"split": {"test_every": 2, "file": null}, "nested": true}'
    assert main(["splits", str(project.scene.root), "--spec", spec]) == 2
    assert not (tmp_path / "elsewhere").exists()
    assert capsys.readouterr().err.startswith("fieldbook: ")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077], ids=oct)
def test_everything_is_written_with_the_modes_that_the_umask_says(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        project = Project(tmp_path / "project").make()
        with exclusive(lock_path(project.root, "a"), "a"), atomic_path(project.root / "b.txt") as temporary:
            temporary.touch()
        write_text(project.root / "c.txt", "c")
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in project.root.rglob("*")}
    assert len(modes) > 40
    odd = {p: oct(m) for p, m in modes.items() if m != (0o777 if p.is_dir() else 0o666) & ~umask}
    assert not odd


def test_a_dataset_may_use_its_own_results_folder_and_no_more(tmp_path: Path):
    from methods.runner.transforms import read_transforms

    project = Project(tmp_path / "a").make()
    assert read_transforms(project.dataset.transforms)["frames"]
    (tmp_path / "b").mkdir()
    alone = tmp_path / "b" / "transforms.json"
    alone.write_bytes(project.dataset.transforms.read_bytes())
    assert "may not leave" in refused(lambda: read_transforms(alone), tmp_path)
