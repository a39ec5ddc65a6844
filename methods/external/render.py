"""The ``render`` stage of an external method: cameras out, pictures in, in the form every other run has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from camera_paths.formats import read_camera_path
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir, write_json
from fieldbook.layout import DatasetFiles, RunFiles
from methods.external.call import Caller
from methods.external.cameras import write_cameras, write_nerfbaselines
from methods.external.machine import check_machine, resolve_device
from methods.external.pictures import check_complete, read_picture, read_seconds
from methods.external.template import Commands
from methods.runner.identity import rendering_identity
from methods.runner.renders import record, write_colours, write_film
from methods.runner.transforms import read_transforms
from methods.runner.views import View, held_out_views, path_views

TEST, TEST_FPS = "test", 10.0


@dataclass(frozen=True)
class Views:
    """What is rendered by one call of the command.

    Attributes:
        name: ``test``, or the path's name.
        folder: Where the pictures go in the end.
        source: The path's ``camera_path.json``, if it is one.
    """

    name: str
    folder: Path
    views: list[View]
    fps: float
    source: Path | None = None


def identity(run_files: RunFiles, dataset: DatasetFiles, paths: dict[str, Path], spec: dict[str, Any]) -> str:
    """SHA-256 of all that decides what rendering makes; the training's own is part of its manifest."""
    return rendering_identity(run_files, dataset, paths, {**spec, "files": Commands.of(spec).file_hashes("render")})


def render(
    run_files: RunFiles, dataset: DatasetFiles, paths: Mapping[str, Path], spec: dict[str, Any]
) -> dict[str, Any]:
    """Let the render command render the test views and every path.

    Args:
        run_files: A trained run.
        dataset: The dataset it was trained on; its test list says which cameras are rendered.
        paths: ``camera_path.json`` by path name.
        spec: As for training.

    Returns:
        ``views``, ``rays``, and ``seconds`` of all calls of the command together.

    Raises:
        UserError: The command ended with an error, or pictures are missing or not as they have to be.
        Infeasible: The command said so, or ran out of memory.
    """
    commands, device = Commands.of(spec), resolve_device(spec.get("device", "auto"))
    check_machine(commands, device)
    if not run_files.external.dataset.is_dir():
        raise UserError(f"no {run_files.external.dataset}; train the run first with `fieldbook train`")
    sets = [Views(TEST, run_files.test, held_out_views(dataset), TEST_FPS)]
    for name, source in paths.items():
        path = read_camera_path(source)
        sets.append(Views(name, run_files.path(name), path_views(path), path.fps, source))
    background = read_transforms(dataset.transforms).get("background")
    caller = Caller(commands, run_files, spec, device)
    seconds = sum(_render_set(caller, views, background) for views in sets)
    all_views = [view for views in sets for view in views.views]
    rays = sum(view.camera.width * view.camera.height for view in all_views)
    return {"views": len(all_views), "rays": rays, "seconds": round(seconds, 3)}


def _render_set(caller: Caller, views: Views, background: str | None) -> float:
    """Call the command for one set of cameras and take in its pictures; seconds of the command."""
    files, name = caller.run.external, views.name
    cameras, trajectory, output = files.cameras(name), files.trajectory(name), files.output(name)
    write_cameras(cameras, views.views, views.fps)
    write_nerfbaselines(trajectory, views.views, views.fps)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    seconds = caller.call("render", name, cameras=cameras, trajectory=trajectory, output=output)
    check_complete(output, views.views, caller.name("render", name))
    _take_in(output, views, background)
    shutil.rmtree(output)
    return seconds


def _take_in(output: Path, views: Views, background: str | None) -> None:
    """Write the run's own folder, whole or not at all."""
    took = read_seconds(output, views.views)
    with atomic_dir(views.folder) as temporary:
        for view in views.views:
            write_colours(temporary, view.name, read_picture(output / f"{view.name}.png", view, background))
        if views.source is not None:
            write_film(temporary, views.views, views.source, views.fps)
        records = [record(view, took[view.name]) for view in views.views]
        write_json(temporary / "renders.json", {"views": records, "step": None})
