"""The kernel ends a process for want of memory, really: in a control group that has too little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldbook.files import read_json, write_json
from fieldbook.layout import RunFiles, SceneFiles
from fieldbook.machine import oom_kills
from fieldbook.status import OK, Status, read_status, write_status

from .external_script import external_dataset, run_of, script, spec_of
from .runner_ball import SPEC, write_dataset

LIMIT_MB = 300  # too little for torch, and for COLMAP's features of a large picture
pytestmark = pytest.mark.slow


@pytest.fixture
def little_memory() -> Iterator[list[str]]:
    """The beginning of a command that runs in a control group with ``LIMIT_MB``."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, limit = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    group = root / f"fieldbook-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(LIMIT_MB << 20))
    except OSError as error:
        pytest.skip(f"no control group of our own: {error}")
    yield ["sh", "-c", f'echo $$ > {group / "cgroup.procs"} && exec "$@"', "sh"]
    group.rmdir()


def _end(command: list[str], status: Path) -> Status:
    """Run a stage, which ends well, and read how it did."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return read_status(status)


def _assert_killed(status: Status, stage: str, what: str) -> None:
    assert (status.state, status.stage) == ("infeasible", stage)
    assert status.reason.startswith(f"out of memory on the host: the kernel ended {what}, which had held up to ")
    # Who watches it has a part of the limit too; pages of files are resident, but not all counted there.
    assert LIMIT_MB / 2 < status.numbers["peak_mb"] < 1000


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    """A run that can be trained and, as far as the files before the model say, rendered."""
    files = RunFiles(tmp_path / "study" / "nerfacto" / "run")
    files.root.mkdir(parents=True)
    write_status(write_dataset(tmp_path / "study").status(), Status(OK, "dataset"))
    write_status(files.status("train"), Status(OK, "train"))
    files.checkpoint_manifest.write_text("{}")
    return files


@pytest.mark.parametrize("stage", ["train", "render"])
def test_a_run_that_is_killed_for_want_of_memory_is_infeasible_with_the_peak(stage: str, run: RunFiles, little_memory):
    command = [*little_memory, "fieldbook", stage, str(run.root), "--spec", json.dumps(SPEC)]
    _assert_killed(_end(command, run.status(stage)), stage, f"the stage {stage!r}")
    if stage == "train":
        assert read_json(run.checkpoint_manifest)["checkpoint"] is None


@pytest.fixture
def scene(tmp_path: Path) -> SceneFiles:
    """A scene of three large pictures of noise, with what ``reference`` and ``poses`` read of it."""
    files, names = SceneFiles(tmp_path / "scene"), [f"frame_{k:05d}.png" for k in range(3)]
    noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)
    for name in names:
        for folder in (files.raw, files.frames):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(folder / name)
    lens = {"width": 1200, "height": 900, "fx": 1000.0, "fy": 1000.0, "cx": 600.0, "cy": 450.0}
    frames = [{"name": name} for name in names]
    write_json(files.raw_index, {"frames": frames})
    similarity = {"scale": 1.0, "rotation": np.eye(3).tolist(), "translation": [0.0] * 3}
    write_json(files.scene, {"scene_from_colmap": similarity})
    write_json(files.splits, {"pool": names, "test": [], "nested": True})
    write_json(files.reference_poses, {"camera": lens, "poses": {name: np.eye(4).tolist() for name in names}})
    for stage in ("frames", "splits", "scene_frame"):
        write_status(files.status(stage), Status(OK, stage))
    return files


@pytest.mark.parametrize("stage", ["reference", "poses"])
def test_a_reconstruction_that_is_killed_for_want_of_memory_is_infeasible_too(stage, scene: SceneFiles, little_memory):
    command = [*little_memory, "fieldbook", stage, str(scene.root), "--spec", json.dumps({"sfm": {"threads": 1}})]
    status = scene.status(stage)
    if stage == "poses":
        command += ["--count", "all", "--policy", "subset"]
        status = scene.poses("all", "subset", "incremental", "none", 0, 0).status()
    _assert_killed(_end(command, status), stage, f"the stage {stage!r}")


def test_a_command_that_is_killed_for_want_of_memory_is_infeasible_too(tmp_path: Path, little_memory):
    dataset = external_dataset(tmp_path)
    script(dataset, f"memory = bytearray(b'x') * ({LIMIT_MB} << 20)", "greedy.py")
    spec = spec_of(dataset, train="{python} greedy.py {dataset} {model}")
    run = run_of(dataset)
    command = [*little_memory, "fieldbook", "train", str(run.root), "--spec", json.dumps(spec)]
    _assert_killed(_end(command, run.status("train")), "train", "the train command of mine")


def test_what_the_kernel_kills_in_another_group_is_not_counted_in_ours(little_memory, tmp_path: Path):
    greedy = f"bytearray(b'x') * ({LIMIT_MB} << 20)"
    count = f"""
import subprocess, sys
from fieldbook.machine import oom_kills
before = oom_kills()
subprocess.run([sys.executable, "-c", {greedy!r}])
print(oom_kills() - before)
"""
    ours, hosts = oom_kills(), oom_kills(tmp_path / "none")
    done = subprocess.run([*little_memory, sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert oom_kills() == ours
    assert oom_kills(tmp_path / "none") > hosts
