"""A study: one config expanded to cells and runs. Pure: no torch, no files.

A cell is one combination of scene, frame count, draws, pose policy, mapper, masks and method variant; a run is a cell
with a seed and a repeat number.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from camera_paths.spec import check_path_spec
from data.posed import POSED_KINDS, check_frame_keys
from data.subsets import count_label, held_out_positions
from fieldbook.config import validate
from fieldbook.errors import UserError, nearest
from fieldbook.layout import DatasetFiles, PoseFiles, Results, RunFiles, StudyFiles
from methods.external.entry import check_entry, external_commands, is_external, resolved_commands
from methods.external.template import EXTERNAL

MOST_RUNS = 10_000
"""Of a study: more than anybody trains, and what a mistyped number may ask for."""


@dataclass(frozen=True)
class Run:
    """A cell with a seed and a repeat number.

    Attributes:
        count: Label of the frame count: ``6``, ``all`` or ``50pct``.
        preset: ``external`` for a method that is run by commands of its own.
        overrides: The user's, by dotted name.
        resolved: The preset's and the user's together; of an external method its commands.
        variant: Readable slug and 6 hex digits of ``resolved``, e.g. ``laptop-3fa9c1``.
    """

    study: str
    scene: str
    count: str
    subset_draw: int
    policy: str
    mapper: str
    sfm_mask: str
    sfm_seed: int
    mask: str
    method: str
    preset: str
    overrides: dict[str, Any]
    resolved: dict[str, Any]
    variant: str
    seed: int = 0
    repeat: int = 0

    def poses(self, results: Results) -> PoseFiles:
        """Folder of this run's poses."""
        scene = results.scene(self.scene)
        return scene.poses(self.count, self.policy, self.mapper, self.sfm_mask, self.sfm_seed, self.subset_draw)

    def dataset(self, results: Results) -> DatasetFiles:
        """Folder of this run's dataset."""
        poses = self.poses(results).root.name
        return results.study(self.study).dataset(self.scene, self.count, self.subset_draw, poses, self.mask)

    def files(self, results: Results) -> RunFiles:
        """This run's folder."""
        name = f"{self.variant}-seed{self.seed}-rep{self.repeat}"
        return self.dataset(results).run(self.method, name)


@dataclass(frozen=True)
class Study:
    """A validated config and its runs.

    Attributes:
        config: With every default filled in.
        runs: In the order of the config.
    """

    config: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.config["study"]

    @property
    def results(self) -> Results:
        """Where everything is written."""
        return Results(Path(self.config["results"]))

    @property
    def files(self) -> StudyFiles:
        """Tables and report of the study."""
        return self.results.study(self.name)

    def train_spec(self, run: Run) -> dict[str, Any]:
        """What defines a training: changing any of it trains that run anew."""
        return asdict(run) | {k: self.config[k] for k in ("device", "torch_threads", "long_side")}

    def method_specs(self) -> dict[str, dict[str, Any]]:
        """Each method variant of the study, ``<method>-<variant>``, and what is checked of it before all else."""
        return {f"{run.method}-{run.variant}": self._method_spec(run) for run in self.runs}

    def _method_spec(self, run: Run) -> dict[str, Any]:
        commands = {"resolved": run.resolved} if run.preset == EXTERNAL else {}
        keys = ("method", "preset", "overrides")
        return {k: getattr(run, k) for k in keys} | commands | {"device": self.config["device"]}

    def mesh_spec(self) -> dict[str, Any]:
        """What defines the mesh of a run."""
        return {k: self.config[k] for k in ("mesh", "device", "torch_threads")}

    def geometry_spec(self, run: Run) -> dict[str, Any]:
        """What defines the comparison of a run's mesh with the true surface."""
        return {"geometry": self.config["geometry"], "surface": self.config["scenes"][run.scene]["surface"]}

    def score_spec(self) -> dict[str, Any]:
        """What defines the scoring of a run."""
        return {k: self.config[k] for k in ("metrics", "weights", "device")}


def scores_with_lpips(spec: dict[str, Any]) -> bool:
    """Whether a scoring runs LPIPS's networks: the only part of it that a GPU has to do with."""
    lpips = any(metric.startswith("lpips") for metric in spec["metrics"])
    return lpips and spec.get("weights") not in (None, "none")


Resolve = Callable[[str, str, dict[str, Any]], dict[str, Any]]


def make_study(config: dict[str, Any], resolve_overrides: Resolve) -> Study:
    """Validate a config and expand it.

    Args:
        config: As read from YAML.
        resolve_overrides: ``(method, preset, overrides)`` to the overrides that result, the preset's own included;
            raises ``UserError`` for a method it does not know.

    Raises:
        UserError: A wrong key, type or value, a name that is not there, or a count above the pool.
    """
    given = config.get("methods")
    config = validate(config)
    for entry, written in zip(config["methods"], given or (), strict=True):
        check_entry(entry, written)
    config["cones"] = {name: check_path_spec(name, {"kind": "cone"} | spec) for name, spec in config["cones"].items()}
    for scene in config["scenes"]:
        _check_scene(config, scene)
    runs = tuple(itertools.islice(_expand(config, resolve_overrides), MOST_RUNS + 1))
    if len(runs) > MOST_RUNS:
        raise UserError(f"the config asks for more than {MOST_RUNS} runs; give its axes fewer values, or split it")
    # Without upper and lower case, which some file systems do not tell apart.
    folders = Counter(r.files(Results(Path())).root.as_posix().casefold() for r in runs)
    twice = next((folder for folder, times in folders.items() if times > 1), None)
    if twice:
        raise UserError(f"the config asks twice for the run {twice}; remove the repeated value")
    return Study(config, runs)


def _check_scene(config: dict[str, Any], scene: str) -> None:
    spec = config["scenes"][scene]
    for axis in ("masks", "sfm_masks"):
        for mask in config[axis]:
            if mask != "none" and mask not in spec["masks"]:
                raise UserError(
                    f"{axis}: scene {scene!r} has no mask {mask!r}; {nearest(mask, ['none', *spec['masks']])}"
                )
    mask = config["geometry"]["mask"]
    if mask != "none" and mask not in spec["masks"]:
        raise UserError(
            f"geometry.mask: scene {scene!r} has no mask {mask!r}; {nearest(mask, ['none', *spec['masks']])}"
        )
    capture, kinds = spec["capture"]["kind"], [m["kind"] for m in spec["masks"].values()]
    if capture != "synthetic" and "truth" in kinds:
        raise UserError(f"scenes.{scene}.masks: only a synthetic capture has true masks; use kind: folder")
    if capture != "blender" and "alpha" in kinds:
        raise UserError(f"scenes.{scene}.masks: only a blender capture has an alpha channel; use kind: folder")
    if spec["surface"] and spec["surface"]["path"] is None and capture != "synthetic":
        raise UserError(f"scenes.{scene}.surface: only a synthetic capture has a surface of its own; give its path")
    if capture not in ("neus", "colmap") and "given" in kinds:
        raise UserError(f"scenes.{scene}.masks: only a neus or colmap capture comes with masks; use kind: folder")
    if capture in POSED_KINDS:
        check_frame_keys(f"scenes.{scene}.frames", capture, spec["frames"])
    pool = _pool_size(spec)
    if pool is not None:
        check_counts(config["counts"], scene, pool)


def check_counts(counts: list[int | str], scene: str, pool: int) -> None:
    """Refuse counts that cannot be counts, and numbers above the pool."""
    for label in map(count_label, counts):
        if label.isdigit() and int(label) > pool:
            raise UserError(
                f"counts: {label} is more than the pool of scene {scene!r}: {pool} frames are left beside the test "
                f"frames; use at most {pool}, or all"
            )


def _pool_size(spec: dict[str, Any]) -> int | None:
    """Frames left beside the test frames where the config alone tells it, else None."""
    frames = spec["frames"]["count"]
    if frames == "all" and spec["capture"]["kind"] == "synthetic":
        frames = spec["capture"]["frames"]
    if frames == "all" or spec["split"]["file"]:
        return None
    return frames - len(held_out_positions(frames, spec["split"]["test_every"]))


def _expand(config: dict[str, Any], resolve_overrides: Resolve) -> Iterator[Run]:
    draws = config["draws"]
    counts = [count_label(c) for c in config["counts"]]
    for scene, count, draw in itertools.product(config["scenes"], counts, draws["subset_draw"]):
        for policy, mapper, sfm_mask, sfm_seed in _pose_axes(config, scene):
            for mask, entry in itertools.product(config["masks"], config["methods"]):
                method, preset, resolved = _resolve(entry, resolve_overrides)
                cell = Run(
                    study=config["study"],
                    scene=scene,
                    count=count,
                    subset_draw=draw,
                    policy=policy,
                    mapper=mapper,
                    sfm_mask=sfm_mask,
                    sfm_seed=sfm_seed,
                    mask=mask,
                    method=method,
                    preset=preset,
                    overrides=entry["overrides"],
                    resolved=resolved,
                    variant=_variant_name(entry, preset, resolved),
                )
                for seed, repeat in itertools.product(config["seeds"], range(config["repeats"])):
                    yield replace(cell, seed=seed, repeat=repeat)


def _pose_axes(config: dict[str, Any], scene: str) -> Iterator[tuple[str, str, str, int]]:
    """Policy, mapper, SfM mask and SfM seed; reference poses come from the one reference, so no axis varies them."""
    sfm = config["scenes"][scene]["sfm"]
    for policy in config["pose_policies"]:
        if policy == "reference":
            yield policy, sfm["mapper"], "none", sfm["seed"]
        else:
            axes = (config["mappers"], config["sfm_masks"], config["draws"]["sfm_seed"])
            yield from ((policy, *rest) for rest in itertools.product(*axes))


def _resolve(entry: dict[str, Any], resolve_overrides: Resolve) -> tuple[str, str, dict[str, Any]]:
    """Method as folders name it, preset, and what the runs of an entry are made with."""
    if is_external(entry):
        commands = external_commands(entry)
        return commands.method, EXTERNAL, resolved_commands(commands)
    method, preset = entry["method"], entry["preset"]
    return method, preset, resolve_overrides(method, preset, entry["overrides"])


def _variant_name(entry: dict[str, Any], preset: str, resolved: dict[str, Any]) -> str:
    try:
        text = json.dumps(resolved, sort_keys=True)
    except TypeError as error:
        raise UserError(f"methods: the overrides of {entry['method']!r} hold more than plain values: {error}") from None
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{entry.get('label', preset)}-{digest}"


def cell_id(run: Run) -> str:
    """Shared by the runs of one cell and by no others."""
    fields = asdict(replace(run, seed=0, repeat=0))
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
    return f"{run.scene}-n{run.count}-{run.policy}-{run.method}-{digest}"


def study_record(study: Study) -> dict[str, Any]:
    """The content of ``study.json``: the config with defaults, and every run with its folders below results/."""
    root = study.results.root
    runs = []
    for run in study.runs:
        folders = {
            "dir": run.files(study.results).root,
            "dataset_dir": run.dataset(study.results).root,
            "poses_dir": run.poses(study.results).root,
        }
        relative = {name: folder.relative_to(root).as_posix() for name, folder in folders.items()}
        runs.append({"id": relative["dir"], "cell": cell_id(run)} | asdict(run) | relative)
    return {
        "study": study.name,
        "config": study.config,
        "scenes": study.config["scenes"],
        "paths": study.config["cones"],
        "runs": runs,
    }
