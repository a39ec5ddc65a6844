"""A file of the capture that vanishes in mid-study: one line, what is finished is kept, and put back all is well."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from fieldbook.layout import Results, ledger_path

from .test_faults_study import find_runs, finish, run_study, start_study, write_study

pytestmark = pytest.mark.slow


def _lines(said: str, name: str) -> set[str]:
    return {line.strip() for line in said.splitlines() if name in line}


def test_a_picture_of_the_capture_that_vanishes_in_mid_study_is_one_line_and_costs_nothing_that_was_done(
    repository: Path, write_blender, tmp_path: Path
):
    picture = write_blender(tmp_path / "ball") / "train" / "r_1.png"
    scene = {"card": {"capture": {"kind": "blender", "path": str(tmp_path / "ball")}}}
    write_study(tmp_path, {"nerfacto": {"max_num_iterations": 10}}, scenes=scene, long_side=0)
    files = Results(tmp_path / "results").scene("card")
    snakemake = start_study(repository, tmp_path)
    while not files.status("capture").exists():
        assert snakemake.poll() is None
        time.sleep(0.005)
    shutil.move(picture, tmp_path / "away.png")
    assert snakemake.wait(timeout=100) != 0
    said = (tmp_path / "said.txt").read_text()
    (line,) = _lines(said, "r_1.png")
    assert line.startswith("fieldbook: ")
    assert "Traceback" not in said
    assert not files.status("frames").exists()
    before = ledger_path(files.root, "capture").read_bytes()

    code, said = run_study(repository, tmp_path)  # still away
    assert code == 2
    assert len(_lines(said, "r_1.png")) == 1

    shutil.move(tmp_path / "away.png", picture)
    finish(repository, tmp_path)
    assert find_runs(tmp_path)["nerfacto"].status("score").exists()
    assert ledger_path(files.root, "capture").read_bytes() == before
