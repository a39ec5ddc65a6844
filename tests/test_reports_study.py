"""Tables, report and log over a small study that is made up by hand: two scenes, three counts, two policies."""

from __future__ import annotations

import copy
import csv
import datetime
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camera_paths.cones import cone
from camera_paths.formats import CameraPath, write_camera_path
from data.poses import Camera, Sim3, look_at
from eval.protocol import IMAGE_COLUMNS
from fieldbook.errors import UserError
from fieldbook.files import write_json, write_text
from fieldbook.layout import PoseFiles, Results, RunFiles, StudyFiles, ledger_path, status_path
from fieldbook.status import Status, write_status
from reports.costs import cost_table
from reports.html import make_report
from reports.log import append_log_entry, read_entries
from reports.records import load_study
from reports.tables import make_tables

MONDAY = datetime.date(2026, 3, 2)
TUESDAY = datetime.date(2026, 3, 3)
NO_WEIGHTS = "no backbone weights: the config says weights: none"
EVIL = "</script><script>alert(1)</script>"
COMMIT = "0123abcdef" * 4
REASON = "2 of 4 frames registered: too few for this method"
FRAMES = [f"frame_{i:05d}" for i in range(24)]
TEST = FRAMES[4::8]
POOL = [f for f in FRAMES if f not in TEST]
CAMERA = Camera(32, 24, 30.0, 30.0, 16.0, 12.0)


def make_study(root: Path, counts=("4", "8", "16"), seeds=(0, 1, 2), method="hash-nerf", camera=CAMERA) -> Path:
    # With subset poses, `desk` does not reconstruct at 4 frames, and at 16 `shelf` still waits for its last seed.
    scenes = {"desk": {"capture": {"kind": "synthetic"}}, "shelf": {"capture": {"kind": "synthetic"}}}
    runs = []
    for scene in scenes:
        make_scene(root, scene, camera)
        for count in counts:
            for policy in ("reference", "subset"):
                for seed in seeds:
                    runs.append(entry(scene, count, policy, seed, method))
                    make_run(root, runs[-1], camera)
    config = {
        "study": "sweep",
        "long_side": 32,
        "counts": [int(c) for c in counts],
        "seeds": list(seeds),
        "cones": ["wide"],
    }
    content = {"study": "sweep", "config": config, "runs": runs, "scenes": scenes, "paths": {"wide": {}}}
    out = root / "sweep" / "study.json"
    write_json(out, content | {"versions": {"commit": "f" * 40, "torch": "2.11.0"}})
    return out


def entry(scene: str, count: str, policy: str, seed: int, method: str) -> dict:
    poses = f"n{count}-d0/poses-{policy}-incremental-none-s0"
    dataset = f"sweep/{scene}/{poses}/masks-none"
    folder = f"{dataset}/hash-nerf/laptop-3fa9c1-seed{seed}-rep0"
    axes = {"subset_draw": 0, "mapper": "incremental", "sfm_mask": "none", "sfm_seed": 0, "mask": "none"}
    return axes | {
        "id": folder,
        "study": "sweep",
        "scene": scene,
        "count": count,
        "policy": policy,
        "method": method,
        "preset": "laptop",
        "overrides": {},
        "variant": "laptop-3fa9c1",
        "seed": seed,
        "repeat": 0,
        "cell": f"{scene}-n{count}-{policy}",
        "dir": folder,
        "dataset_dir": dataset,
        "poses_dir": f"scenes/{scene}/{poses}",
    }


def picture(camera: Camera, seed: int, noise: float) -> np.ndarray:
    y, x = np.mgrid[: camera.height, : camera.width] / camera.height
    rings = 0.5 + 0.5 * np.sin(12 * np.hypot(x - 0.6, y - 0.5) + np.array([0.0, 1.0, 2.5])[:, None, None] + seed)
    grain = np.random.default_rng(seed).normal(0, noise, rings.shape)
    return np.uint8(255 * np.clip(rings + grain * (0.2 + x), 0, 1)).transpose(1, 2, 0)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_scene(root: Path, scene: str, camera: Camera) -> None:
    files = Results(root).scene(scene)
    capture = {"kind": "synthetic", "source": f"synthetic {scene}", "width": 640, "height": 480, "frame_count": 24}
    write_json(files.capture, capture | {"lost_frames": 0, "truth": True})
    rng = np.random.default_rng(3)
    ring = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 5, len(FRAMES))]
    poses = {
        f: look_at(np.array([0.8 * c, 0.8 * s, 0.6]), np.zeros(3), np.eye(3)[2])
        for f, (c, s) in zip(FRAMES, ring, strict=True)
    }
    write_json(
        files.reference_poses,
        {"camera": camera.to_json(), "poses": {f"{f}.png": p.tolist() for f, p in poses.items()}}
        | {"requested": 24, "registered": 24, "unregistered": [], "mean_reprojection_error": 0.61234},
    )
    write_json(
        files.scene,
        {"scene_from_colmap": Sim3(1.0, np.eye(3), np.zeros(3)).to_json(), "poi_in_colmap": [0.1, 0.2, 3.0]}
        | {"poi": [0, 0, 0], "up": [0, 0, 1], "axis": [0, 0, 1], "axis_source": "plane", "near": 0.31, "far": 4.2},
    )
    names = {"test": [f"{f}.png" for f in TEST], "pool": [f"{f}.png" for f in POOL], "unregistered": []}
    write_json(files.splits, names)
    points = "\n".join(
        "{:.3f} {:.3f} {:.3f} {} {} {}".format(*rng.normal(0, 0.25, 3), *rng.integers(0, 255, 3)) for _ in range(300)
    )
    header = "ply\nformat ascii 1.0\nelement vertex 300\n" + "".join(f"property float {a}\n" for a in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    write_text(files.reference_points, header + points + "\n")
    for index, name in enumerate(FRAMES):
        save(files.frames / f"{name}.png", picture(camera, index, 0.0))
    path = StudyFiles(root / "sweep").path(scene, "wide")
    poses = cone(np.array([0.0, 0.0, 1.0]), 0.6, 1.0, 4, "follow")
    write_camera_path(path.camera_path, CameraPath(poses, (camera,) * 4, 2.0))
    for view in range(4):
        save(path.truth / f"view_{view:03d}.png", picture(camera, 50 + view, 0.0))
    finish(root / "scenes" / scene, "reference", 80.0)


def finish(folder: Path, stage: str, wall: float, reason: str = "") -> None:
    status = Status("infeasible", stage, reason, {"registered": 2}) if reason else Status("ok", stage)
    write_status(status_path(folder, stage), status)
    costs = {"stage": stage, "started_unix_s": 1.0 + len(stage), "wall_s": wall, "cpu_s": 1.5 * wall}
    write_json(ledger_path(folder, stage), costs | {"peak_rss_bytes": 2**30, "host": "h", "cpus": 2, "gpu": None})


def psnr(run: dict, view: int, split: str) -> float:
    """Known numbers: 2 dB per doubling, half a dB per seed, a dB per view, 3 dB less on novel views."""
    return 18 + 2 * math.log2(int(run["count"])) + 0.5 * run["seed"] + view - 3 * (split != "test")


def make_run(root: Path, run: dict, camera: Camera) -> None:
    n, subset = int(run["count"]), run["policy"] == "subset"
    infeasible = run["scene"] == "desk" and n == 4 and subset
    folder, dataset, poses = (root / run[k] for k in ("dir", "dataset_dir", "poses_dir"))
    numbers = {"requested": n, "registered": 2 if infeasible else n, "focal_ratio": 1.01, "gap_ratio": 1.5}
    alignment = {"rotation_median_deg": 0.12, "centre_median": 0.003} if subset else None
    cameras = {"poses": {name: np.eye(4).tolist() for name in POOL[:n]}}
    write_json(PoseFiles(poses).poses, numbers | cameras | {"alignment": alignment, "policy": run["policy"]})
    finish(poses, "poses", 12.0, REASON if infeasible else "")
    if infeasible:
        return
    frames = [{"file_path": f"../../../../scenes/{run['scene']}/frames/{f}.png"} for f in TEST]
    for frame in frames:
        frame["file_path"] = str((root / "scenes" / run["scene"] / "frames" / Path(frame["file_path"]).name).absolute())
    write_json(dataset / "transforms.json", {"frames": frames})
    finish(dataset, "dataset", 1.0)
    files = RunFiles(folder)
    if run["scene"] == "shelf" and n == 16 and subset and run["seed"] == 2:
        return
    write_text(
        files.train_log, "step,loss,lr,rays_per_s,seconds\n1,1,0.01,10,1\n2,0.5,0.01,1000,2\n3,0.4,0.01,1200,3\n"
    )
    write_json(files.run, {"versions": {"commit": COMMIT, "python": "3.11.7", "torch": "2.11.0"}})
    write_json(files.checkpoint_manifest, {"checkpoint": "step-000000100.ckpt", "step": 100, "sha256": "ab" * 32})
    rows = [row for split, names in splits().items() for row in image_rows(run, split, names)]
    with open(files.images_csv, "w", newline="") as stream:
        writer = csv.DictWriter(stream, IMAGE_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for split, names in splits().items():
        for index, name in enumerate(names):
            target = files.test if split == "test" else files.path(split)
            seed = FRAMES.index(name) if split == "test" else 50 + index
            save(target / f"{name}.png", picture(camera, seed, 0.8 / n))
    for stage, wall in (("train", 60.0 + n), ("render", 8.0), ("score", 3.0)):
        finish(folder, stage, wall)
    score = Status("ok", "score", numbers={"lpips": NO_WEIGHTS})
    write_status(files.status("score"), score)


def splits() -> dict[str, list[str]]:
    return {"test": TEST, "wide": [f"view_{k:03d}" for k in range(4)]}


def image_rows(run: dict, split: str, names: list[str]):
    for view, name in enumerate(names):
        for step in (50, 100):
            value = psnr(run, view, split) - (100 - step)
            yield (
                {"split": split, "view": name, "step": step, "has_truth": int(name != "view_003")}
                | (
                    {"psnr_float": value, "psnr_uint8": value, "ssim_float": value / 50, "lpips_alex_float": 5 / value}
                    if name != "view_003"
                    else {}
                )
                | {"nearest_angle_deg": 10 + view, "rays": 768, "seconds": 0.25}
            )


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def change(study_json: Path, edit) -> None:
    content = json.loads(study_json.read_text())
    edit(content)
    write_json(study_json, content)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, StudyFiles]:
    """The study with its tables; tests only read it."""
    root = tmp_path_factory.mktemp("results")
    study_json = make_study(root)
    out = StudyFiles(root / "sweep")
    make_tables(root, study_json, out)
    return root, study_json, out


@pytest.fixture
def small(tmp_path) -> tuple[Path, Path, StudyFiles]:
    """A study of its own for tests that change something."""
    study_json = make_study(tmp_path, counts=("4", "8"), seeds=(0,))
    out = StudyFiles(tmp_path / "sweep")
    make_tables(tmp_path, study_json, out)
    return tmp_path, study_json, out


@pytest.fixture(scope="module")
def page(made) -> str:
    make_report(*made, today=MONDAY)
    return made[2].report.read_text(encoding="utf-8")


def test_every_planned_run_has_a_row_whatever_became_of_it(made):
    _, study_json, out = made
    table = rows(out.runs_csv)
    assert [r["run"] for r in table] == [r["id"] for r in json.loads(study_json.read_text())["runs"]]
    states = [r["state"] for r in table]
    assert (states.count("ok"), states.count("infeasible"), states.count("missing")) == (32, 3, 1)


def test_an_infeasible_run_keeps_its_reason_stage_and_pose_numbers(made):
    failed = next(r for r in rows(made[2].runs_csv) if r["state"] == "infeasible")
    assert (failed["reason"], failed["stage"]) == (REASON, "poses")
    assert (failed["requested"], failed["registered"], failed["test_psnr_float"]) == ("4", "2", "")
    cell = next(c for c in rows(made[2].cells_csv) if c["cell"] == "desk-n4-subset")
    assert (cell["infeasible"], cell["planned"], cell["complete"], cell["reason"]) == ("3", "3", "0", REASON)


def test_an_unfinished_run_names_the_stage_it_waits_for(made):
    waiting = next(r for r in rows(made[2].runs_csv) if r["state"] == "missing")
    assert waiting["stage"] == "train"
    assert "not finished" in waiting["reason"]


def test_a_run_is_the_mean_of_its_last_steps_views_and_only_of_those_with_truth(made):
    run = next(r for r in rows(made[2].runs_csv) if r["cell"] == "shelf-n8-reference" and r["seed"] == "2")
    # 18 + 2 * log2(8) + 0.5 * 2 = 25, plus 0, 1, 2 per view; the fourth novel view has no truth.
    assert float(run["test_psnr_float"]) == pytest.approx(26.0)
    assert float(run["novel_psnr_float"]) == float(run["cone:wide:psnr_float"]) == pytest.approx(23.0)
    assert run["test_lpips_vgg_float"] == ""
    assert float(run["novel_nearest_angle_deg"]) == pytest.approx(11.5)
    assert (run["test_views"], run["novel_views"], run["step"]) == ("3", "4", "100")


def test_runs_carry_speeds_costs_and_residuals(made):
    run = next(r for r in rows(made[2].runs_csv) if r["cell"] == "shelf-n8-subset")
    assert float(run["render_rays_per_s"]) == pytest.approx(768 / 0.25)
    assert float(run["train_rays_per_s"]) == 1000
    assert (float(run["wall_s:train"]), float(run["cpu_s:poses"])) == (68.0, 18.0)
    assert (run["residual_rotation_median_deg"], run["residual_centre_median"]) == ("0.12", "0.003")
    assert int(run["peak_rss_bytes"]) == 2**30


def test_a_cell_averages_run_means_with_a_student_interval(made):
    cell = next(c for c in rows(made[2].cells_csv) if c["cell"] == "shelf-n8-reference")
    # Run means 25, 25.5, 26: standard deviation 0.5; t(0.975, 2) = 4.302653.
    half = 4.302653 * 0.5 / math.sqrt(3)
    assert float(cell["test_psnr_float_mean"]) == pytest.approx(25.5)
    assert float(cell["test_psnr_float_lo95"]) == pytest.approx(25.5 - half)
    assert float(cell["test_psnr_float_hi95"]) == pytest.approx(25.5 + half)
    assert (cell["n_runs"], cell["test_psnr_float_n"], cell["complete"]) == ("3", "3", "1")


def test_a_cell_of_two_runs_has_a_mean_but_no_interval_and_is_incomplete(made):
    cell = next(c for c in rows(made[2].cells_csv) if c["cell"] == "shelf-n16-subset")
    assert float(cell["test_psnr_float_mean"]) == pytest.approx(18 + 8 + 0.25 + 1)
    assert (cell["test_psnr_float_lo95"], cell["n_runs"], cell["missing"], cell["complete"]) == ("", "2", "1", "0")


def test_column_order_does_not_depend_on_what_has_finished(made, tmp_path):
    _, study_json, out = made
    bare = StudyFiles(tmp_path / "bare")
    make_tables(tmp_path, study_json, bare)
    for name in ("runs_csv", "cells_csv"):
        full, empty = (getattr(files, name).read_text().splitlines()[0] for files in (out, bare))
        assert full == empty
    assert full.startswith("cell,scene,count,subset_draw,policy,mapper,sfm_mask,sfm_seed,mask,method,preset,variant,")
    assert {r["state"] for r in rows(bare.runs_csv)} == {"missing"}


def test_the_image_table_holds_every_row_of_every_run_with_its_identity(made):
    table = rows(made[2].images_csv)
    assert len(table) == 32 * (3 + 4) * 2
    assert list(table[0])[:2] == ["run", "cell"]
    assert list(table[0])[-len(IMAGE_COLUMNS) :] == list(IMAGE_COLUMNS)


def test_a_mask_that_cannot_be_made_spoils_only_the_runs_that_use_it(small):
    root, study_json, out = small
    finish(root / "scenes" / "desk", "mask-card", 1.0, "no card found")
    change(study_json, lambda c: c["runs"][0].update(mask="card"))
    (root / json.loads(study_json.read_text())["runs"][0]["dir"] / "score.status.json").unlink()
    make_tables(root, study_json, out)
    states = [(r["state"], r["reason"]) for r in rows(out.runs_csv)]
    assert states[0] == ("infeasible", "no card found")
    assert ("infeasible", "no card found") not in states[1:]


def spoil(root: Path, study_json: Path, cell: str, stage: str = "train") -> dict:
    """Make a finished run infeasible and leave all its results where they are."""
    run = next(r for r in json.loads(study_json.read_text())["runs"] if r["cell"] == cell)
    folder = root / (run["poses_dir"] if stage == "poses" else run["dir"])
    finish(folder, stage, 1.0, "loss became NaN")
    return run


@pytest.mark.parametrize("stage", ["train", "score", "poses"])
def test_a_run_that_is_not_ok_contributes_nothing_of_an_earlier_training(small, stage):
    root, study_json, out = small
    run = spoil(root, study_json, "desk-n8-subset", stage)
    make_tables(root, study_json, out)
    make_report(root, study_json, out, today=MONDAY)
    row = next(r for r in rows(out.runs_csv) if r["run"] == run["id"])
    assert (row["state"], row["reason"], row["step"], row["lpips"]) == ("infeasible", "loss became NaN", "", "")
    assert not any(value for column, value in row.items() if "psnr" in column or "rays" in column)
    assert (row["commit"] == "") == (stage == "train")
    assert run["id"] not in {r["run"] for r in rows(out.images_csv)}
    page = without_plotly(out.report.read_text())
    # 6 of 8 cells are left with pictures: this one, and the one that never was feasible, have none.
    assert len(Page(page).images) == 6 * 2 * 3
    links = {(out.root / link).resolve() for link in Page(page).links if link.startswith("./")}
    assert (root / run["dir"]).resolve() in links
    assert (root / run["dir"] / "images.csv").resolve() not in links


def test_a_run_that_is_being_trained_anew_is_not_ok_though_its_old_score_is_there(small):
    root, study_json, out = small
    run = json.loads(study_json.read_text())["runs"][0]
    (root / run["dir"] / "train.status.json").unlink()
    make_tables(root, study_json, out)
    row = rows(out.runs_csv)[0]
    assert (row["state"], row["stage"], row["test_psnr_float"]) == ("missing", "train", "")


def test_the_report_tells_the_frames_of_a_failure_and_crosses_its_count(small):
    root, study_json, out = small
    change(study_json, lambda c: [r.update(count="50pct") for r in c["runs"] if r["cell"] == "desk-n4-subset"])
    poses = root / next(r["poses_dir"] for r in json.loads(study_json.read_text())["runs"] if r["count"] == "50pct")
    numbers = {"requested": 11, "left": 3, "needed": 6}
    write_status(status_path(poses, "poses"), Status("infeasible", "poses", REASON, numbers))
    make_tables(root, study_json, out)
    make_report(root, study_json, out, today=MONDAY)
    page = without_plotly(out.report.read_text())
    assert "3 of 11" in Page(page).text
    layout = figures_of(page)["curve-0"]["layout"]
    (cross,) = layout["annotations"]
    assert cross["x"] == 11
    low, high = layout["xaxis"]["range"]
    assert low < 4 < 11 < high


def test_frames_dropped_in_the_alignment_are_counted_and_named(small):
    root, study_json, out = small
    run = next(r for r in json.loads(study_json.read_text())["runs"] if r["cell"] == "desk-n8-subset")
    path = PoseFiles(root / run["poses_dir"]).poses
    content = json.loads(path.read_text())
    content["alignment"]["outliers"] = dropped = list(content["poses"])[3:5]
    for name in dropped:
        del content["poses"][name]
    write_json(path, content)
    make_tables(root, study_json, out)
    make_report(root, study_json, out, today=MONDAY)
    row = next(r for r in rows(out.runs_csv) if r["cell"] == "desk-n8-subset")
    assert [row[c] for c in ("requested", "registered", "trained", "outliers")] == ["8", "8", "6", "2"]
    text = Page(without_plotly(out.report.read_text())).text
    assert text.count("trained8") == 0
    assert text.count("6 / 8 trained") == 1
    assert f"8 frames, subset poses: {', '.join(dropped)}" in text


def test_masked_cells_are_ranked_apart_by_what_lies_inside_the_mask(small):
    root, study_json, out = small
    change(study_json, lambda c: [r.update(mask="card") for r in c["runs"] if r["policy"] == "subset"])
    for run in json.loads(study_json.read_text())["runs"]:
        images = RunFiles(root / run["dir"]).images_csv
        if run["mask"] == "card" and images.exists():
            table = rows(images)
            # Inside the mask, more frames are made to be worse.
            table = [r | {"masked_psnr_float": 40 - int(run["count"])} for r in table]
            with open(images, "w", newline="") as stream:
                writer = csv.DictWriter(stream, IMAGE_COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(table)
    make_tables(root, study_json, out)
    make_report(root, study_json, out, today=MONDAY)
    page = without_plotly(out.report.read_text())
    table = page.split('id="scene-1"')[1].split("</tbody>")[0]
    places = re.findall(r'<tr[^>]*><td class="num">(.)</td><td class="num">(\d+)</td><td>(\w+)</td><td>(\w+)', table)
    assert places == [
        ("1", "8", "reference", "none"),
        ("2", "4", "reference", "none"),
        ("1", "4", "subset", "card"),
        ("2", "8", "subset", "card"),
    ]
    assert "among cells of the same training mask" in Page(page).text
    entry_text = next((root / "log").glob("*.md")).read_text()
    assert "- shelf: 8 frames, reference poses, mask none" in entry_text
    assert "- shelf: 4 frames, subset poses, mask card" in entry_text


def test_single_runs_are_called_so_in_report_and_log(small, page):
    root, _, out = small
    make_report(*small, today=MONDAY)
    sentence = "differences between single runs are not significant"
    assert Page(without_plotly(out.report.read_text())).text.count(sentence) == 2
    assert sentence in next((root / "log").glob("*.md")).read_text()
    assert sentence not in page


def test_missing_lpips_is_told_with_its_reason(made, page):
    assert {r["lpips"] for r in rows(made[2].runs_csv) if r["state"] == "ok"} == {NO_WEIGHTS}
    assert f"LPIPS is missing in 32 of 32 scored runs: {NO_WEIGHTS}." in Page(without_plotly(page)).text


def test_the_report_tells_the_runs_versions_and_warns_where_they_differ(small, page):
    root, study_json, out = small
    assert "not all made with the same software" not in page
    assert "runs made with commit 0123abcdef01<" in page
    assert "f" * 40 in page, "the tables' own versions are a column of their own"
    run = json.loads(study_json.read_text())["runs"][0]
    newer = "9" * 40 + "-dirty"
    write_json(root / run["dir"] / "run.json", {"versions": {"torch": "2.12.0", "commit": newer, "python": "3.11.7"}})
    make_tables(root, study_json, out)
    make_report(root, study_json, out, today=MONDAY)
    assert rows(out.runs_csv)[0]["commit"] == newer
    text = Page(without_plotly(out.report.read_text())).text
    assert "commits 0123abcdef01, 999999999999-dirty" in text
    warning = "6 runs with commit 0123abcdef01, torch 2.11.0; 1 run with commit 999999999999-dirty, torch 2.12.0"
    assert warning in text
    entry_text = next((root / "log").glob("*.md")).read_text()
    assert warning in entry_text
    assert f"- 1 run: torch 2.12.0, commit {newer}" in entry_text


def test_costs_count_only_stages_that_this_study_uses(small):
    root, study_json, out = small
    scene = root / "scenes" / "desk"
    change(study_json, lambda c: c["runs"][0].update(mask="card"))
    change(study_json, lambda c: c["runs"][1].update(sfm_mask="hand"))
    used = ("images-32", "mask-card", "scaled-card-32", "mask-hand", "capture")
    for stage in (*used, "images-320", "mask-other", "scaled-card-320", "scaled-hand-32"):
        finish(scene, stage, 1.0)
    for path in ("wide", "narrow"):
        finish(out.path("desk", path).root, "path", 1.0)
    finish(scene / "n5-d0" / "poses-reference-incremental-none-s0", "poses", 1.0)
    jobs = {row["stage"]: row["jobs"] for row in cost_table(load_study(root, study_json), out)}
    assert {stage for stage in jobs if "-" in stage} == set(used) - {"capture"}
    assert (jobs["path"], jobs["capture"], jobs["reference"]) == ("1", "1", "2")
    assert jobs["poses"] == "8", "two scenes, counts and policies; shared by the seeds"


def test_subset_poses_are_said_to_rest_on_all_frames_in_part(page):
    text = Page(without_plotly(page)).text
    assert "undistorted once, with the camera that all frames gave" in text
    assert "near and far come from all frames" in text


class Page(HTMLParser):
    """Collects tags, visible text and what a browser would load or follow."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.links, self.images = [], "", [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        self.images += [dict(attrs)] if tag == "img" else []

    def handle_data(self, data):
        self.text += data


def without_plotly(page: str) -> str:
    from plotly.offline import get_plotlyjs

    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def figures_of(page: str) -> dict:
    return json.loads(re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_loads_nothing_from_the_network(page):
    own = without_plotly(page)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:|//)""", own)
    assert "default-src 'none'" in own
    assert "showSendToCloud: false" in own
    assert all(link.startswith(("#", "./", "data:image/jpeg")) for link in Page(own).links)


def test_every_link_of_the_report_leads_to_a_file(made, page):
    links = [link for link in Page(without_plotly(page)).links if link.startswith("./")]
    assert len(links) > 100
    assert all((made[2].root / link).exists() for link in links)


def test_pictures_have_alt_texts_and_show_truth_prediction_and_error(page):
    images = Page(without_plotly(page)).images
    # 11 cells with finished runs, a test and a novel view each.
    assert len(images) == 11 * 2 * 3
    assert all(i["alt"] for i in images)
    assert {i["alt"].split()[0] for i in images} == {"Truth", "Prediction", "Error"}


def test_the_report_says_what_a_reader_must_know(page):
    text = Page(without_plotly(page)).text
    for words in (
        "did see the test frames",
        REASON,
        "1 not finished",
        "0123abcdef01",
        "24 of 24 frames",
        "2 of 3",
        MONDAY,
    ):
        assert str(words) in text


@pytest.mark.parametrize("given", [["shelf"], ["desk", "shelf"]])
def test_given_poses_are_not_called_a_reconstruction(small, given):
    root, study_json, out = small
    for scene in given:
        path = Results(root).scene(scene).reference_poses
        write_json(path, json.loads(path.read_text()) | {"space": "capture", "mean_reprojection_error": None})
    make_report(root, study_json, out, today=MONDAY)
    text = " ".join(Page(without_plotly(out.report.read_text())).text.split())
    assert f"Given poses: {', '.join(given)} came with poses" in text
    all_given = len(given) == 2
    assert ("come from a reconstruction of all frames" in text) != all_given
    assert ("Mean reprojection error" in text) != all_given
    assert text.count("of 24 frames, given with the capture") == len(given)
    assert text.count("in the capture's own frame") == len(given)


def test_poses_of_a_colmap_model_are_given_and_leave_subsets_to_reconstruct(small):
    root, study_json, out = small
    path = Results(root).scene("desk").reference_poses
    identity = {"scale": 1.0, "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "translation": [0, 0, 0]}
    write_json(path, json.loads(path.read_text()) | {"world": identity})
    make_report(root, study_json, out, today=MONDAY)
    text = " ".join(Page(without_plotly(out.report.read_text())).text.split())
    assert "Given poses: desk came with poses" in text
    assert "the reference is its COLMAP model" in text
    assert "in the capture's own frame" not in text
    assert "Subset poses come from the training frames only" in text


def test_an_incomplete_cell_is_never_ranked_even_where_its_mean_is_the_best(made, page):
    cell = next(c for c in rows(made[2].cells_csv) if c["cell"] == "shelf-n16-subset")
    assert cell["complete"] == "0"
    table = without_plotly(page).split('id="scene-1"')[1].split("</tbody>")[0]
    ranks = re.findall(r'<tr[^>]*><td class="num">(.)</td>', table)
    assert ranks == ["1", "2", "2", "4", "4", "–"]


def test_a_band_is_drawn_only_where_a_cell_has_three_runs(page):
    figure = figures_of(page)["curve-1"]
    bands = [t for t in figure["data"] if t.get("fill") == "toself"]
    reference, subset = (sorted({x for x in band["x"] if x is not None}) for band in bands)
    assert (reference, subset) == ([4, 8, 16], [4, 8])


def test_names_from_the_config_stay_text_everywhere(tmp_path):
    study_json = make_study(tmp_path, counts=("4", "8"), seeds=(0,), method=EVIL)
    change(study_json, lambda c: c["config"].update(note=EVIL))
    change(study_json, lambda c: c["versions"].update({"commit": EVIL}))
    poses = tmp_path / json.loads(study_json.read_text())["runs"][-1]["poses_dir"]
    finish(poses, "poses", 1.0, EVIL)
    (tmp_path / json.loads(study_json.read_text())["runs"][-1]["dir"] / "score.status.json").unlink()
    out = StudyFiles(tmp_path / "sweep")
    make_tables(tmp_path, study_json, out)
    make_report(tmp_path, study_json, out, today=MONDAY)
    own = without_plotly(out.report.read_text())
    assert "<script>alert" not in own
    assert Page(own).tags.count("script") == 3
    assert Page(own).text.count("alert(1)") > 5
    # plotly's text knows some markup: names arrive there escaped.
    assert "<" not in re.sub("<br>|<extra></extra>", "", json.dumps(figures_of(own)))
    assert "&lt;script" in json.dumps(figures_of(own))


@pytest.mark.parametrize("keep", [0, 1])
def test_a_report_exists_before_runs_finish(small, keep):
    root, study_json, out = small
    content = json.loads(study_json.read_text())
    content["runs"] = content["runs"][:keep]
    write_json(study_json, content)
    make_tables(root, study_json, out)
    make_report(root, study_json, out, today=MONDAY)
    assert f"{keep} run" in Page(without_plotly(out.report.read_text())).text


def test_a_report_exists_before_anything_ran(made, tmp_path):
    out = StudyFiles(tmp_path / "sweep")
    make_tables(tmp_path, made[1], out)
    make_report(tmp_path, made[1], out, today=MONDAY)
    page = out.report.read_text()
    assert "36 not finished" in page
    assert "Plotly.newPlot" not in page


def test_a_report_without_tables_says_what_to_do(made, tmp_path):
    with pytest.raises(UserError, match="fieldbook tables"):
        make_report(made[0], made[1], StudyFiles(tmp_path / "elsewhere"), today=MONDAY)


def test_infinite_psnr_breaks_neither_tables_nor_figures(small):
    root, study_json, out = small
    images = RunFiles(root / json.loads(study_json.read_text())["runs"][0]["dir"]).images_csv
    images.write_text(re.sub(r"(test,frame_00012,100,1),[^,]*", r"\1,inf", images.read_text()))
    make_tables(root, study_json, out)
    assert rows(out.runs_csv)[0]["test_psnr_float"] == "inf"
    make_report(root, study_json, out, today=MONDAY)
    assert "curve-0" in figures_of(out.report.read_text())


def test_an_unchanged_study_adds_no_log_entry(small):
    first = append_log_entry(*small, today=MONDAY)
    again = append_log_entry(*small, today=TUESDAY)
    assert first == {"log_entry": "2026-03-02-sweep.md", "log_entry_new": True}
    assert again == {"log_entry": "2026-03-02-sweep.md", "log_entry_new": False}


def test_an_old_entry_is_never_rewritten_and_new_ones_are_numbered(small):
    root, study_json, out = small
    contents = {}
    for lowest in range(12):
        change(study_json, lambda c, v=lowest: c["config"].update(seeds=[v]))
        path = root / "log" / append_log_entry(root, study_json, out, today=MONDAY)["log_entry"]
        assert path not in contents
        assert all(p.read_text() == text for p, text in contents.items())
        contents[path] = path.read_text()
    assert [e.number for e in read_entries(root / "log")] == list(range(1, 13))
    assert (root / "log" / "2026-03-02-sweep-12.md") in contents


def test_an_entry_tells_the_config_difference_the_best_cells_and_the_infeasible_ones(small):
    root, study_json, out = small
    append_log_entry(root, study_json, out, today=MONDAY)
    change(study_json, lambda c: c["config"].update(counts=[4, 8, 16], device="cuda", note="```\n```yaml\na: 1"))
    change(study_json, lambda c: c["config"].pop("cones"))
    name = append_log_entry(root, study_json, out, today=TUESDAY)["log_entry"]
    text = (root / "log" / name).read_text()
    assert text.startswith("# 2026-03-03 sweep\n")
    for line in (
        r"- counts: \[4, 8\] → \[4, 8, 16\]",
        "- device: not set → cuda",
        r"- cones: \[wide\] → not set",
        "Config since 2026-03-02-sweep:",
    ):
        assert line in text
    assert "PSNR (dB) ↑, test views 25.00" in text
    assert REASON in text
    # What an entry quotes is read back in full, whatever it contains.
    assert read_entries(root / "log")[-1].config["device"] == "cuda"
    assert "unchanged" not in text


def test_the_log_page_holds_all_studies_entries_in_order(small):
    root, study_json, out = small
    append_log_entry(root, study_json, out, today=TUESDAY)
    other = copy.deepcopy(json.loads(study_json.read_text())) | {"study": "sweep-2"}
    other_json = root / "sweep-2" / "study.json"
    write_json(other_json, other)
    for name in ("runs.csv", "cells.csv"):
        write_text(root / "sweep-2" / name, (out.root / name).read_text())
    append_log_entry(root, other_json, StudyFiles(root / "sweep-2"), today=MONDAY)
    (root / "log" / "notes.md").write_text("my own notes\n")
    page = (root / "log.md").read_text()
    assert re.findall(r"^## .*$", page, re.MULTILINE) == ["## 2026-03-02 sweep-2", "## 2026-03-03 sweep"]
