"""Every command has help with an example; mistakes end with one line and exit code 2."""

import json
import subprocess
import sys

import pytest

from fieldbook import cli
from fieldbook.cli import COMMANDS, entrypoint, main
from fieldbook.status import OK, Status, write_status


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_of_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Example: fieldbook {name}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "--config", "none.yaml"], "none.yaml"),
        (["splits", "scene", "--spec", "{"], "--spec takes JSON"),
        (["splits", "scene", "--spec", "@none.json"], "none.json"),
        (["splits", "scene", "--spec", "[1]"], "not list"),
        (["splits", "scene", "--spec", "{}"], "'reference' has to run first"),
        (["capture", "scene", "--spec", "{}"], "--spec has no key 'capture'"),
        (["tables", "results/x", "--config", "none.yaml"], "none.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fieldbook: ")
    assert error.count("\n") == 1
    assert words in error


def test_an_unknown_command_is_exit_code_2():
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2


def test_debug_shows_the_traceback(capsys, tmp_path):
    assert main(["plan", "--config", str(tmp_path / "none.yaml"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_plan_lists_the_runs_and_their_specs(repository, capsys, monkeypatch):
    monkeypatch.chdir(repository)
    assert main(["plan"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert main(["plan", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [run["id"] for run in record["runs"]] == listed
    assert set(record["train_specs"]) == {f"results/{line}" for line in listed}


def test_an_infeasible_stage_ends_with_exit_code_0_and_says_why(tmp_path, capsys):
    status = {"state": "infeasible", "stage": "reference", "reason": "too dark", "numbers": {}, "spec": {}}
    (tmp_path / "reference.status.json").write_text(json.dumps(status))
    assert main(["splits", str(tmp_path), "--spec", "{}"]) == 0
    assert "infeasible (reference): too dark" in capsys.readouterr().err
    assert json.loads((tmp_path / "splits.status.json").read_text()) == status


@pytest.mark.parametrize(
    ("arguments", "watched"),
    [
        *((f"{command} x --spec {{}}", True) for command in ("train", "render", "reference", "poses")),
        ("--debug train x", True),
        ("train x --debug", True),
        ("train --help", False),
        ("plan", False),
        ("tables train", False),
        ("", False),
    ],
)
def test_what_may_run_out_of_memory_is_watched(arguments, watched, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fieldbook", *arguments.split()])
    monkeypatch.setattr(cli.gc, "set_threshold", lambda _: None)
    monkeypatch.setattr(cli.child, "fork_and_watch", lambda: 7)
    monkeypatch.setattr(cli, "main", lambda _: 0)
    with pytest.raises(SystemExit) as stop:
        entrypoint()
    assert stop.value.code == (7 if watched else 0)


def test_who_watches_a_stage_needs_little_memory_itself(tmp_path):
    """After a kill the stage's command runs once more, in the watcher, up to its work."""
    code = """
import sys
from fieldbook import child, cli
child.killed_at_mb = 9
for stage in cli.WATCHED - {"poses"}:
    cli.main([stage, "a/b/c", "--spec", '{"method": "nerfacto"}'])
cli.main(["poses", "a/b/c", "--count", "2", "--spec", "{}"])
print([m for m in ("torch", "nerfstudio", "pycolmap", "cv2", "numpy") if m in sys.modules])
"""
    for folder, stages in (("a", ["dataset"]), ("a/b/c", ["train", "frames", "splits", "scene_frame"])):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for stage in stages:
            write_status(tmp_path / folder / f"{stage}.status.json", Status(OK, stage))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"
    assert done.stderr.count("infeasible (") == 5
