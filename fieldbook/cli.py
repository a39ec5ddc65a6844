"""The command line: one sub-command per stage. Each rule of the workflow calls exactly these commands.

Every command imports what it needs when it runs, so ``fieldbook --help`` needs neither torch nor nerfstudio.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from fieldbook.errors import FieldbookError, UserError
from fieldbook.layout import DatasetFiles, PathFiles, PoseFiles, RunFiles, SceneFiles, StudyFiles, status_path
from fieldbook.stage import run_stage
from fieldbook.status import Status

Spec = Annotated[str, arg(help="The stage's keys as JSON or @FILE; see `fieldbook plan --json`.", metavar="JSON")]
SceneDir = Annotated[Positional[Path], arg(help="Folder of the scene: results/scenes/<scene>.")]
RunDir = Annotated[Positional[Path], arg(help="Folder of the run.")]


class _Keys(dict[str, Any]):
    """A JSON object whose missing keys are a mistake of the user's, not of ours."""

    def __missing__(self, key: str) -> Any:
        raise UserError(f"--spec has no key {key!r}; `fieldbook plan --json` prints whole ones")


def _load(spec: str) -> dict[str, Any]:
    try:
        text = Path(spec[1:]).read_text(encoding="utf-8") if spec.startswith("@") else spec
        value = json.loads(text, object_hook=_Keys)
    except (OSError, ValueError) as error:
        raise UserError(f"--spec takes JSON or @FILE: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"--spec takes a JSON object, not {type(value).__name__}")
    return value


def _scene_stage(stage: str, scene: Path, spec: str, work: Callable[..., Any], *needs: str) -> Status:
    from fieldbook.scenes import refuse_change

    files, keys = SceneFiles(scene), _load(spec)
    refuse_change(scene.name, files.status(stage), keys)
    return run_stage(stage, scene, lambda: work(files, keys), [files.status(n) for n in needs], keys)


def capture(scene: SceneDir, spec: Spec) -> Status:
    """Probe a video, a folder of pictures or one in Blender format, or make the synthetic capture.

    Example: fieldbook capture results/scenes/fox --spec '{"capture": {"kind": "video", "path": "fox.mp4"}}'
    """
    from data.video import ingest

    return _scene_stage("capture", scene, spec, ingest)


def frames(scene: SceneDir, spec: Spec) -> Status:
    """Take frames out of a capture.

    Example: fieldbook frames results/scenes/fox --spec @fox.json
    """
    from data.video import extract

    return _scene_stage("frames", scene, spec, extract, "capture")


def reference(scene: SceneDir, spec: Spec) -> Status:
    """Reconstruct all frames with COLMAP and undistort them once; poses that came with a capture are taken as given.

    Example: fieldbook reference results/scenes/fox --spec @fox.json
    """
    from data.reference import make_reference

    return _scene_stage("reference", scene, spec, make_reference, "frames")


def splits(scene: SceneDir, spec: Spec) -> Status:
    """Hold out the test frames and order the pool.

    Example: fieldbook splits results/scenes/fox --spec '{"split": {"test_every": 8, "file": null}, "nested": true}'
    """
    from data.subsets import make_splits

    return _scene_stage("splits", scene, spec, make_splits, "reference")


def scene_frame(scene: SceneDir, spec: Spec) -> Status:
    """Find the point of interest, up, axis, scale, bounds, near and far.

    Example: fieldbook scene-frame results/scenes/fox --spec '{"poi": null}'
    """
    from data.scene_frame import make_scene_frame

    return _scene_stage("scene_frame", scene, spec, make_scene_frame, "reference")


def mask(scene: SceneDir, name: Positional[str], spec: Spec) -> Status:
    """Make the masks of one source.

    Example: fieldbook mask results/scenes/card card --spec '{"mask": {"kind": "truth"}}'
    """
    from data.masks.sources import make_masks

    work = lambda files, keys: make_masks(files, {"masks": {name: keys["mask"]}}, name)  # noqa: E731
    return _scene_stage(f"mask-{name}", scene, spec, work, "scene_frame")


def images(scene: SceneDir, long_side: int) -> Status:
    """Scale the frames of a scene; 0 keeps their size.

    Example: fieldbook images results/scenes/card --long-side 160
    """
    from data.images import scale_images

    files = SceneFiles(scene)
    work = lambda: scale_images(files, long_side)  # noqa: E731
    return run_stage(f"images-{long_side}", scene, work, [files.status("reference")])


def scaled_mask(scene: SceneDir, name: Positional[str], long_side: int) -> Status:
    """Scale the masks of one source like the frames.

    Example: fieldbook scaled-mask results/scenes/card card --long-side 160
    """
    from data.images import scale_masks

    files = SceneFiles(scene)
    work = lambda: scale_masks(files, name, long_side)  # noqa: E731
    return run_stage(f"scaled-{name}-{long_side}", scene, work, [files.status(f"mask-{name}")])


def poses(
    scene: SceneDir,
    spec: Spec,
    count: str,
    policy: Literal["reference", "subset"] = "reference",
    mapper: Literal["incremental", "global", "hierarchical"] = "incremental",
    sfm_mask: str = "none",
    sfm_seed: int = 0,
    draw: int = 0,
) -> Status:
    """Poses of one subset of frames, in the scene frame.

    Example: fieldbook poses results/scenes/card --count 6 --policy subset --spec @card.json
    """
    from data.subset_poses import PoseRequest, make_poses

    files, keys = SceneFiles(scene), _load(spec)
    out = files.poses(count, policy, mapper, sfm_mask, sfm_seed, draw)
    request = PoseRequest(count, draw, policy, mapper, sfm_mask, sfm_seed)
    needs = [files.status("splits"), files.status("scene_frame")]
    needs += [files.status(f"mask-{sfm_mask}")] if sfm_mask != "none" else []
    return run_stage("poses", out.root, lambda: make_poses(files, out, keys, request), needs, keys)


def dataset(out: Positional[Path], scene: Path, poses: Path, long_side: int = 0, mask: str = "none") -> Status:
    """Write a nerfstudio dataset: transforms.json and points.ply.

    Example: fieldbook dataset DATASET --scene results/scenes/card --poses results/scenes/card/n6-d0/poses-...
    """
    from data.dataset import make_dataset

    files = SceneFiles(scene)
    needs = [status_path(poses, "poses"), files.status(f"images-{long_side}")]
    needs += [files.status(f"scaled-{mask}-{long_side}")] if mask != "none" else []
    work = lambda: make_dataset(files, PoseFiles(poses), DatasetFiles(out), long_side, mask)  # noqa: E731
    return run_stage("dataset", out, work, needs)


def path(out: Positional[Path], scene: Path, spec: Spec, long_side: int = 0) -> Status:
    """Lay a novel-view camera path through the scene frame; true images where the capture is synthetic.

    Example: fieldbook path cone30 --scene results/scenes/card --spec '{"kind": "cone", "angle": 30, "distance": 1}'
    """
    from camera_paths.path import make_path
    from camera_paths.spec import check_path_spec

    files, keys = SceneFiles(scene), check_path_spec(out.name, _load(spec))
    work = lambda: make_path(files, PathFiles(out), keys, long_side)  # noqa: E731
    return run_stage("path", out, work, [files.status("scene_frame")])


def method(out: Positional[Path], spec: Spec) -> Status:
    """Check a method and its overrides before anything is computed for it.

    Example: fieldbook method OUT --spec '{"method": "nerfacto", "preset": "laptop", "overrides": {}, "device": "auto"}'
    """
    from methods.runner.setup import check_method

    keys = _load(spec)
    return run_stage("method", out, lambda: check_method(keys))


def train(run: RunDir, spec: Spec) -> Status:
    """Train one run.

    Example: fieldbook train DATASET/nerfacto/laptop-3fa9c1-seed0-rep0 --spec @run.json
    """
    from fieldbook.files import write_json
    from methods.runner.train import train as work

    files, data, keys = RunFiles(run), DatasetFiles(run.parent.parent), _load(spec)
    status = run_stage("train", run, lambda: work(files, data, keys), [data.status()])
    if not status.ok:
        write_json(files.checkpoint_manifest, {"checkpoint": None, "step": None, "sha256": None})
    return status


def render(run: RunDir, spec: Spec, paths: tuple[Path, ...] = ()) -> Status:
    """Render a trained run's test views, and the novel-view paths that are named.

    Example: fieldbook render RUN --spec @run.json --paths results/demo/card/paths/cone30
    """
    from methods.runner.render import render as work

    files, data, keys = RunFiles(run), DatasetFiles(run.parent.parent), _load(spec)
    cameras = {p.name: PathFiles(p).camera_path for p in paths}
    needs = [files.status("train"), *(status_path(p, "path") for p in paths)]
    return run_stage("render", run, lambda: work(files, data, cameras, keys), needs)


def score(run: RunDir, spec: Spec, paths: tuple[Path, ...] = ()) -> Status:
    """Score a run's rendered views, one row per image; novel views where their paths are named.

    Example: fieldbook score RUN --spec '{"metrics": ["psnr", "ssim"], "weights": "none"}'
    """
    from eval.protocol import score as work

    files, data, keys = RunFiles(run), DatasetFiles(run.parent.parent), _load(spec)
    truths = {p.name: PathFiles(p).truth for p in paths}
    return run_stage("score", run, lambda: work(files, data, truths, keys), [files.status("render")])


def plan(config: Path = Path("config.yaml"), json_: Annotated[bool, arg(name="json")] = False) -> None:
    """List a study's runs, or print everything the stages are given as JSON.

    Example: fieldbook plan --config examples/fox.yaml
    """
    from fieldbook.scenes import load_study
    from fieldbook.study import study_record

    study = load_study(config)
    record = study_record(study)
    if json_:
        specs = {r.files(study.results).root.as_posix(): study.train_spec(r) for r in study.runs}
        print(json.dumps(record | {"train_specs": specs, "score_spec": study.score_spec()}, indent=1))
        return
    for run in record["runs"]:
        print(run["id"])
    cells = len({run["cell"] for run in record["runs"]})
    print(f"runs: {len(record['runs'])}, cells: {cells}", file=sys.stderr)


def tables(
    study: Annotated[Positional[Path], arg(help="results/<study>")],
    config: Annotated[str, arg(help="The study's config file, or its content as JSON.")] = "config.yaml",
) -> None:
    """Collect a study's images.csv, runs.csv and cells.csv; runs that are not finished are rows that say so.

    Example: fieldbook tables results/demo --config config.yaml
    """
    from fieldbook.config import read_config
    from fieldbook.files import write_json
    from fieldbook.scenes import make
    from fieldbook.study import study_record
    from fieldbook.versions import versions
    from reports.tables import make_tables

    made = make(_load(config) if config.startswith("{") else read_config(Path(config)))
    files = StudyFiles(study)
    if made.files.root.resolve() != study.resolve():
        raise UserError(f"{config[:80]} is the study of {made.files.root}, not of {study}")
    write_json(files.resolved, study_record(made) | {"versions": versions()})
    make_tables(study.parent, files.resolved, files)


def report(study: Annotated[Positional[Path], arg(help="results/<study>")]) -> None:
    """Write a study's report.html and its entry in the research log, from its tables.

    Example: fieldbook report results/demo
    """
    from reports.html import make_report

    make_report(study.parent, StudyFiles(study).resolved, StudyFiles(study))


def doctor(
    json_: Annotated[Path | None, arg(name="json", metavar="FILE", help="Write the same facts there.")] = None,
) -> None:
    """Look at this machine, build the compiled kernels, test each against its torch version and time both.

    Example: fieldbook doctor --json doctor.json
    """
    from fieldbook.doctor import check, examine
    from fieldbook.files import write_json

    facts = examine(lambda line: print(line, flush=True))
    if json_ is not None:
        write_json(json_, facts)
    check(facts)


COMMANDS = {
    f.__name__.replace("_", "-"): f
    for f in (
        plan, method, capture, frames, reference, splits, scene_frame, mask, images, scaled_mask, poses, dataset, path,
        train, render, score, tables, report, doctor,
    )
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code: 0 done (infeasible is done), 2 a mistake of the user."""
    # Two jobs on shared cores would spin in OpenMP's barriers instead of working: measured, seven times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # nerfstudio's own, about torch names that it imports; they would stand before every one-line message.
    warnings.filterwarnings("ignore", category=FutureWarning, module="nerfstudio")
    debug = "--debug" in argv
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="fieldbook",
            description="Reproducible experiments for radiance fields. --debug shows tracebacks.",
            args=[a for a in argv if a != "--debug"],
        )
    except FieldbookError as error:
        if debug:
            traceback.print_exc()
        print(f"fieldbook: {error}", file=sys.stderr)
        return 2
    if isinstance(status, Status) and not status.ok:
        print(f"infeasible ({status.stage}): {status.reason}", file=sys.stderr)
    return 0


def entrypoint() -> None:
    """The ``fieldbook`` console script."""
    sys.exit(main(sys.argv[1:]))
