"""Every path under ``results/`` is made here and nowhere else.

The classes only join names; they neither create anything nor look into a file. A name is one part of a path and no
more, wherever it is from: a config, a command line or a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fieldbook.errors import UserError
from fieldbook.shapes import is_name


def part(name: str) -> str:
    """The name itself, if it can be one part of a path.

    Raises:
        UserError: It is a path, is hidden, is empty or too long, or cannot be printed.
    """
    if not is_name(name):
        raise UserError(f"{name!r} cannot be the name of a folder or file; take letters, digits, - and _")
    return name


def status_path(folder: Path, stage: str) -> Path:
    """``<stage>.status.json`` in a stage's folder."""
    return folder / f"{part(stage)}.status.json"


def lock_path(folder: Path, stage: str) -> Path:
    """Locked by the process that is at a stage of a folder."""
    return folder / f".{part(stage)}.lock"


def done_path(folder: Path, stage: str) -> Path:
    """What a finished stage was made from and how it ended; no rule declares it, so Snakemake does not delete it."""
    return folder / f".{part(stage)}.done.json"


def ledger_path(folder: Path, stage: str) -> Path:
    """``<stage>.ledger.json`` in a stage's folder."""
    return folder / f"{part(stage)}.ledger.json"


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
    def truth_mesh(self) -> Path:
        """All surfaces of the synthetic capture, in metres."""
        return self.truth / "mesh.ply"

    @property
    def truth_object(self) -> Path:
        """The synthetic capture's subject alone, a watertight mesh with normals, in the truth frame."""
        return self.truth / "object.ply"

    @property
    def raw(self) -> Path:
        """Frames as filmed, with the lens's distortion; input of the reference only."""
        return self.root / "raw"

    @property
    def raw_index(self) -> Path:
        """Name, source index, time, sharpness and exposure of each raw frame, and what the capture says of it."""
        return self.root / "raw.json"

    @property
    def raw_sparse(self) -> Path:
        """COLMAP model that a capture came with, of the raw frames and under their names."""
        return self.root / "raw-sparse"

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
        return self.root / "masks" / part(mask)

    def images(self, long_side: int) -> Path:
        """Frames scaled to ``long_side`` pixels; 0 keeps their size."""
        return self.frames if long_side == 0 else self.root / f"images-{long_side}"

    def scaled_masks(self, mask: str, long_side: int) -> Path:
        """Masks scaled like ``images``."""
        return self.masks(mask) if long_side == 0 else self.root / "masks" / part(f"{mask}-{long_side}")

    def poses(self, count: str, policy: str, mapper: str, sfm_mask: str, sfm_seed: int, draw: int) -> PoseFiles:
        """Folder of one subset's poses; ``count`` is ``6``, ``all`` or ``50pct``."""
        name = f"poses-{policy}-{mapper}-{sfm_mask}-s{sfm_seed}"
        return PoseFiles(self.root / part(f"n{count}-d{draw}") / part(name))

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
    def results(self) -> Path | None:
        """The results folder that this dataset is in; ``None`` where it is in none, as when it was copied out."""
        parents = self.root.absolute().parents
        root = parents[4] if len(parents) > 4 else None
        return root if root is not None and (root / "scenes").is_dir() else None

    @property
    def transforms(self) -> Path:
        """nerfstudio's ``transforms.json`` with explicit train, val and test lists."""
        return self.root / "transforms.json"

    @property
    def points(self) -> Path:
        """Sparse points for methods that start from them."""
        return self.root / "points.ply"

    def run(self, method: str, name: str) -> RunFiles:
        """Folder of one run that is trained on this dataset."""
        return RunFiles(self.root / part(method) / part(name))

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
    def set_aside(self) -> Path:
        """Checkpoints of another training that was stopped here; until this one is finished."""
        return self.root / "nerfstudio_models.before"

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
        return self.root / "cones" / part(name)

    @property
    def images_csv(self) -> Path:
        """One row per rendered image: metrics, novelty, hashes."""
        return self.root / "images.csv"

    @property
    def mesh(self) -> Path:
        """The surface in world units, with vertex colours and normals."""
        return self.root / "mesh.ply"

    @property
    def mesh_glb(self) -> Path:
        """The same for viewers and web pages."""
        return self.root / "mesh.glb"

    @property
    def mesh_obj(self) -> Path:
        """The same as text."""
        return self.root / "mesh.obj"

    @property
    def mesh_info(self) -> Path:
        """What the mesh was taken from, its numbers, and the map from the scene frame to its world units."""
        return self.root / "mesh.json"

    @property
    def geometry(self) -> Path:
        """How the mesh compares with the true surface."""
        return self.root / "geometry.json"

    @property
    def external(self) -> ExternalFiles:
        """What an external method is given, and what it makes of it."""
        return ExternalFiles(self.root / "external")

    def command_log(self, stage: str) -> Path:
        """Output of an external method's command."""
        return self.root / "logs" / part(f"{stage}-command.log")

    def status(self, stage: str) -> Path:
        """Status file of a stage of the run: ``train``, ``render``, ``score``, ``mesh`` or ``geometry``."""
        return status_path(self.root, stage)


@dataclass(frozen=True)
class ExternalFiles:
    """What passes between a run and the commands of an external method."""

    root: Path

    @property
    def dataset(self) -> Path:
        """The dataset folder that the commands get: the training frames and nothing else."""
        return self.root / "dataset"

    @property
    def model(self) -> Path:
        """What training leaves for rendering."""
        return self.root / "model"

    @property
    def contents(self) -> Path:
        """SHA-256 of every file in ``model`` when training ended."""
        return self.root / "model.json"

    def cameras(self, name: str) -> Path:
        """Cameras to render: of ``test``, or of a novel-view path."""
        return self.root / "cameras" / part(f"{name}.json")

    def trajectory(self, name: str) -> Path:
        """The same cameras as nerfbaselines' trajectory."""
        return self.root / "cameras" / part(f"{name}-trajectory.json")

    def output(self, name: str) -> Path:
        """Where the command writes its pictures, before they are checked."""
        return self.root / "output" / part(name)


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

    @property
    def sync(self) -> Path:
        """Whether everything is in the tracking store, and why not."""
        return self.root / "sync.json"

    def dataset(self, scene: str, count: str, draw: int, poses_name: str, mask: str) -> DatasetFiles:
        """Folder of one dataset; ``poses_name`` is the name of its ``PoseFiles`` folder."""
        parts = (scene, f"n{count}-d{draw}", poses_name, f"masks-{mask}")
        return DatasetFiles(self.root.joinpath(*map(part, parts)))

    def method(self, name: str) -> Path:
        """Folder of the early check of one method variant, ``<method>-<variant>``."""
        return self.root / "methods" / part(name)

    def path(self, scene: str, name: str) -> PathFiles:
        """Folder of one novel-view path."""
        return PathFiles(self.root / part(scene) / "paths" / part(name))


@dataclass(frozen=True)
class Results:
    """The root of everything that Fieldbook writes."""

    root: Path

    def scene(self, scene: str) -> SceneFiles:
        """Files of a scene."""
        return SceneFiles(self.root / "scenes" / part(scene))

    def study(self, study: str) -> StudyFiles:
        """Files of a study."""
        return StudyFiles(self.root / part(study))

    @property
    def log(self) -> Path:
        """Folder of the research log's entries."""
        return self.root / "log"

    @property
    def compiled_log(self) -> Path:
        """All entries of the research log in one page."""
        return self.root / "log.md"

    @property
    def tracking_db(self) -> Path:
        """MLflow's store of all studies, where no other is named."""
        return self.root / "mlflow.db"

    @property
    def tracking_artifacts(self) -> Path:
        """Files of the runs in ``tracking_db``."""
        return self.root / "mlartifacts"

    @property
    def tracking_origin(self) -> Path:
        """Names this folder in a store that others log to as well."""
        return self.root / ".tracking-origin"
