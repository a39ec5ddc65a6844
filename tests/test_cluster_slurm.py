"""A real SLURM of one node: a study runs there as it does locally, whatever is stopped meanwhile."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fieldbook.files import read_json
from fieldbook.layout import RunFiles
from fieldbook.status import read_status

from .slurm_loopback import Loopback, why_not

WHY_NOT = why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=f"no SLURM: {WHY_NOT}")]
BIN = Path(sys.executable).parent
TIMES = {"seconds"}
STUDY = {
    "study": "tiny",
    "scenes": {
        "card": {
            "capture": {"kind": "synthetic", "frames": 20, "size": [320, 240]},
            "sfm": {"max_features": 2048},
        }
    },
    "counts": ["all"],
    "methods": [
        {"method": "nerfacto", "preset": "smoke", "overrides": {"max_num_iterations": 600, "steps_per_save": 100}}
    ],
    "seeds": [0, 1, 2],
    "cones": {"up25": {"angle": 25, "distance": 1, "views": 2}},
    "metrics": ["psnr", "ssim"],
    "long_side": 64,
    "torch_threads": 1,
}


def _command(repository: Path, folder: Path, *more: str) -> list[str]:
    folder.mkdir(exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY))
    start = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), "--directory", str(folder)]
    return [*start, "--configfile", str(folder / "study.yaml"), *more]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch) -> Iterator[Loopback]:
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    with Loopback(tmp_path / "cluster") as cluster:
        yield cluster


class Run:
    """A study that a cluster is at.

    Args:
        cluster: The cluster.
        repository: The checkout.
        folder: The working directory.
        more: Options for Snakemake besides the profile's.
    """

    def __init__(self, cluster: Loopback, repository: Path, folder: Path, *more: str):
        self.cluster, self.folder, self._log = cluster, folder, folder / "snakemake.log"
        profile = ("--profile", str(repository / "profiles/slurm"), "--slurm-status-command", "squeue")
        faster = ("--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "5")
        command = _command(repository, folder, *profile, *faster, *more)
        with open(self._log, "w") as stream:
            self.process = subprocess.Popen(cluster.inside(*command), stdout=stream, stderr=subprocess.STDOUT)

    def log(self) -> str:
        return self._log.read_text()

    def until(self, condition, seconds: float = 400):
        """Wait for something to hold, and Snakemake to live; what it then is."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.log()[-4000:]
            assert time.monotonic() < end, self.log()[-4000:]
            time.sleep(0.3)
        return found

    def trainings(self, state: str = "RUNNING") -> dict[str, str]:
        """Names of the runs whose trainings are in a state, by job."""
        jobs = self.cluster.queue().items()
        found = {
            job: re.search(r"^rule_train_.*_([^_]*-rep0)$", comment) for job, (now, comment) in jobs if now == state
        }
        return {job: name.group(1) for job, name in found.items() if name}

    def saved(self, name: str) -> RunFiles | None:
        """A run, once a checkpoint of it is there to go on from."""
        runs = map(RunFiles, self.folder.glob(f"results/tiny/card/*/*/*/nerfacto/{name}"))
        return next((run for run in runs if run.resume.is_file() and read_json(run.resume)["checkpoints"]), None)

    def two_trainings(self) -> dict[str, RunFiles]:
        """The two that run, once both have saved a checkpoint."""
        runs = {job: self.saved(name) for job, name in self.trainings().items()}
        saved = {job: run for job, run in runs.items() if run is not None}
        return saved if len(saved) == 2 else {}


def _locally(repository: Path, folder: Path, *more: str) -> None:
    command = _command(repository, folder, "--cores", "8", *more)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


def _rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results/tiny/images.csv", newline="", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(stream)]


def test_a_study_with_a_requeued_a_cancelled_job_and_a_restarted_controller_equals_a_local_one(
    cluster: Loopback, repository: Path, tmp_path: Path
):
    study = Run(cluster, repository, tmp_path / "slurm", "--verbose")

    # Two devices, three trainings: the third waits for a device, not for CPUs.
    (first, requeued), (second, cancelled) = study.until(study.two_trainings).items()
    assert len(study.trainings("PENDING")) == 1
    details = [cluster.run("scontrol", "--details", "show", "job", job) for job in (first, second)]
    assert sorted(re.findall(r"GRES=gpu:1\(IDX:(\d)\)", "".join(details))) == ["0", "1"]

    # As a node that is taken away does: the same job, again.
    cluster.run("scontrol", "requeue", first)
    # As somebody does, or a time limit: the job is gone, Snakemake submits another.
    cluster.run("scancel", second)
    study.until(lambda: first not in study.trainings() and second not in study.trainings())
    assert not requeued.status("train").exists()
    study.until(lambda: first in study.trainings())
    assert cluster.restarts(first) == 1

    # The controller is away while Snakemake asks, and comes back with the state it had.
    before = set(study.trainings())
    cluster.stop_controller()
    study.until(lambda: re.search(r"could not check status .*\(final attempt\)", study.log()))
    cluster.run("slurmctld")
    assert before <= set(cluster.queue())

    study.process.wait(timeout=900)
    assert study.process.returncode == 0, study.log()[-4000:]
    for stopped in (requeued, cancelled):
        assert read_status(stopped.status("train")).numbers["sessions"] == 2
        assert "going on from step" in (stopped.root / "logs/train.log").read_text()
    assert f"SLURM-job '{second}' failed, SLURM status is: 'CANCELLED'" in study.log()

    _locally(repository, tmp_path / "local")
    assert _rows(tmp_path / "slurm") == _rows(tmp_path / "local")
    assert len(_rows(tmp_path / "slurm")) == 3 * (2 + 2)


def test_a_training_leaves_before_its_time_limit_and_goes_on_in_the_next_job(
    cluster: Loopback, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # More steps than fit into the three minutes, of which the profile's notice takes two.
    long = {"method": "nerfacto", "preset": "smoke", "overrides": {"max_num_iterations": 100000}}
    monkeypatch.setitem(STUDY, "methods", [long])
    folder = tmp_path / "slurm"
    _locally(repository, folder, "--until", "dataset", "method")
    study = Run(cluster, repository, folder, "--set-resources", "train:runtime=3", "--until", "train")
    first = study.until(study.trainings)
    job, name = next(iter(first.items()))
    study.until(lambda: job not in study.trainings())
    run = study.saved(name)
    assert run is not None
    # By itself, with what it had done, before SLURM would have killed it.
    assert "SIGTERM: stopped after step" in (run.root / "logs/train.log").read_text()
    study.until(lambda: cluster.queue()[job][0] != "COMPLETING")
    assert cluster.queue()[job][0] == "FAILED"
    study.until(lambda: name in study.trainings().values())
    study.until(lambda: "going on from step" in (run.root / "logs/train.log").read_text())
    study.process.kill()  # it has days of training to go
    study.process.wait()
