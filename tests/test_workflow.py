"""The workflow itself: dry-runs, mistakes, and one small study from video to report, twice."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fieldbook.status import OK, Status, write_status

BIN = Path(sys.executable).parent


def snakemake(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def job_counts(output: str) -> dict[str, int]:
    table = output.split("Job stats:")[1].split("total")[0]
    return {name: int(number) for name, number in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


def write_study(folder: Path, **changes) -> Path:
    study = {
        "study": "tiny",
        "results": str(folder / "results"),
        "scenes": {
            "card": {
                "capture": {"kind": "synthetic", "frames": 20, "size": [320, 240]},
                "sfm": {"max_features": 2048},
                "masks": {"card": {"kind": "truth"}},
            }
        },
        "counts": [1, "all"],
        "pose_policies": ["subset"],
        "masks": ["none", "card"],
        "methods": [{"method": "nerfacto", "preset": "smoke"}],
        "cones": {"up25": {"angle": 25, "distance": 1, "views": 2}},
        "metrics": ["psnr", "ssim"],
        "long_side": 64,
        "torch_threads": 1,
    } | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def test_a_thousand_runs_make_a_thousand_trainings_and_share_their_poses(repository, tmp_path):
    study = write_study(
        tmp_path,
        masks=["none"],
        counts=[2, 3, 4, 5, "all"],
        pose_policies=["reference", "subset"],
        seeds=list(range(100)),
    )
    done = snakemake(repository, "--dry-run", "--cores", "8", "--directory", str(tmp_path), "--configfile", str(study))
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout + done.stderr)
    assert (counts["train"], counts["render"], counts["score"]) == (1000, 1000, 1000)
    assert (counts["poses"], counts["dataset"], counts["reference"], counts["report"]) == (10, 10, 1, 1)


def test_meshes_are_taken_of_methods_with_a_surface_and_of_no_others(repository, tmp_path):
    methods = [{"method": "neus", "preset": "smoke"}, {"method": "nerfacto", "preset": "smoke"}]
    study = write_study(tmp_path, counts=["all"], methods=methods, masks=["none"], geometry={"mask": "card"})
    done = snakemake(repository, "--dry-run", "--cores", "8", "--directory", str(tmp_path), "--configfile", str(study))
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout + done.stderr)
    assert (counts["train"], counts["score"], counts["mesh"], counts["geometry"]) == (2, 2, 1, 1)
    assert counts["mask"] == 1, "the masks that the comparison is cut with"


def test_a_mistake_in_the_config_ends_snakemake_with_one_line_and_exit_code_2(repository, tmp_path):
    study = write_study(tmp_path, seeeds=[1])
    done = snakemake(repository, "--dry-run", "--cores", "1", "--directory", str(tmp_path), "--configfile", str(study))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Using workflow specific profile" not in line]
    assert len(lines) == 1
    assert "did you mean 'seeds'" in lines[0]


@pytest.mark.parametrize("option", ["--dry-run", "--lint", "--summary", "--cores=1"])
def test_what_a_dead_snakemake_left_is_removed_by_one_that_runs_jobs_and_by_no_other(repository, tmp_path, option):
    study = write_study(tmp_path)
    lock, queued = tmp_path / ".snakemake/locks/0.output.lock", tmp_path / "results/tiny/sync.json"
    for path, text in ((lock, "results/tiny/report.html\n"), (queued, '{"state": "queued", "reason": "away"}')):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    target = tmp_path / "results/scenes/card/capture.status.json"
    write_status(target, Status(OK, "capture"))  # it is there, so that no job is left to do
    done = snakemake(repository, option, "--directory", str(tmp_path), "--configfile", str(study), "--", str(target))
    assert done.returncode == 0, done.stderr
    runs = option == "--cores=1"
    assert (lock.exists(), queued.exists()) == (not runs, not runs)
    assert ("The lock of a Snakemake that died was removed." in done.stderr) == runs
    assert ("Tracking: away" in done.stderr) == (option == "--dry-run")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_study_runs_from_video_to_report_and_then_has_nothing_left_to_do(repository, tmp_path):
    study = write_study(tmp_path)
    run = ("--cores", "8", "--directory", str(tmp_path), "--configfile", str(study))
    done = snakemake(repository, *run)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out = tmp_path / "results" / "tiny"

    # One frame cannot be posed by itself: a result with its reason, not an error.
    states = {(row["count"], row["mask"]): row for row in rows(out / "runs.csv")}
    for mask in ("none", "card"):
        assert states["1", mask]["state"] == "infeasible"
        assert "one frame" in states["1", mask]["reason"]
        assert states["all", mask]["state"] == "ok"

    scene = tmp_path / "results/scenes/card"
    reference = json.loads((scene / "reference.status.json").read_text())
    assert reference["numbers"]["registered"] == reference["numbers"]["requested"] == 20

    # The rest was trained, and predicts held-out views better than their own mean colour would: all of the picture,
    # or what the mask let the method see.
    images = rows(out / "images.csv")
    for row in (row for row in images if row["split"] == "test"):
        truth = np.asarray(Image.open(scene / f"images-64/{row['view']}.png")) / 255
        if row["mask"] == "card":
            truth = truth[np.asarray(Image.open(scene / f"masks/card-64/{row['view']}.png")) > 0]
            assert float(row["mask_fraction"]) == pytest.approx(len(truth) / (64 * 48), abs=1e-5)
        truth = truth.reshape(-1, 3)
        flat = -10 * np.log10(np.mean((truth - truth.mean(0)) ** 2))
        assert float(row["masked_psnr_float" if row["mask"] == "card" else "psnr_float"]) > flat + 1
        assert abs(float(row["psnr_float"]) - float(row["psnr_uint8"])) < 0.1
    cones = [row for row in images if row["split"] == "up25"]
    assert [row["has_truth"] for row in cones] == ["1"] * 4
    assert all(float(row["psnr_float"]) > 10 for row in cones if row["mask"] == "none")
    for folder in out.glob("card/nall*/*/*/nerfacto/*"):
        assert len(list((folder / "test").glob("*.rgb16.png"))) == 2
        assert (folder / "cones/up25/path.mp4").stat().st_size > 0

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "one frame" in page
    assert list((tmp_path / "results/log").glob("*-tiny.md"))
    tracked = json.loads((out / "sync.json").read_text())
    assert (tracked["state"], tracked["numbers"]["logged"]) == ("ok", 4 + 4), "four runs in as many cells"

    again = snakemake(repository, *run)
    assert "Nothing to be done" in again.stdout + again.stderr

    # A run that is gone is missed, although the report made from it is still there.
    folder = next(out.glob("card/nall*/*/masks-none/nerfacto/*"))
    folder.rename(tmp_path / "away")
    plan = snakemake(repository, "--dry-run", *run)
    assert job_counts(plan.stdout + plan.stderr)["train"] == 1
    (tmp_path / "away").rename(folder)

    # Changing one method's override makes its runs anew, and nothing else.
    other = write_study(
        tmp_path,
        methods=[
            {"method": "nerfacto", "preset": "smoke"},
            {"method": "nerfacto", "preset": "smoke", "overrides": {"max_num_iterations": 5}},
        ],
    )
    plan = snakemake(repository, "--dry-run", *run[:-1], str(other))
    stages = ("train", "render", "score", "poses", "dataset", "reference")
    added = {"train": 4, "render": 4, "score": 4, "poses": 0, "dataset": 0, "reference": 0}
    counts = job_counts(plan.stdout + plan.stderr)
    assert {stage: counts.get(stage, 0) for stage in stages} == added
    write_study(tmp_path, methods=[{"method": "nerfacto", "preset": "smoke", "overrides": {"max_num_iterations": 5}}])
    plan = snakemake(repository, "--dry-run", *run)
    counts = job_counts(plan.stdout + plan.stderr)
    assert {stage: counts.get(stage, 0) for stage in stages} == added
    write_study(tmp_path)

    # A scene that studies share does not change under its name.
    spec = yaml.safe_load(study.read_text())
    spec["scenes"]["card"]["capture"]["seed"] = 1
    study.write_text(yaml.safe_dump(spec))
    refused = snakemake(repository, "--dry-run", *run)
    assert refused.returncode == 2
    assert "capture" in refused.stderr
    record = json.loads((out / "study.json").read_text())
    assert record["versions"]["nerfstudio"] == "1.1.5"
