"""A study whose jobs, whose Snakemake, or whose process group is killed at random steps, and that is asked for again.

Every method of which a resumed training is promised to equal an undisturbed one takes part. The steps are other ones in
every run; FIELDBOOK_KILL_SEED brings those of a printed seed back.
"""

from __future__ import annotations

import csv
import hashlib
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from fieldbook.files import read_json
from fieldbook.layout import RunFiles, done_path, ledger_path
from fieldbook.status import read_status
from methods.runner.resume import EXACT

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
TIMES = {"render_seconds", "rays_per_s", "seconds"}
METHODS: dict[str, dict[str, Any]] = {
    "hash-nerf": {"max_num_iterations": 400, "steps_per_save": 40},
    "nerfacto": {"max_num_iterations": 200, "steps_per_save": 20},
    "mipnerf": {"max_num_iterations": 40, "steps_per_save": 4},
    "vanilla-nerf": {"max_num_iterations": 40, "steps_per_save": 4},
    # Its grids grow after two of the steps.
    "tensorf": {"max_num_iterations": 80, "steps_per_save": 8, "pipeline.model.upsampling_iters": [30, 55]},
}
CHECKPOINTS = 10  # of every training, the last one included


def write_study(folder: Path, methods: dict[str, dict[str, Any]], **changes: Any) -> Path:
    study = {
        "study": "tiny",
        "scenes": {
            "card": {
                "capture": {"kind": "synthetic", "frames": 20, "size": [320, 240]},
                "sfm": {"max_features": 2048},
            }
        },
        "counts": ["all"],
        "methods": [{"method": m, "preset": "smoke", "overrides": overrides} for m, overrides in methods.items()],
        "metrics": ["psnr", "ssim"],
        "long_side": 40,
        "torch_threads": 1,
    } | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def command(repository: Path, *more: str) -> list[str]:
    start = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), "--cores", "2"]
    return [*start, "--configfile", "study.yaml", *more]


def run_study(repository: Path, folder: Path, *more: str) -> tuple[int, str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command(repository, *more), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    return done.returncode, done.stdout + done.stderr


def finish(repository: Path, folder: Path, *more: str) -> str:
    code, said = run_study(repository, folder, *more)
    assert code == 0, said[-5000:]
    return said


def start_study(repository: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A Snakemake at the head of a process group, which speaks to a file."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    with open(folder / "said.txt", "ab") as said:
        return subprocess.Popen(
            command(repository), cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
        )


def find_runs(folder: Path) -> dict[str, RunFiles]:
    """Runs that have begun to train, by method."""
    found = folder.glob("results/tiny/card/*/*/*/*/*/run.json")
    return {path.parts[-3]: RunFiles(path.parent) for path in sorted(found)}


@pytest.fixture(scope="module")
def prepared(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything up to the datasets, which the tests start from."""
    folder = tmp_path_factory.mktemp("prepared")
    write_study(folder, METHODS)
    finish(repository, folder, "--until", "dataset", "method")
    return folder


@pytest.fixture(scope="module")
def undisturbed(repository: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    shutil.copytree(prepared, folder)
    finish(repository, folder)
    assert find_runs(folder).keys() == METHODS.keys() == set(EXACT)
    return folder


@dataclass
class Killer:
    """A study at work, and what was killed of it.

    Attributes:
        pause: Seconds between two checkpoints of an undisturbed training, by method.
        kills: What was killed, and at which steps.
        at_work: Methods that were in training when Snakemake was last killed.
        kept: Ledgers of what was finished by then.
    """

    repository: Path
    folder: Path
    chance: random.Random
    pause: dict[str, float]
    kills: list[str] = field(default_factory=list)
    at_work: list[str] = field(default_factory=list)
    kept: dict[Path, bytes] = field(default_factory=dict)

    def processes(self, method: str = "") -> list[psutil.Process]:
        """The commands at work, or the watcher and the child of one training."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or []
            ours = process.info["cwd"] == str(self.folder) and any(w.endswith("/fieldbook") for w in words)
            if ours and (not method or ("train" in words and any(f"/{method}/" in w for w in words))):
                found.append(process)
        return found

    def training(self) -> list[str]:
        """Methods that have begun to train and have not ended."""
        return [method for method in find_runs(self.folder) if self.processes(method)]

    def saved(self, method: str) -> int:
        """Steps that a training has saved."""
        resume = find_runs(self.folder)[method].resume
        return max((e["step"] + 1 for e in read_json(resume)["checkpoints"]), default=0) if resume.is_file() else 0

    def draw(self, method: str) -> tuple[int, float]:
        """A random step of a training that is not its last: how many are to be saved, and how long to wait then."""
        return self.chance.randrange(CHECKPOINTS - 1) * METHODS[method]["steps_per_save"], self.chance.random()

    def note(self, what: str, methods: list[str]) -> None:
        places = [f"{method} after step {self.saved(method)}" for method in methods]
        self.kills.append(f"{what}: {', '.join(places)}")

    def wait(self, snakemake: subprocess.Popen[bytes], method: str) -> None:
        """Until a random step of a method's training."""
        saved, share = self.draw(method)
        while not (method in self.training() and self.saved(method) >= saved):
            assert snakemake.poll() is None
            time.sleep(0.02)
        time.sleep(share * self.pause[method])
        self.at_work = self.training()
        stages = [(run, stage) for run in find_runs(self.folder).values() for stage in ("train", "render", "score")]
        ledgers = [ledger_path(run.root, stage) for run, stage in stages if done_path(run.root, stage).exists()]
        self.kept |= {path: path.read_bytes() for path in ledgers}

    def jobs(self) -> None:
        """Kill every training once; Snakemake goes on with the others."""
        snakemake, due = start_study(self.repository, self.folder), {m: self.draw(m) for m in METHODS}
        while snakemake.poll() is None:
            for method in set(self.training()) & due.keys():
                saved, share = due[method]
                if self.saved(method) >= saved:
                    del due[method]
                    time.sleep(share * self.pause[method])
                    self.note("job", [method])
                    for process in self.processes(method):
                        process.kill()
            time.sleep(0.02)
        assert not due
        assert snakemake.returncode != 0

    def snakemake(self) -> None:
        """Kill Snakemake alone: its children live on."""
        snakemake = start_study(self.repository, self.folder)
        self.wait(snakemake, self.chance.choice(list(METHODS)))
        self.note("Snakemake alone", self.at_work)
        snakemake.kill()
        snakemake.wait()
        assert self.processes()

    def group(self) -> None:
        """Kill all there is, as a power cut would; and again while the study is made good."""
        for _ in range(2):
            runs = find_runs(self.folder)
            left = [m for m in METHODS if m not in runs or not done_path(runs[m].root, "train").exists()]
            snakemake = start_study(self.repository, self.folder)
            self.wait(snakemake, self.chance.choice(left))
            self.note("group", self.at_work)
            os.killpg(snakemake.pid, signal.SIGKILL)
            snakemake.wait()
            for process in self.processes():  # those in groups of their own
                process.kill()


@pytest.fixture
def killer(repository: Path, prepared: Path, undisturbed: Path, tmp_path: Path) -> Killer:
    seed = int(os.environ.get("FIELDBOOK_KILL_SEED") or secrets.randbelow(1 << 32))
    print(f"FIELDBOOK_KILL_SEED={seed}")
    shutil.copytree(prepared, tmp_path / "work")
    runs = find_runs(undisturbed)
    pause = {m: read_status(run.status("train")).numbers["seconds"] / CHECKPOINTS for m, run in runs.items()}
    return Killer(repository, tmp_path / "work", random.Random(seed), pause)


def rows(folder: Path) -> list[dict[str, Any]]:
    with open(folder / "results/tiny/images.csv", newline="", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(stream)]


def pictures(folder: Path) -> dict[str, str]:
    found = [path for run in find_runs(folder).values() for path in run.root.rglob("*.png")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def checkpoint(run: RunFiles) -> dict[str, Any]:
    return torch.load(run.checkpoints / read_json(run.checkpoint_manifest)["checkpoint"], weights_only=True)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def sessions(folder: Path) -> dict[str, int]:
    return {m: read_status(run.status("train")).numbers["sessions"] for m, run in find_runs(folder).items()}


def assert_equals(folder: Path, whole: Path) -> None:
    ours, theirs = find_runs(folder), find_runs(whole)
    assert ours.keys() == theirs.keys()
    for method, run in ours.items():
        assert same(checkpoint(run), checkpoint(theirs[method])), method
        assert not run.resume.exists()
    assert rows(folder) == rows(whole)
    assert len(rows(folder)) >= 2 * len(METHODS)
    assert pictures(folder) == pictures(whole)
    assert len(pictures(folder)) > 4 * len(METHODS)


@pytest.mark.parametrize("kill", [Killer.jobs, Killer.snakemake, Killer.group], ids=lambda kill: kill.__name__)
def test_asked_for_again_it_ends_as_if_nothing_had_happened(
    kill: Callable[[Killer], None], killer: Killer, undisturbed: Path
):
    kill(killer)
    print(*killer.kills, sep="\n")
    said = finish(killer.repository, killer.folder)
    assert ("The lock of a Snakemake that died was removed." in said) == (kill is not Killer.jobs)
    assert {path: path.read_bytes() for path in killer.kept} == killer.kept, "finished work was done again"
    print(f"sessions: {sessions(killer.folder)}; stages finished before: {len(killer.kept)}")
    assert_equals(killer.folder, undisturbed)
    if kill is Killer.jobs:
        assert max(sessions(killer.folder).values()) == 2
    if kill is Killer.snakemake:
        assert set(sessions(killer.folder).values()) == {1}
        for method in killer.at_work:  # it has gone on by itself
            log = find_runs(killer.folder)[method].root / "logs/train.log"
            assert "was done before from the same inputs and is kept" in log.read_text()
    assert "Nothing to be done" in finish(killer.repository, killer.folder)


def test_a_picture_that_vanishes_in_mid_study_is_one_line_and_put_back_the_same_command_finishes(
    repository: Path, prepared: Path, undisturbed: Path, tmp_path: Path
):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    snakemake = start_study(repository, folder)
    while not find_runs(folder):  # with its pictures in memory
        assert snakemake.poll() is None
        time.sleep(0.02)
    picture = folder / "results/scenes/card/images-40/frame_00000.png"
    picture.rename(tmp_path / "away.png")
    assert snakemake.wait(timeout=300) != 0
    said = (folder / "said.txt").read_text()
    lines = {line.strip() for line in said.splitlines() if picture.name in line}
    assert lines
    assert all(re.fullmatch(rf"fieldbook: \S+{picture.name}: missing; put it back, .*", line) for line in lines), lines
    assert "Traceback" not in said
    done = [run for run in find_runs(folder).values() if run.status("train").exists()]
    assert 0 < len(done) < len(METHODS)
    before = {run: ledger_path(run.root, "train").read_bytes() for run in done}
    (tmp_path / "away.png").rename(picture)
    finish(repository, folder)
    assert {run: ledger_path(run.root, "train").read_bytes() for run in done} == before
    assert_equals(folder, undisturbed)
