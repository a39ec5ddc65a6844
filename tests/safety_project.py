"""A whole results folder in miniature, with given poses: for every stage that needs neither COLMAP nor training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from camera_paths.formats import read_camera_path, read_trajectory
from camera_paths.path import make_path
from data.dataset import make_dataset
from data.images import scale_images
from data.meshes import Mesh, write_mesh
from data.poses import Sim3, look_at
from data.reference import make_reference
from data.scene_frame import make_scene_frame
from data.subset_poses import PoseRequest, make_poses
from data.subsets import make_splits
from data.video import extract, ingest
from eval.geometry_stage import compare_run
from eval.protocol import score
from fieldbook.config import scene_keys, study_keys
from fieldbook.files import write_json, write_text
from fieldbook.layout import (
    DatasetFiles,
    PathFiles,
    PoseFiles,
    Results,
    RunFiles,
    SceneFiles,
    ledger_path,
    status_path,
)
from fieldbook.status import OK, Status, read_status, write_status
from methods.runner.views import held_out_views
from reports.tables import make_tables

SIZE = (8, 6)
SPEC = {
    "capture": {"kind": "blender", "background": "white"},
    "frames": {"count": "all", "pick": "even"},
    "split": {"file": None, "test_every": 2},
    "nested": True,
    "sfm": {},
    "poi": None,
}


class Project:
    """The folder, its files, and every stage as a call without arguments."""

    def __init__(self, root: Path):
        results = Results(root / "results")
        self.root, self.results = root, results
        self.scene: SceneFiles = results.scene("card")
        self.poses: PoseFiles = self.scene.poses("all", "reference", "incremental", "none", 0, 0)
        study = results.study("s")
        self.study = study
        self.dataset: DatasetFiles = study.dataset("card", "all", 0, self.poses.root.name, "none")
        self.path: PathFiles = study.path("card", "ring")
        self.run: RunFiles = self.dataset.run("m", "v-seed0-rep0")
        self.spec: dict[str, Any] = {**SPEC, "capture": {**SPEC["capture"], "path": str(root / "capture")}}
        self.stages: dict[str, Callable[[], Any]] = {
            "capture": lambda: ingest(self.scene, self.spec),
            "frames": lambda: extract(self.scene, self.spec),
            "reference": lambda: make_reference(self.scene, self.spec),
            "splits": lambda: make_splits(self.scene, self.spec),
            "scene_frame": lambda: make_scene_frame(self.scene, self.spec),
            "images": lambda: scale_images(self.scene, 4),
            "poses": lambda: make_poses(self.scene, self.poses, self.spec, PoseRequest("all")),
            "dataset": lambda: make_dataset(self.scene, self.poses, self.dataset, 0, "none"),
            "path": lambda: make_path(
                self.scene, self.path, {"kind": "cone", "angle": 9, "distance": 1, "views": 2}, 0
            ),
            "views": lambda: held_out_views(self.dataset),
            "score": lambda: score(self.run, self.dataset, {}, {"metrics": ["psnr"], "weights": "none"}),
            "geometry": lambda: compare_run(self.run, self.dataset, self._geometry_spec()),
            "camera path": lambda: read_camera_path(self.path.camera_path),
            "trajectory": lambda: read_trajectory(self.path.trajectory),
            "status": lambda: read_status(self.scene.status("frames")),
            "tables": lambda: make_tables(results.root, study.resolved, study),
        }

    def make(self) -> Project:
        """Run every stage once."""
        write_capture(self.root / "capture")
        for stage in ("capture", "frames", "reference", "splits", "scene_frame", "poses", "dataset", "path", "images"):
            self.stages[stage]()
        self._render()
        self._finish()
        folders = {"dir": self.run.root, "dataset_dir": self.dataset.root, "poses_dir": self.poses.root}
        relative = {name: folder.relative_to(self.results.root).as_posix() for name, folder in folders.items()}
        entry = {"id": relative["dir"], "cell": "c", "scene": "card", "seed": 0, "repeat": 0, **relative}
        write_json(self.study.resolved, {"study": "s", "scenes": {"card": {}}, "paths": {}, "runs": [entry]})
        self._mesh()
        for stage in ("views", "score", "geometry", "camera path", "trajectory", "status", "tables"):
            self.stages[stage]()
        return self

    def _finish(self) -> None:
        """What stages leave besides their results."""
        ended = {
            self.scene.root: ("capture", "frames", "reference", "splits", "scene_frame", "images-0"),
            self.poses.root: ("poses",),
            self.dataset.root: ("dataset",),
            self.run.root: ("train", "render", "score"),
        }
        for folder, stages in ended.items():
            for stage in stages:
                write_status(status_path(folder, stage), Status(OK, stage))
        write_json(ledger_path(self.run.root, "train"), {"stage": "train", "wall_s": 1.0, "cpu_s": 1.0})
        write_json(self.run.checkpoint_manifest, {"checkpoint": None, "step": 3, "sha256": None})
        write_json(self.run.run, {"versions": {"commit": "x"}})
        write_text(self.run.train_log, "step,loss,lr,rays_per_s,seconds\n3,0.1,0.01,100,1.0\n")

    def _geometry_spec(self) -> dict[str, Any]:
        surface = {"path": str(self.root / "truth.ply"), "region": "all"}
        keys = {"geometry": {"points": 100}, "surface": surface}
        return scene_keys(study_keys(keys, "geometry"), "surface")

    def _mesh(self) -> None:
        triangle = Mesh(np.eye(3), np.array([[0, 1, 2]]))
        for path in (self.run.mesh, self.root / "truth.ply"):
            write_mesh(path, triangle)
        world = {"space": "world", "world_from_scene": Sim3(2.0, np.eye(3), np.ones(3)).to_json()}
        write_json(self.run.mesh_info, {**world, "aabb_scene": [[-1, -1, -1], [1, 1, 1]]})

    def _render(self) -> None:
        views = []
        self.run.test.mkdir(parents=True)
        for view in held_out_views(self.dataset):
            cv2.imwrite(str(self.run.test / f"{view.name}.png"), np.full((SIZE[1], SIZE[0], 3), 99, np.uint8))
            cv2.imwrite(str(self.run.test / f"{view.name}.rgb16.png"), np.full((SIZE[1], SIZE[0], 3), 25443, np.uint16))
            views.append({"name": view.name, "rays": 48, "seconds": 0.1, "pose": view.pose.tolist()})
        write_json(self.run.test / "renders.json", {"views": views, "step": 3})


def write_capture(folder: Path, count: int = 4) -> None:
    """A folder in Blender format: grey pictures from a ring of cameras, every second one a test frame's."""
    frames: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for k in range(count):
        split = "test" if k % 2 else "train"
        angle = 2 * np.pi * k / count
        pose = look_at(np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
        (folder / split).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / split / f"r_{k}.png"), np.full((SIZE[1], SIZE[0], 3), 60 + 40 * k, np.uint8))
        frames[split].append({"file_path": f"./{split}/r_{k}", "transform_matrix": pose.tolist()})
    for split, listed in frames.items():
        document = {"camera_angle_x": 0.8, "frames": listed}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document), encoding="utf-8")
