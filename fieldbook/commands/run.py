"""Stages of a run: checked, trained, rendered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from fieldbook.commands.common import Again, RunDir, Spec, load_spec
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

    def work() -> dict[str, Any]:
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
    status = run_stage("train", run, work, [data.status()], keep=keep, prepare=lambda: _take_gpu(keys))
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
    files, data, keys = RunFiles(run), DatasetFiles(run.parent.parent), load_spec(spec)
    cameras = {p.name: PathFiles(p).camera_path for p in paths}
    external = runs_commands(keys)
    if external:
        from methods.external.render import identity
    else:
        from methods.runner.identity import rendering_identity as identity

    def work() -> dict[str, Any]:
        if external:
            from methods.external.render import render
        else:
            from methods.runner.render import render
        return render(files, data, cameras, keys)

    def intact(numbers: dict[str, Any]) -> bool:
        from methods.runner.renders import is_rendered

        return is_rendered(files, cameras, numbers)

    keep = None if again else Keep(lambda: identity(files, data, cameras, keys), intact)
    needs = [files.status("train"), *(status_path(p, "path") for p in paths)]
    return run_stage("render", run, work, needs, keep=keep, prepare=lambda: _take_gpu(keys))


def _take_gpu(keys: dict[str, Any]) -> None:
    # When the run's folder is ours and there is work to do, but before the work imports torch.
    take_gpu(keys.get("device", "auto"))
