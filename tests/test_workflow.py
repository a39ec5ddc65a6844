"""The workflow itself: dry-runs, mistakes, and one small study from video to report, twice."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

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
        "masks": ["card"],
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
        tmp_path, counts=[2, 3, 4, 5, "all"], pose_policies=["reference", "subset"], seeds=list(range(100))
    )
    done = snakemake(repository, "--dry-run", "--cores", "8", "--directory", str(tmp_path), "--configfile", str(study))
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout + done.stderr)
    assert (counts["train"], counts["render"], counts["score"]) == (1000, 1000, 1000)
    assert (counts["poses"], counts["dataset"], counts["reference"], counts["report"]) == (10, 10, 1, 1)


def test_a_mistake_in_the_config_ends_snakemake_with_one_line_and_exit_code_2(repository, tmp_path):
    study = write_study(tmp_path, seeeds=[1])
    done = snakemake(repository, "--dry-run", "--cores", "1", "--directory", str(tmp_path), "--configfile", str(study))
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Using workflow specific profile" not in line]
    assert len(lines) == 1
    assert "did you mean 'seeds'" in lines[0]


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
    by_count = {row["count"]: row for row in rows(out / "runs.csv")}
    assert by_count["1"]["state"] == "infeasible"
    assert "one frame" in by_count["1"]["reason"]
    assert by_count["all"]["state"] == "ok"

    reference = json.loads((tmp_path / "results/scenes/card/reference.status.json").read_text())
    assert reference["numbers"]["registered"] == reference["numbers"]["requested"] == 20

    # The rest was trained, and predicts the held-out views better than their own mean colour would.
    images = rows(out / "images.csv")
    tests = [row for row in images if row["split"] == "test"]
    cones = [row for row in images if row["split"] == "up25"]
    assert (len(tests), len(cones)) == (2, 2)
    folder = next(p for p in out.glob("card/nall*/*/*/nerfacto/*") if p.is_dir())
    for row in tests:
        truth = np.asarray(Image.open(tmp_path / f"results/scenes/card/images-64/{row['view']}.png")) / 255
        flat = -10 * np.log10(np.mean((truth - truth.mean((0, 1))) ** 2))
        assert float(row["psnr_float"]) > flat + 1
        assert abs(float(row["psnr_float"]) - float(row["psnr_uint8"])) < 0.1
        assert 0 < float(row["mask_fraction"]) < 0.5
        assert np.asarray(Image.open(folder / f"test/{row['view']}.png")).std() > 5
    assert all(row["has_truth"] == "1" and float(row["psnr_float"]) > 8 for row in cones)
    assert (folder / "cones/up25/path.mp4").stat().st_size > 0

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "one frame" in page
    assert list((tmp_path / "results/log").glob("*-tiny.md"))

    again = snakemake(repository, *run)
    assert "Nothing to be done" in again.stdout + again.stderr

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
    added = {"train": 2, "render": 2, "score": 2, "poses": 0, "dataset": 0, "reference": 0}
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
