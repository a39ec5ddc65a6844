"""`fieldbook train` with a command that is stopped or killed in its midst: what is left of it, and what comes next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fieldbook.layout import DatasetFiles

from .external_script import external_dataset, run_of, script, spec_of, train


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFiles:
    return external_dataset(tmp_path)


# Two processes that stay, unless the file `quick` is there; then it tells which of those before it are left.
SLOW = """
import subprocess, sys, time
from pathlib import Path
if not Path("quick").exists():
    subprocess.Popen([sys.executable, "child.py"])
    time.sleep(60)
files = [Path("/proc", pid, "cmdline") for pid in Path("pids").read_text().split()]
Path(sys.argv[2], "left").write_text("".join(file.read_text() for file in files if file.exists()))
"""
CHILD = """
import os, time
from pathlib import Path
Path("pids").write_text(f"{os.getppid()} {os.getpid()}")
time.sleep(60)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, lambda *_: None)\n" + CHILD
SLOW_TRAIN = "{python} slow.py {dataset} {model}"


@pytest.fixture
def slow(dataset: DatasetFiles) -> Path:
    """Folder of the scripts ``SLOW`` and ``CHILD``, and of the processes that they write down."""
    script(dataset, SLOW, "slow.py")
    script(dataset, CHILD, "child.py")
    (dataset.root.parent / "code" / "pids").touch()
    return dataset.root.parent / "code"


def begin(dataset: DatasetFiles, *options: str) -> subprocess.Popen[str]:
    """Start a training by ``SLOW`` in a process group of its own."""
    program, spec = Path(sys.executable).with_name("fieldbook"), json.dumps(spec_of(dataset, train=SLOW_TRAIN))
    command = [str(program), "train", str(run_of(dataset).root), "--spec", spec, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_child(folder: Path, ours: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not (folder / "pids").read_text():
        assert time.monotonic() < end
        assert ours.poll() is None
        time.sleep(0.05)


def test_sigterm_reaches_the_command_and_leaves_no_status(dataset: DatasetFiles, slow: Path):
    ours = begin(dataset)
    wait_for_child(slow, ours)
    ours.send_signal(signal.SIGTERM)
    ours.communicate(timeout=20)
    assert ours.returncode == 128 + signal.SIGTERM
    for pid in (slow / "pids").read_text().split():
        file = Path("/proc", pid, "cmdline")
        assert not (file.exists() and file.read_text())  # the dead have none
    assert not run_of(dataset).status("train").exists()
    assert train(dataset) == 0


def test_after_a_kill_a_second_run_waits_until_nothing_of_the_command_is_left(dataset: DatasetFiles, slow: Path):
    script(dataset, STUBBORN, "child.py")
    first = begin(dataset)
    wait_for_child(slow, first)
    os.killpg(first.pid, signal.SIGKILL)
    (slow / "quick").touch()
    second = begin(dataset)
    said = second.communicate(timeout=60)[1]
    assert f"waiting for train of {run_of(dataset).root}, which process {os.uname().nodename} " in said
    assert second.returncode == 0, said
    assert (run_of(dataset).external.model / "left").read_text() == ""
    assert "Fieldbook was killed: the train command of mine is ended" in first.communicate(timeout=20)[1]


def test_a_finished_training_that_began_again_and_was_killed_is_trained_anew(dataset: DatasetFiles, slow: Path):
    (slow / "quick").touch()
    assert train(dataset, train=SLOW_TRAIN) == 0
    (slow / "quick").unlink()
    again = begin(dataset, "--again")
    wait_for_child(slow, again)
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate(timeout=20)
    (slow / "quick").touch()
    assert train(dataset, train=SLOW_TRAIN) == 0
    assert (run_of(dataset).external.model / "left").is_file()
