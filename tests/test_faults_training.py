"""`fieldbook train` under signals and without disk: real processes, really stopped."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
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
