"""A study that its files say is finished, small enough to be logged in a second."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from eval.protocol import IMAGE_COLUMNS
from fieldbook.files import read_json, write_json, write_text
from fieldbook.layout import RunFiles, StudyFiles, ledger_path, status_path
from fieldbook.status import Status, write_status
from fieldbook.study import Study, make_study, study_record
from reports.tables import make_tables

COMMIT, LOCK = "0123abcdef" * 4, "ab" * 32
REASON = "one frame cannot be posed by itself"
STARTED = 1_700_000_000.0
PRESET = {"pipeline.model.num_levels": 4, "optimizers.fields.scheduler": {"lr_final": 0.1, "max_steps": 20}}
VIEWS = {"test": [f"frame_{k:05d}" for k in range(6)], "up25": ["view_000", "view_001"]}
CONFIG: dict[str, Any] = {
    "study": "tiny",
    "scenes": {"card": {"capture": {"kind": "synthetic", "frames": 20}}},
    "counts": [1, "all"],
    "pose_policies": ["subset"],
    "methods": [{"method": "nerfacto", "preset": "smoke", "overrides": {"optimizers.fields.scheduler.max_steps": 30}}],
    "seeds": [0, 1, 2],
    "cones": {"up25": {"angle": 25, "distance": 1, "views": 2}},
    "metrics": ["psnr", "ssim"],
    "long_side": 64,
}


def planned(results: Path, **changes: Any) -> Study:
    config = CONFIG | {"results": results.as_posix()} | changes
    return make_study(config, lambda method, preset, overrides: PRESET | overrides)


def write_tables(study: Study) -> StudyFiles:
    """What ``fieldbook tables`` does, without asking nerfstudio for the presets."""
    write_json(study.files.resolved, study_record(study) | {"versions": {"commit": COMMIT}})
    make_tables(study.results.root, study.files.resolved, study.files)
    return study.files


def finished(results: Path, **changes: Any) -> StudyFiles:
    """Plan a study, do whatever of it is not done, and make its tables."""
    study = planned(results, **changes)
    for run in study.runs:
        files = run.files(study.results)
        if run.count == "1":
            finish(run.poses(study.results).root, "poses", Status("infeasible", "poses", REASON))
        elif not files.run.exists() or read_json(files.run)["spec"] != study.train_spec(run):
            finish(run.poses(study.results).root, "poses")
            finish(run.dataset(study.results).root, "dataset")
            train(files, study.train_spec(run))
    return write_tables(study)


def finish(folder: Path, stage: str, status: Status | None = None, started: float = STARTED) -> None:
    write_status(status_path(folder, stage), status or Status("ok", stage))
    ledger = {"stage": stage, "started_unix_s": started, "wall_s": 10.0, "cpu_s": 12.0, "peak_rss_bytes": 2**30}
    write_json(ledger_path(folder, stage), ledger)


def train(files: RunFiles, spec: dict[str, Any], better: float = 0.0) -> None:
    """Everything that training, rendering and scoring leave; 20 dB plus a dB per seed and view."""
    write_json(files.run, {"spec": spec, "versions": {"commit": COMMIT}, "lock_sha256": LOCK, "device": "a CPU"})
    write_text(files.config, "method_name: nerfacto\n")
    write_json(files.checkpoint_manifest, {"checkpoint": "step-19.ckpt", "step": 19, "sha256": "cd" * 32})
    lines = (f"{step},{1 / (step + 1)},0.01,1000,{step / 10}" for step in (0, 9, 19))
    write_text(files.train_log, "\n".join(["step,loss,lr,rays_per_s,seconds", *lines]) + "\n")
    score(files, spec["seed"] + better)
    for k, stage in enumerate(("train", "render", "score")):
        finish(files.root, stage, started=STARTED + 100 * k)


def score(files: RunFiles, seed: float) -> None:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, IMAGE_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for split, names in VIEWS.items():
        for view, name in enumerate(names):
            value = {"psnr_float": 20.0 + seed + view, "ssim_float": 0.5, "lpips_alex_float": 0.25}
            fixed = {"split": split, "view": name, "step": 19, "has_truth": 1, "rays": 100, "seconds": 0.5}
            writer.writerow(fixed | value)
            picture(files, split, name, view)
    write_text(files.images_csv, stream.getvalue())


def picture(files: RunFiles, split: str, name: str, view: int) -> None:
    path = (files.test if split == "test" else files.path(split)) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), 40 * view, np.uint8)).save(path)
