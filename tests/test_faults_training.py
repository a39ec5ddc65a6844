"""`fieldbook train` under signals and without disk: real processes, really stopped."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.status import OK, Status, read_status, write_status

from .runner_ball import SPEC, write_dataset

STEPS = 1200
pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFiles:
    root = tmp_path / "study"
    root.mkdir()
    files = write_dataset(root)
    write_status(files.status(), Status(OK, "dataset"))
    return files


def _run(dataset: DatasetFiles, name: str = "run") -> RunFiles:
    return RunFiles(dataset.root / "nerfacto" / name)


def _command(run: RunFiles, **overrides: Any) -> list[str]:
    numbers = {"max_num_iterations": STEPS, "steps_per_save": 200, **overrides}
    return ["fieldbook", "train", str(run.root), "--spec", json.dumps({**SPEC, "overrides": numbers})]


def _train(run: RunFiles, **overrides: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(run, **overrides), capture_output=True, text=True, timeout=300)


def _until(condition: Any, process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def _started(run: RunFiles, **overrides: Any) -> subprocess.Popen[str]:
    """A training that has saved a checkpoint of its own."""
    before = _saved(run)
    process = subprocess.Popen(
        _command(run, **overrides), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _until(lambda: _saved(run) != before, process)
    return process


def _saved(run: RunFiles) -> list[int]:
    return [e["step"] for e in read_json(run.resume)["checkpoints"]] if run.resume.is_file() else []


def _tensors(run: RunFiles) -> dict[str, torch.Tensor]:
    path = run.checkpoints / read_json(run.checkpoint_manifest)["checkpoint"]
    return torch.load(path, weights_only=True)["pipeline"]


def _assert_equal(a: RunFiles, b: RunFiles) -> None:
    ours, theirs = _tensors(a), _tensors(b)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _child(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def _gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True


def test_stopped_four_times_in_four_ways_it_ends_as_if_nothing_had_happened(dataset: DatasetFiles):
    whole, run = _run(dataset, "whole"), _run(dataset)
    assert _train(whole).returncode == 0
    for way in ("SIGTERM", "SIGINT", "kill the watcher", "kill the whole group"):
        process = _started(run)
        child = _child(process)
        started = time.monotonic()
        if way.startswith("SIG"):
            process.send_signal(getattr(signal, way))
            _, error = process.communicate(timeout=10)
            assert process.returncode == 128 + getattr(signal, way)
            assert f"{way}: stopped after step" in error
        elif way == "kill the watcher":
            process.kill()
            while not _gone(child):
                time.sleep(0.02)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert time.monotonic() - started < 10
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        assert not run.status("train").exists()
    assert _train(run).returncode == 0
    assert read_status(run.status("train")).numbers["sessions"] == 5
    _assert_equal(run, whole)
    assert not list(run.checkpoints.glob(".*"))


# `fieldbook train` with a step whose compiled code never comes back and holds no GIL: a mutex locked twice. No handler
# of Python's runs while the main thread is in there.
ENDLESS_STEP = """
import sys
from fieldbook import child
if (code := child.fork_and_watch()) is not None:
    sys.exit(code)
import ctypes
from pathlib import Path
from fieldbook.cli import main
from methods.runner.train import Trainer
gradients, marker, last = Trainer._gradients, Path(sys.argv[1]), int(sys.argv[2])
def endless(self, step):
    loss = gradients(self, step)
    if step == last:
        lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(256)
        lock(mutex)
        marker.touch()
        lock(mutex)
    return loss
Trainer._gradients = endless
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_in_a_step_that_does_not_end_is_obeyed_within_10_s(
    dataset: DatasetFiles, tmp_path: Path, number: signal.Signals
):
    whole, run, marker = _run(dataset, "whole"), _run(dataset), tmp_path / "in the step"
    short = {"max_num_iterations": 60, "steps_per_save": 1000}  # no checkpoint but the signal's
    assert _train(whole, **short).returncode == 0
    command = [sys.executable, "-c", ENDLESS_STEP, str(marker), "37", *_command(run, **short)[1:]]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _until(marker.exists, process)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate(timeout=10)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number
    assert f"{number.name}: stopped after step 36" in error
    assert _saved(run) == [36]
    assert _train(run, **short).returncode == 0
    assert read_status(run.status("train")).numbers["sessions"] == 2
    _assert_equal(run, whole)


def test_a_finished_training_is_not_done_again_unless_asked(dataset: DatasetFiles):
    run = _run(dataset)
    assert _train(run, max_num_iterations=20).returncode == 0
    before, ledger = read_status(run.status("train")), (run.root / "train.ledger.json").read_text()
    run.status("train").unlink()
    run.checkpoint_manifest.unlink()
    again = _train(run, max_num_iterations=20)
    assert "was done before from the same inputs and is kept" in again.stderr
    assert read_status(run.status("train")) == before
    assert (run.root / "train.ledger.json").read_text() == ledger
    assert run.checkpoint_manifest.is_file()
    command = [*_command(run, max_num_iterations=20), "--again"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert asked.returncode == 0
    assert "was done before" not in asked.stderr


def test_a_full_disk_ends_with_one_line_and_exit_code_2_and_then_it_goes_on(dataset: DatasetFiles, tmp_path: Path):
    """The run's folder is a file system of its own, which has room for one checkpoint and a half."""
    run, whole = _run(dataset), _run(dataset, "whole")
    assert _train(whole, max_num_iterations=500).returncode == 0
    size = (whole.checkpoints / read_json(whole.checkpoint_manifest)["checkpoint"]).stat().st_size
    run.root.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size={int(size * 1.6)} none {run.root}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    script, train = tmp_path / "full.sh", shlex.join(_command(run, max_num_iterations=500))
    script.write_text(
        f"{mount}\n{train}\necho code $?\nls -A {run.checkpoints}\n"
        f"mount -o remount,size={size * 8} {run.root}\n{train}\necho code $?\ncp -r {run.root}/. {run.root}-copy\n"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", str(script)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split("\n")[:3] == ["code 2", "step-000000199.ckpt", "code 0"], done.stderr
    assert done.stderr.count("fieldbook: no space left for ") == 1
    assert "Traceback" not in done.stderr
    _assert_equal(RunFiles(run.root.with_name("run-copy")), whole)
