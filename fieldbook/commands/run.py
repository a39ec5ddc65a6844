"""Stages of a run: checked, trained, rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from fieldbook import child
from fieldbook.commands.common import Again, RunDir, Spec, load_spec
from fieldbook.errors import Infeasible
from fieldbook.gpus import take_gpu
from fieldbook.layout import DatasetFiles, PathFiles, RunFiles, status_path
from fieldbook.stage import Keep, run_stage
from fieldbook.status import Status
from methods.external.template import runs_commands


def method(out: Positional[Path], spec: Spec) -> Status:
    """Check a method and its overrides before anything is computed for it.

    Example: fieldbook method OUT --spec '{"method": "nerfacto", "preset": "laptop", "overrides": {}, "device": "auto"}'
    """
    keys = load_spec(spec)
    if runs_commands(keys):
        from methods.external.train import check_method
    else:
        from methods.runner.setup import check_method
    return run_stage("method", out, lambda: check_method(keys))


def train(run: RunDir, spec: Spec, again: Again = False) -> Status:
    """Train one run; where an earlier process was stopped in its midst, go on from there.

    Example: fieldbook train DATASET/nerfacto/laptop-3fa9c1-seed0-rep0 --spec @run.json
    """
    from fieldbook.files import write_json

    files, data, keys = RunFiles(run), DatasetFiles(run.parent.parent), load_spec(spec)
    external = runs_commands(keys)
    if external:
        from methods.external.train import identity
    else:
        from methods.runner.identity import training_identity as identity
    take_gpu(keys.get("device", "auto"))

    def work() -> dict[str, Any]:
        if child.killed is not None:
            peak = child.killed.peak_mb
            reason = f"out of memory on the host: the kernel ended the training, which had held up to {peak} MB"
            raise Infeasible(reason, {"peak_mb": peak})
        if external:
            from methods.external.train import train
        else:
            from methods.runner.checkpoint import forget_finish
            from methods.runner.train import train

            if again:
                forget_finish(files)
        return train(files, data, keys)

    def intact(numbers: dict[str, Any]) -> bool:
        if external:
            from methods.external.train import is_final
        else:
            from methods.runner.checkpoint import is_final
        return is_final(files, numbers)

    keep = None if again else Keep(lambda: identity(data, keys), intact)
    status = run_stage("train", run, work, [data.status()], keep=keep)
    if status.ok and not external:
        from methods.runner.checkpoint import tidy

        tidy(files)
    elif not status.ok:
        write_json(files.checkpoint_manifest, {"checkpoint": None, "step": None, "sha256": None})
    return status


def render(run: RunDir, spec: Spec, paths: tuple[Path, ...] = (), again: Again = False) -> Status:
    """Render a trained run's test views, and the novel-view paths that are named.

    Example: fieldbook render RUN --spec @run.json --paths results/demo/card/paths/cone30
    """
    keys = load_spec(spec)
    take_gpu(keys.get("device", "auto"))  # before the next line imports torch
    from methods.runner.renders import is_rendered

    if runs_commands(keys):
        from methods.external.render import identity
        from methods.external.render import render as work
    else:
        from methods.runner.identity import rendering_identity as identity
        from methods.runner.render import render as work
    files, data = RunFiles(run), DatasetFiles(run.parent.parent)
    cameras = {p.name: PathFiles(p).camera_path for p in paths}
    needs = [files.status("train"), *(status_path(p, "path") for p in paths)]
    made_from = lambda: identity(files, data, cameras, keys)  # noqa: E731
    keep = None if again else Keep(made_from, lambda numbers: is_rendered(files, cameras, numbers))
    return run_stage("render", run, lambda: work(files, data, cameras, keys), needs, keep=keep)
