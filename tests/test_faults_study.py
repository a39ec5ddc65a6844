"""A study whose job, whose Snakemake, or whose whole process group is killed, and that is asked for again."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fieldbook.files import read_json
from fieldbook.layout import RunFiles
from fieldbook.status import read_status

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
TIMES = {"render_seconds", "rays_per_s", "seconds"}


def _study(folder: Path) -> Path:
    path = folder / "study.yaml"
    overrides = {"steps_per_save": 40, "max_num_iterations": 600}
    path.write_text(
        yaml.safe_dump(
            {
                "study": "tiny",
                "scenes": {
                    "card": {
                        "capture": {"kind": "synthetic", "frames": 20, "size": [320, 240]},
                        "sfm": {"max_features": 2048},
                    }
                },
                "counts": [6, "all"],
                "methods": [{"method": "hash-nerf", "preset": "smoke", "overrides": overrides}],
                "cones": {"up25": {"angle": 25, "distance": 1, "views": 2}},
                "metrics": ["psnr", "ssim"],
                "long_side": 64,
                "torch_threads": 1,
            }
        )
    )
    return path


def _command(repository: Path, *more: str) -> list[str]:
    start = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), "--cores", "2"]
    return [*start, "--configfile", "study.yaml", *more]


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def _finish(repository: Path, folder: Path, *more: str) -> str:
    done = subprocess.run(
        _command(repository, *more), cwd=folder, env=_environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def prepared(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything up to the datasets, which the tests start from."""
    folder = tmp_path_factory.mktemp("prepared")
    _study(folder)
    _finish(repository, folder, "--until", "dataset", "path")
    return folder


@pytest.fixture(scope="module")
def undisturbed(repository: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    shutil.copytree(prepared, folder)
    _finish(repository, folder)
    return folder


def _runs(folder: Path) -> list[RunFiles]:
    return [RunFiles(path.parent) for path in sorted(folder.glob("results/tiny/card/*/*/*/hash-nerf/*/run.json"))]


def _jobs(folder: Path) -> list[psutil.Process]:
    """Trainings at work in a folder, watchers and their children."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if "train" in words and any(w.endswith("/fieldbook") for w in words) and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def _kill_a_job(snakemake: subprocess.Popen[bytes], folder: Path) -> None:
    for process in _jobs(folder):
        process.kill()
    snakemake.wait(timeout=100)
    assert snakemake.returncode != 0


def _kill_snakemake_alone(snakemake: subprocess.Popen[bytes], folder: Path) -> None:
    snakemake.kill()
    snakemake.wait()
    assert _jobs(folder)  # its children live on


def _kill_the_group(snakemake: subprocess.Popen[bytes], folder: Path) -> None:
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    for process in _jobs(folder):  # jobs that made groups of their own
        process.kill()


def _rows(folder: Path) -> list[dict[str, Any]]:
    with open(folder / "results/tiny/images.csv", newline="", encoding="utf-8") as stream:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(stream)]


def _pictures(folder: Path) -> dict[str, str]:
    found = folder.glob("results/tiny/card/*/*/*/hash-nerf/*/*/**/*.png")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.parametrize(
    ("kill", "sessions"), [(_kill_a_job, 2), (_kill_snakemake_alone, 1), (_kill_the_group, 2)], ids=lambda v: str(v)
)
def test_asked_for_again_it_ends_as_if_nothing_had_happened(
    kill: Callable[..., None], sessions: int, repository: Path, prepared: Path, undisturbed: Path, tmp_path: Path
):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder)
    snakemake = subprocess.Popen(
        _command(repository), cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not all(run.resume.is_file() for run in _runs(folder)) or len(_runs(folder)) < 2:
        assert time.monotonic() < deadline
        assert snakemake.poll() is None
        time.sleep(0.05)
    kill(snakemake, folder)
    output = _finish(repository, folder)
    assert ("The lock of a Snakemake that died was removed." in output) == (kill is not _kill_a_job)
    for run in _runs(folder):
        assert read_status(run.status("train")).numbers["sessions"] == sessions
        assert not run.resume.exists()
        log = read_json(run.checkpoint_manifest)
        assert log["step"] == 599
    assert _rows(folder) == _rows(undisturbed)
    assert _pictures(folder) == _pictures(undisturbed)
    assert len(_pictures(folder)) > 8
    assert "Nothing to be done" in _finish(repository, folder)
