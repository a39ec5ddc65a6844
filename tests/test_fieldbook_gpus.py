"""Every process has a GPU to itself: real processes, and an nvidia-smi that lists devices which are not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fieldbook import gpus
from fieldbook.errors import UserError
from fieldbook.gpus import take_gpu, visible_devices
from fieldbook.layout import RunFiles, lock_path
from fieldbook.locks import exclusive
from fieldbook.status import INFEASIBLE, OK, Status, write_status

from .runner_ball import write_dataset

UUIDS = ["GPU-aaaa0000", "GPU-bbbb1111", "GPU-cccc2222"]
TAKE = """
import logging, os, sys, time
from pathlib import Path
from fieldbook import gpus
logging.basicConfig(level="INFO", format="%(message)s")
gpus.LOCKS = Path(sys.argv[1])
gpus.take_gpu()
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch) -> Callable[[list[str]], None]:
    """A machine of which nvidia-smi lists three GPUs; called, it has others."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def has(uuids: list[str]) -> None:
        tool = folder / "nvidia-smi"
        lines = "\n".join(uuids) if uuids else "No devices were found"
        tool.write_text(f"#!/bin/sh\necho '{lines}'\n")
        tool.chmod(0o755)

    has(UUIDS)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpus, "LOCKS", tmp_path)
    monkeypatch.setattr(gpus, "_taken", None)
    return has


@pytest.fixture
def take(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that takes a GPU and keeps it, in an environment of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(**environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", TAKE, str(tmp_path)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def device(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def says(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.readline().strip()


def test_processes_at_a_time_have_one_device_each_and_no_two_the_same(take):
    assert sorted(device(p) for p in [take() for _ in UUIDS]) == UUIDS


def test_one_too_many_waits_until_a_holder_is_killed_and_gets_its_device(take):
    holders = {device(p): p for p in [take() for _ in UUIDS]}
    late = take()
    assert says(late) == "waiting for a GPU: all 3 are taken"
    time.sleep(3 * gpus.POLL_S)
    assert late.poll() is None
    holders[UUIDS[1]].kill()
    assert device(late) == UUIDS[1]


def test_numbers_and_uuids_mean_the_same_device(take):
    assert device(take(CUDA_VISIBLE_DEVICES="1")) == "1"  # as the user wrote it: CUDA's order may be another
    assert device(take(CUDA_VISIBLE_DEVICES="GPU-bbbb,GPU-cccc")) == "GPU-cccc"
    assert device(take()) == UUIDS[0]


def test_only_what_the_user_lets_be_seen_is_taken(take):
    assert sorted(device(p) for p in [take(CUDA_VISIBLE_DEVICES="2,0") for _ in range(2)]) == ["0", "2"]
    assert says(take(CUDA_VISIBLE_DEVICES="2,0")) == "waiting for a GPU: all 2 are taken"
    assert device(take(CUDA_VISIBLE_DEVICES="")) == ""


def test_a_device_that_slurm_allotted_is_used_though_another_job_has_one_of_the_same_number(take):
    jobs = [take(CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID=str(k)) for k in range(2)]
    assert [device(job) for job in jobs] == ["0", "0"]


def test_jobs_of_one_allocation_with_two_devices_share_them(take):
    def job(allocation: int):
        return take(CUDA_VISIBLE_DEVICES="0,1", SLURM_JOB_ID=str(allocation))

    assert sorted(device(p) for p in [job(1), job(1), job(2), job(2)]) == ["0", "0", "1", "1"]
    assert says(job(1)) == "waiting for a GPU: all 2 are taken"


def test_a_process_keeps_its_device_when_it_asks_again():
    first = take_gpu()
    assert first == take_gpu() == os.environ["CUDA_VISIBLE_DEVICES"]
    handle = gpus._taken[1]  # pyright: ignore[reportOptionalSubscript]
    os.close(handle)


def test_the_cpu_takes_none():
    assert take_gpu("cpu") is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("named", "seen"),
    [
        (None, UUIDS),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", [UUIDS[1]]),
        ("0,7,1", [UUIDS[0]]),
        ("GPU-cccc, 0", [UUIDS[2], UUIDS[0]]),
        ("GPU-dddd,0", []),
        ("MIG-1f2e", ["MIG-1f2e"]),
    ],
)
def test_devices_are_those_that_cuda_would_see(named, seen, monkeypatch):
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert list(visible_devices().values()) == seen


def test_without_devices_none_is_taken_whatever_the_environment_says(machine, monkeypatch, tmp_path):
    machine([])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert take_gpu() is None
    assert visible_devices(tmp_path / "none") == {}


def test_without_nvidia_smi_the_driver_tells_how_many_there_are(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    assert visible_devices(tmp_path / "gpus") == {"0": "0", "1": "1"}


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_of_locks_that_somebody_else_made_is_refused(kind, tmp_path, monkeypatch):
    if kind == "folder":
        other = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: other)
    else:
        gpus._folder().rename(tmp_path / "theirs")
        (tmp_path / f"fieldbook-gpus-{os.getuid()}-{os.uname().nodename}").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="belongs to somebody else"):
        take_gpu()


STAGES = {
    "train": {"method": "nerfacto"},
    "render": {"method": "nerfacto"},
    "score": {"metrics": ["lpips_alex"], "weights": "download"},
}
STAGE = """
import os, sys
from pathlib import Path
from fieldbook import cli, gpus
gpus.LOCKS = Path({locks!r})
class Stop(Exception): pass
def spy(find, name, *_):
    if name == "torch": raise Stop
sys.meta_path.insert(0, type("Spy", (), {{"find_spec": spy}})())
try:
    cli.main([{stage!r}, "a/b/c", "--spec", {spec!r}])
except Stop:
    print(os.environ.get("CUDA_VISIBLE_DEVICES"))
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    """A run of which every stage can begin."""
    files = RunFiles(tmp_path / "a/b/c")
    files.root.mkdir(parents=True)
    write_status(write_dataset(tmp_path / "a").status(), Status(OK, "dataset"))
    for stage in ("train", "render"):
        write_status(files.status(stage), Status(OK, stage))
    files.checkpoint_manifest.write_text("{}")
    return files


def start(stage: str, asked: str, folder: Path) -> subprocess.Popen[str]:
    """Start a stage that says which device it has when it imports torch, and ends."""
    code = STAGE.format(locks=str(folder), stage=stage, spec=json.dumps(STAGES[stage] | {"device": asked}))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, cwd=folder)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("asked", ["auto", "cpu"])
def test_a_stage_takes_a_gpu_before_torch_is_imported_unless_it_is_for_the_cpu(stage, asked, tmp_path, run):
    said, _ = start(stage, asked, tmp_path).communicate(timeout=60)
    assert said.strip() == (UUIDS[0] if asked == "auto" else "None")


@pytest.mark.parametrize("stage", ["train", "render"])
def test_a_stage_that_waits_for_its_folder_has_no_gpu_yet(stage, tmp_path, run, take):
    with exclusive(lock_path(run.root, stage), "it"):
        waiting = start(stage, "auto", tmp_path)
        assert says(waiting).startswith(f"waiting for {stage} of a/b/c, which process")
        others = {device(p): p for p in [take() for _ in UUIDS]}
        assert sorted(others) == UUIDS
    assert says(waiting) == "waiting for a GPU: all 3 are taken"
    others[UUIDS[1]].kill()
    assert waiting.communicate(timeout=60)[0].strip() == UUIDS[1]


@pytest.mark.parametrize("stage", ["train", "render"])
def test_a_stage_that_cannot_be_takes_no_gpu(stage, run):
    from fieldbook.cli import main

    for status in (run.root.parent.parent / "dataset.status.json", run.status("train")):
        write_status(status, Status(INFEASIBLE, "poses", "too few"))
    assert main([stage, str(run.root), "--spec", json.dumps(STAGES[stage] | {"device": "auto"})]) == 0
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_scoring_without_lpips_takes_no_gpu(tmp_path):
    from fieldbook.cli import main

    spec = {"metrics": ["psnr", "lpips_alex"], "weights": "none"}
    assert main(["score", str(tmp_path), "--spec", json.dumps(spec)]) == 2  # nothing is rendered there
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
