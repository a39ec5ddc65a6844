"""Every path under ``results/`` is made here and nowhere else.

The classes only join names; they neither read nor create anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def status_path(folder: Path, stage: str) -> Path:
    """``<stage>.status.json`` in a stage's folder."""
    return folder / f"{stage}.status.json"


def lock_path(folder: Path, stage: str) -> Path:
    """Locked by the process that is at a stage of a folder."""
    return folder / f".{stage}.lock"


def done_path(folder: Path, stage: str) -> Path:
    """What a finished stage was made from and how it ended; no rule declares it, so Snakemake does not delete it."""
    return folder / f".{stage}.done.json"


def ledger_path(folder: Path, stage: str) -> Path:
    """``<stage>.ledger.json`` in a stage's folder."""
    return folder / f"{stage}.ledger.json"


@dataclass(frozen=True)
class SceneFiles:
    """Files of one scene, shared by all studies: ``results/scenes/<scene>/``."""

    root: Path

    @property
    def capture(self) -> Path:
        """Source, sha256, size, fps, frame count, lost frames."""
        return self.root / "capture.json"

    @property
    def source_video(self) -> Path:
        """The video that the synthetic capture makes."""
        return self.root / "source.mp4"

    @property
    def truth(self) -> Path:
        """Folder with the synthetic capture's cameras, depth, masks and mesh."""
        return self.root / "truth"

    @property
    def raw(self) -> Path:
        """Frames as filmed, with the lens's distortion; input of the reference only."""
        return self.root / "raw"

    @property
    def raw_index(self) -> Path:
        """Name, source index, time, sharpness and exposure of each raw frame, and what the capture says of it."""
        return self.root / "raw.json"

    @property
    def frames(self) -> Path:
        """Undistorted frames, the pictures everything after the reference uses."""
        return self.root / "frames"

    @property
    def frames_index(self) -> Path:
        """Index of the undistorted frames, same form as ``raw.json``."""
        return self.root / "frames.json"

    @property
    def reference(self) -> Path:
        """COLMAP reconstruction of all frames, or the poses that came with the capture."""
        return self.root / "reference"

    @property
    def reference_poses(self) -> Path:
        """Reference poses in the COLMAP frame, or in the world of a capture that came with them."""
        return self.reference / "poses.json"

    @property
    def reference_sparse(self) -> Path:
        """The reference's COLMAP model (of the raw frames)."""
        return self.reference / "sparse"

    @property
    def reference_database(self) -> Path:
        """Features and matches of the raw frames."""
        return self.reference / "database.db"

    @property
    def reference_points(self) -> Path:
        """The reference's sparse points in the scene frame, for pictures and reports, never for a method."""
        return self.reference / "sparse.ply"

    @property
    def scene(self) -> Path:
        """The scene frame: Sim(3), POI, up, axis, bounds, near and far."""
        return self.root / "scene.json"

    @property
    def splits(self) -> Path:
        """Test frames, and the nesting order of the pool."""
        return self.root / "splits.json"

    def masks(self, mask: str) -> Path:
        """Masks of one source, as large as the undistorted frames."""
        return self.root / "masks" / mask

    def images(self, long_side: int) -> Path:
        """Frames scaled to ``long_side`` pixels; 0 keeps their size."""
        return self.frames if long_side == 0 else self.root / f"images-{long_side}"

    def scaled_masks(self, mask: str, long_side: int) -> Path:
        """Masks scaled like ``images``."""
        return self.masks(mask) if long_side == 0 else self.root / "masks" / f"{mask}-{long_side}"

    def poses(self, count: str, policy: str, mapper: str, sfm_mask: str, sfm_seed: int, draw: int) -> PoseFiles:
        """Folder of one subset's poses; ``count`` is ``6``, ``all`` or ``50pct``."""
        name = f"poses-{policy}-{mapper}-{sfm_mask}-s{sfm_seed}"
        return PoseFiles(self.root / f"n{count}-d{draw}" / name)

    def status(self, stage: str) -> Path:
        """Status file of a scene-level stage."""
        return status_path(self.root, stage)


@dataclass(frozen=True)
class PoseFiles:
    """Files of one subset's poses."""

    root: Path

    @property
    def poses(self) -> Path:
        """Camera and poses in the scene frame, registered and requested, residuals, focal ratio."""
        return self.root / "poses.json"

    @property
    def points(self) -> Path:
        """Sparse points that the subset's own frames saw, in the scene frame."""
        return self.root / "points.ply"

    @property
    def sfm(self) -> Path:
        """COLMAP workspace of a ``subset`` policy."""
        return self.root / "sfm"

    def status(self, stage: str = "poses") -> Path:
        """Status file of the poses stage."""
        return status_path(self.root, stage)


@dataclass(frozen=True)
class DatasetFiles:
    """A nerfstudio dataset: ``results/<study>/<scene>/n<count>-d<draw>/poses-.../masks-<mask>/``."""

    root: Path

    @property
    def transforms(self) -> Path:
        """nerfstudio's ``transforms.json`` with explicit train, val and test lists."""
        return self.root / "transforms.json"

    @property
    def points(self) -> Path:
        """Sparse points for methods that start from them."""
        return self.root / "points.ply"

    def status(self, stage: str = "dataset") -> Path:
        """Status file of the dataset stage."""
        return status_path(self.root, stage)


@dataclass(frozen=True)
class PathFiles:
    """One novel-view camera path of a study's scene."""

    root: Path

    @property
    def camera_path(self) -> Path:
        """nerfstudio's camera-path JSON, in the scene frame."""
        return self.root / "camera_path.json"

    @property
    def trajectory(self) -> Path:
        """The same in nerfbaselines' trajectory format."""
        return self.root / "trajectory.json"

    @property
    def truth(self) -> Path:
        """True images of the path's views, where the capture is synthetic."""
        return self.root / "truth"

    def status(self, stage: str = "path") -> Path:
        """Status file of the path stage."""
        return status_path(self.root, stage)


@dataclass(frozen=True)
class RunFiles:
    """A run: ``<dataset>/<method>/<variant>-seed<k>-rep<r>/``; a nerfstudio output folder."""

    root: Path

    @property
    def config(self) -> Path:
        """nerfstudio's ``config.yml``."""
        return self.root / "config.yml"

    @property
    def checkpoints(self) -> Path:
        """nerfstudio's checkpoints; resumable, so never a declared output of a rule."""
        return self.root / "nerfstudio_models"

    @property
    def resume(self) -> Path:
        """Checkpoints that training can go on from, newest first, and what they belong to; gone when it is done."""
        return self.root / "resume.json"

    @property
    def checkpoint_manifest(self) -> Path:
        """Name, step and sha256 of the final checkpoint."""
        return self.root / "checkpoint.json"

    @property
    def train_log(self) -> Path:
        """Loss, learning rate and rays/s per logged step."""
        return self.root / "train.csv"

    @property
    def run(self) -> Path:
        """Everything that defines the run."""
        return self.root / "run.json"

    @property
    def test(self) -> Path:
        """Rendered test views."""
        return self.root / "test"

    def path(self, name: str) -> Path:
        """Rendered views of a novel-view path."""
        return self.root / "cones" / name

    @property
    def images_csv(self) -> Path:
        """One row per rendered image: metrics, novelty, hashes."""
        return self.root / "images.csv"

    def status(self, stage: str) -> Path:
        """Status file of ``train``, ``render`` or ``score``."""
        return status_path(self.root, stage)


@dataclass(frozen=True)
class StudyFiles:
    """Tables and report of one study: ``results/<study>/``."""

    root: Path

    @property
    def images_csv(self) -> Path:
        """All runs' images."""
        return self.root / "images.csv"

    @property
    def runs_csv(self) -> Path:
        """One row per run."""
        return self.root / "runs.csv"

    @property
    def cells_csv(self) -> Path:
        """One row per cell, over its runs."""
        return self.root / "cells.csv"

    @property
    def report(self) -> Path:
        """The self-contained report."""
        return self.root / "report.html"

    @property
    def resolved(self) -> Path:
        """The study as resolved: config with defaults, cells, runs."""
        return self.root / "study.json"

    def dataset(self, scene: str, count: str, draw: int, poses_name: str, mask: str) -> DatasetFiles:
        """Folder of one dataset; ``poses_name`` is the name of its ``PoseFiles`` folder."""
        return DatasetFiles(self.root / scene / f"n{count}-d{draw}" / poses_name / f"masks-{mask}")

    def method(self, name: str) -> Path:
        """Folder of the early check of one method variant, ``<method>-<variant>``."""
        return self.root / "methods" / name

    def path(self, scene: str, name: str) -> PathFiles:
        """Folder of one novel-view path."""
        return PathFiles(self.root / scene / "paths" / name)


@dataclass(frozen=True)
class Results:
    """The root of everything that Fieldbook writes."""

    root: Path

    def scene(self, scene: str) -> SceneFiles:
        """Files of a scene."""
        return SceneFiles(self.root / "scenes" / scene)

    def study(self, study: str) -> StudyFiles:
        """Files of a study."""
        return StudyFiles(self.root / study)

    @property
    def log(self) -> Path:
        """Folder of the research log's entries."""
        return self.root / "log"

    @property
    def compiled_log(self) -> Path:
        """All entries of the research log in one page."""
        return self.root / "log.md"
