"""A study with a method that is a script beside one of Fieldbook's own, from video to report."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .test_workflow import job_counts, rows, snakemake, write_study

pytestmark = pytest.mark.slow
CALL = "{python} nearest_view.py --model {model}"


def test_an_external_methods_rows_stand_beside_the_others(repository: Path, tmp_path: Path):
    script = tmp_path / "nearest_view.py"
    shutil.copyfile(repository / "examples" / "nearest_view.py", script)
    commands = {"train": f"{CALL} --dataset {{dataset}}", "render": f"{CALL} --cameras {{cameras}} --output {{output}}"}
    study = write_study(
        tmp_path,
        counts=[2, "all"],
        pose_policies=["reference"],
        masks=["none"],
        seeds=[0, 1],
        metrics=["psnr"],
        methods=[
            {"method": "nearest-view", "kind": "external", **commands},
            {"method": "hash-nerf", "preset": "smoke"},
        ],
    )
    run = ("--cores", "8", "--directory", str(tmp_path), "--configfile", str(study))
    done = snakemake(repository, *run)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = tmp_path / "results" / "tiny"

    cells = {(row["method"], row["count"]): row for row in rows(out / "cells.csv")}
    assert len(cells) == 4
    assert {(row["complete"], row["n_runs"]) for row in cells.values()} == {("1", "2")}
    psnr = {key: float(row["test_psnr_float_mean"]) for key, row in cells.items()}
    assert psnr["nearest-view", "all"] > psnr["nearest-view", "2"]  # with more pictures, the nearest is nearer
    assert all(float(row["novel_psnr_float_mean"]) > 5 for row in cells.values())
    assert float(cells["nearest-view", "all"]["wall_s:render_mean"]) > 0
    assert cells["nearest-view", "all"]["render_rays_per_s_mean"] == ""  # not known without the program's start
    assert float(cells["hash-nerf", "all"]["render_rays_per_s_mean"]) > 0

    # What it showed is a training picture, the same for both seeds, and was scored as it is.
    images = [row for row in rows(out / "images.csv") if row["method"] == "nearest-view" and row["count"] == "all"]
    test = [row for row in images if row["split"] == "test"]
    assert len({row["prediction_sha256"] for row in test}) == len(test) / 2 == 2
    assert {row["split"] for row in images} == {"test", "up25"}
    pictures = tmp_path / "results/scenes/card/images-64"
    shown = next(out.glob("card/nall*/*/masks-none/nearest-view/*seed0*")) / "test" / f"{test[0]['view']}.png"
    others = (np.asarray(Image.open(path)) for path in pictures.glob("*.png") if path.stem != shown.stem)
    assert any(np.array_equal(np.asarray(Image.open(shown)), picture) for picture in others)

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "nearest-view" in page
    assert ">None<" not in page
    again = snakemake(repository, *run)
    assert "Nothing to be done" in again.stdout + again.stderr

    # An edited script runs again what it stands in, and nothing else.
    script.write_text(script.read_text() + "# edited\n")
    plan = snakemake(repository, "--dry-run", *run)
    counts = job_counts(plan.stdout + plan.stderr)
    assert {stage: counts.get(stage, 0) for stage in ("train", "render", "score", "dataset")} == {
        **{"train": 4, "render": 4, "score": 4},
        "dataset": 0,
    }


def test_a_command_that_fails_stops_what_depends_on_it_and_says_why(repository: Path, tmp_path: Path):
    (tmp_path / "bad.py").write_text("raise RuntimeError('no such layer')")
    bad = {"train": "{python} bad.py {dataset} {model}", "render": "{python} bad.py {model} {cameras} {output}"}
    study = write_study(
        tmp_path,
        counts=[2],
        pose_policies=["reference"],
        masks=["none"],
        methods=[{"method": "bad", "kind": "external", **bad}],
    )
    run = ("--cores", "8", "--directory", str(tmp_path), "--configfile", str(study))
    assert snakemake(repository, *run).returncode != 0
    log = next((tmp_path / "results" / "tiny").glob("card/*/*/*/bad/*/logs/train.log"))
    last = log.read_text().splitlines()[-1]
    assert last.startswith("fieldbook: the train command of bad ended with exit code 1: ")
    assert "RuntimeError: no such layer" in last
