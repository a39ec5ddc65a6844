"""Render a trained run's test views and novel-view paths, in a fresh process from its files alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from camera_paths.formats import read_camera_path
from data.poses import Camera
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir, write_json
from fieldbook.layout import DatasetFiles, RunFiles
from methods.presets import method_entry
from methods.runner.checkpoint import read_checkpoint
from methods.runner.offline import quiet, without_downloads
from methods.runner.progress import Progress
from methods.runner.rebuild import rebuild_config
from methods.runner.renders import Picture, record, write_film, write_picture
from methods.runner.rows import write_row
from methods.runner.setup import (
    out_of_memory_is_infeasible,
    seed_everything,
    set_threads,
)
from methods.runner.views import View, held_out_views, path_views

_MORE = {"normal": "normal", "foreground": "rgb_fg", "background": "rgb_bg"}
"""Parts of a picture that not every model has, and what models call them."""
CPU_CHUNK = 4096  # rays; a GPU's 32768 would take gigabytes of intermediate features on a host


def render(run: RunFiles, dataset: DatasetFiles, paths: Mapping[str, Path], spec: dict[str, Any]) -> dict[str, Any]:
    """Render the test views and every path of a run.

    Args:
        run: A trained run.
        dataset: The dataset it was trained on; its test list says which cameras are rendered.
        paths: ``camera_path.json`` by path name.
        spec: ``device`` (auto | cpu | cuda) and ``torch_threads``, as for training.

    Returns:
        ``views``, ``rays``, ``rays_per_s``, ``frames_per_s`` over everything rendered.

    Raises:
        UserError: The run has no checkpoint, or a path file is not one.
        Infeasible: Out of memory, or the machine lacks what the method needs.
    """
    set_threads(spec.get("torch_threads"))
    jobs: list[tuple[Path, list[View], Path | None, float]] = [(run.test, held_out_views(dataset), None, 0.0)]
    for name, source in paths.items():
        path = read_camera_path(source)
        jobs.append((run.path(name), path_views(path), source, path.fps))
    with out_of_memory_is_infeasible(lambda: ("while rendering", {})), quiet():
        model = LoadedModel(run, dataset, spec.get("device", "auto"))
        total = sum(len(views) for _, views, _, _ in jobs)
        with Progress(f"render {model.method}", total, "view") as progress:
            records = [r for job in jobs for r in _render_folder(model, *job, progress)]
    return {"views": len(records), "rays": sum(r["rays"] for r in records), **_speed(records)}


class LoadedModel:
    """A run's model with its final checkpoint, ready to render.

    Args:
        run: A trained run.
        dataset: Its dataset (cameras and bounds; no picture is opened).
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(self, run: RunFiles, dataset: DatasetFiles, device: str):
        config = rebuild_config(run, dataset, device)
        self.method, self.device = str(config.method_name), config.machine.device_type
        model = config.pipeline.model
        if self.device == "cpu":
            model.eval_num_rays_per_chunk = min(model.eval_num_rays_per_chunk, CPU_CHUNK)
        seed_everything(config.machine.seed)
        with without_downloads(model):
            pipeline = config.pipeline.setup(device=self.device, test_mode="inference")
        state = read_checkpoint(run)
        self.step = int(state["step"])
        _load(pipeline, state["pipeline"], self.step, run)
        self.model = pipeline.eval().model

    def picture(self, view: View) -> Picture:
        """Render one view."""
        cameras = _cameras(view).to(self.device)
        started = self._now()
        with torch.no_grad():
            outputs = self.model.get_outputs_for_camera(cameras)
        seconds = self._now() - started
        rgb, depth, opacity = (pick(outputs, n) for n in ("rgb", "depth", "accumulation"))
        depth = depth[..., 0] * (_ray_lengths(view.camera) if method_entry(self.method).depth_is_z else 1)
        more = {field: pick(outputs, name) for field, name in _MORE.items() if name in outputs}
        opacity = np.clip(np.nan_to_num(opacity[..., 0]), 0, 1)
        return Picture(np.clip(rgb, 0, 1), depth.astype(np.float32), opacity, seconds, **more)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _load(pipeline: Any, tensors: dict[str, Any], step: int, run: RunFiles) -> None:
    # nerfstudio passes over what a checkpoint lacks, and renders it as it was initialised.
    lacking = [key for key in pipeline.model.state_dict() if f"_model.{key}" not in tensors]
    if lacking:
        raise UserError(
            f"the checkpoint of {run.root} does not fit its model: it has no {lacking[0]}; train the run again"
        )
    try:
        pipeline.load_pipeline(tensors, step)
    except (RuntimeError, AttributeError, TypeError) as error:
        if isinstance(error, RuntimeError) and "state_dict" not in str(error):  # out of memory, say
            raise
        raise UserError(f"the checkpoint of {run.root} does not fit its model; train the run again") from error


def pick(outputs: Mapping[str, torch.Tensor], name: str) -> np.ndarray:
    """An output by name; coarse-to-fine methods call it ``<name>_fine``."""
    value = outputs[name] if name in outputs else outputs[f"{name}_fine"]
    return value.float().cpu().numpy()


def _cameras(view: View) -> Cameras:
    c = view.camera
    return Cameras(
        camera_to_worlds=torch.from_numpy(view.pose[None, :3].astype(np.float32)),
        fx=torch.tensor([c.fx]),
        fy=torch.tensor([c.fy]),
        cx=torch.tensor([c.cx]),
        cy=torch.tensor([c.cy]),
        width=torch.tensor([c.width]),
        height=torch.tensor([c.height]),
        camera_type=CameraType.PERSPECTIVE,
    )


def _ray_lengths(camera: Camera) -> np.ndarray:
    """``[h, w]``: length along the ray per unit of depth along the optical axis."""
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    return np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)


def _render_folder(
    model: LoadedModel, folder: Path, views: list[View], source: Path | None, fps: float, progress: Progress
) -> list[dict[str, Any]]:
    """Render views into ``folder``, whole or not at all; the records of ``renders.json``."""
    records = []
    with atomic_dir(folder) as temporary:
        for view in views:
            picture = model.picture(view)
            write_picture(temporary, view.name, picture)
            if source is None and picture.normal is not None:
                write_row(temporary, view, picture)
            records.append(record(view, picture.seconds))
            progress.update(progress.done + 1, **{"rays/s": records[-1]["rays"] / picture.seconds})
        if source is not None:
            write_film(temporary, views, source, fps)
        write_json(temporary / "renders.json", {"views": records, **_speed(records), "step": model.step})
    return records


def _speed(records: list[dict[str, Any]]) -> dict[str, float]:
    seconds = max(sum(r["seconds"] for r in records), 1e-9)
    rays = sum(r["rays"] for r in records)
    return {"rays_per_s": round(rays / seconds, 1), "frames_per_s": round(len(records) / seconds, 4)}
