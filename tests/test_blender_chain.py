"""A scene in Blender format through the workflow: planned like any other, and the real Lego from files to report."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

BIN = Path(sys.executable).parent


def snakemake(repository: Path, study: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), "--cores", "8"]
    command += ["--directory", str(study.parent), "--configfile", str(study), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def write_study(folder: Path, source: Path, **changes) -> Path:
    study = {
        "study": "toy",
        "results": str(folder / "results"),
        "scenes": {
            "toy": {"capture": {"kind": "blender", "path": str(source)}, "masks": {"object": {"kind": "alpha"}}},
        },
        "counts": [2, "all"],
        "pose_policies": ["reference", "subset"],
        "masks": ["none", "object"],
        "methods": [{"method": "nerfacto", "preset": "smoke"}],
        "cones": {"up20": {"angle": 20, "distance": 1, "views": 2}},
        "metrics": ["psnr", "ssim"],
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study | changes))
    return path


def test_the_stages_are_those_of_every_other_kind(repository, write_blender, tmp_path):
    study = write_study(tmp_path, write_blender(tmp_path / "ball"))
    done = snakemake(repository, study, "--dry-run")
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.split("Job stats:")[1].splitlines() if len(line.split()) == 2)
    scene = ("capture", "frames", "reference", "splits", "scene_frame", "images", "mask", "scaled_mask")
    assert [jobs[stage] for stage in (*scene, "poses", "dataset", "train")] == ["1"] * 8 + ["4", "8", "8"]


def test_a_folder_that_lacks_a_picture_ends_the_plan_with_one_line(repository, write_blender, tmp_path):
    source = write_blender(tmp_path / "ball")
    (source / "test" / "r_0.png").unlink()
    done = snakemake(repository, write_study(tmp_path, source), "--dry-run")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Using workflow specific profile" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("fieldbook: 1 of 5 pictures are not there")


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def lego(captures):
    folder = captures / "lego"
    if not (folder / "transforms_train.json").exists():
        pytest.skip(f"no {folder} in Blender format")
    return folder


@pytest.mark.slow
def test_lego_runs_from_its_files_to_the_report_and_then_has_nothing_left_to_do(repository, lego, tmp_path):
    study = write_study(tmp_path, lego, counts=["all"], masks=["none"], long_side=64)
    done = snakemake(repository, study)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    out, scene = tmp_path / "results" / "toy", tmp_path / "results" / "scenes" / "toy"

    # Nothing was there to reconstruct: a result with its reason, which stops nothing.
    for row in rows(out / "runs.csv"):
        expected = "ok" if row["policy"] == "reference" else "infeasible"
        assert row["state"] == expected
        assert ("came with its poses" in row["reason"]) == (expected == "infeasible")
    numbers = json.loads((scene / "reference.status.json").read_text())["numbers"]
    assert numbers["registered"] == numbers["requested"] == 100
    frame = json.loads((scene / "scene.json").read_text())
    assert frame["up_source"] == "world"
    # The published cameras are 4.03 from the origin, which they all look at; the release's near and far are 2 and 6.
    unit = 1 / frame["scene_from_colmap"]["scale"]
    assert unit == pytest.approx(4.03, abs=0.01)
    assert frame["near"] * unit <= 2
    assert frame["far"] * unit >= 6

    # Two hundred steps give a grey toy on white: better than white alone by far, and each view most like its own truth.
    (folder,) = out.glob("toy/nall*/poses-reference*/masks-none/nerfacto/*")
    scores = {r["view"]: r for r in rows(folder / "images.csv") if r["split"] == "test"}
    rgba = {view: np.asarray(Image.open(scene / f"images-64/{view}.png")) / 255 for view in scores}
    assert {picture.shape for picture in rgba.values()} == {(64, 64, 4)}
    truths = {view: p[..., 3:] * p[..., :3] + 1 - p[..., 3:] for view, p in rgba.items()}
    for view, row in scores.items():
        render = np.asarray(Image.open(folder / f"test/{view}.png")) / 255
        errors = {other: np.mean((render - truth) ** 2) for other, truth in truths.items()}
        assert min(errors, key=lambda other: errors[other]) == view
        assert float(row["psnr_float"]) == pytest.approx(-10 * np.log10(errors[view]), abs=0.1)  # this one is 8-bit
        assert float(row["psnr_float"]) > -10 * np.log10(np.mean((truths[view] - 1) ** 2)) + 3

    # What is not seen is the background, white: so are the corners of every view, held out or novel.
    views = [*folder.glob("test/frame_?????.png"), *folder.glob("cones/up20/view_???.png")]
    renders = [np.asarray(Image.open(path)) for path in views]
    assert len(renders) == 13 + 2
    assert np.stack([r[i, j] for r in renders for i in (0, -1) for j in (0, -1)]).mean() > 240

    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Given poses" in page
    assert "came with its poses" in page
    again = snakemake(repository, study)
    assert "Nothing to be done" in again.stdout + again.stderr
