"""A nerfstudio run that Fieldbook did not train: opened as nerfstudio's own tools would, its held-out views rendered.

``config.yml`` is YAML that builds Python objects, and nerfstudio's checkpoints are pickles: reading either runs what
their maker wrote. So nothing here is called unless the user said that they are to be trusted, and each file is named
before it is read.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from fieldbook.errors import UserError
from fieldbook.files import read_text
from fieldbook.layout import RunFiles
from methods.runner.needs import check_machine
from methods.runner.offline import quiet, without_downloads
from methods.runner.registry import TrainerConfig
from methods.runner.render import CPU_CHUNK, pick
from methods.runner.setup import in_process, resolve_device, seed_everything

log = logging.getLogger(__name__)

WARNING = "warning: reading %s, which can run any code that its maker put there"
_UNLIKE_OURS = (AssertionError, AttributeError, ImportError, LookupError, TypeError, ValueError)
"""What nerfstudio raises for a run of another version of it, for data that have changed, for what is not installed."""
_UNREADABLE = (OSError, EOFError, RuntimeError, pickle.UnpicklingError, *_UNLIKE_OURS)


@dataclass(frozen=True)
class HeldOut:
    """A held-out view as the run's model shows it.

    Attributes:
        name: Of the picture, without suffix; made unique by its folders where needed.
        source: The true picture's file.
        rgb: Rendered, ``[h, w, 3]`` float32 in [0, 1].
        truth: What nerfstudio's own evaluation compares with, of the same form: undistorted, blended.
        mask: ``[h, w]`` bool, true where the dataset's mask keeps the pixel; ``None`` without masks.
        seconds: Time the model took.
    """

    name: str
    source: Path
    rgb: np.ndarray
    truth: np.ndarray
    mask: np.ndarray | None
    seconds: float


class ForeignRun:
    """A run's model and held-out data.

    Args:
        run: Its files: ``config.yml`` and ``nerfstudio_models/``.
        device: ``auto``, ``cpu`` or ``cuda``.
        data: Where its dataset is; ``None`` for where its config says.

    Attributes:
        step: Of the checkpoint.

    Raises:
        UserError: A file is missing or cannot be used here.
        Infeasible: The machine lacks what the method needs.
    """

    def __init__(self, run: RunFiles, device: str, data: Path | None = None):
        self.device = resolve_device(device)
        config = _read_config(run.config)
        check_machine(str(config.method_name), self.device)
        _prepare(config, _data_of(config, run, data), self.device)
        seed_everything(config.machine.seed)
        try:
            with without_downloads(), quiet():
                self.pipeline: Any = config.pipeline.setup(device=self.device, test_mode="test")
        except _UNLIKE_OURS as error:
            raise UserError(f"nerfstudio cannot open {run.root} here: {type(error).__name__}: {error}") from error
        self.step = self._load(run)
        self.pipeline.eval()

    def _load(self, run: RunFiles) -> int:
        path, state = _read_checkpoint(run)
        try:
            step, tensors = int(state["step"]), state["pipeline"]
            with quiet():
                self.pipeline.load_pipeline(tensors, step)
        except (RuntimeError, *_UNLIKE_OURS) as error:
            raise UserError(f"{path} does not fit the model of {run.config} and its data: {error}") from error
        # nerfstudio passes over what a checkpoint lacks; it would be scored as it was initialised.
        given = {key.removeprefix("module.").removeprefix("_model.").removeprefix("module.") for key in tensors}
        lacks = [key for key in self.pipeline.model.state_dict() if key not in given]
        if lacks:
            text = f"{path} lacks {len(lacks)} tensors of the model, the first {lacks[0]}"
            raise UserError(f"{text}; it was made by another version of the method, or with tiny-cuda-nn")
        return step

    def views(self) -> Iterator[HeldOut]:
        """Render the held-out views one after another, in the order of the dataset.

        Raises:
            UserError: A picture has an alpha channel, and it is not known what the model shows behind it.
        """
        files = [Path(name) for name in self.pipeline.datamanager.eval_dataset.image_filenames]
        names = unique_names(files)
        for camera, batch in self.pipeline.datamanager.fixed_indices_eval_dataloader:
            index, started = int(batch["image_idx"]), self._now()
            with torch.no_grad():
                outputs = self.pipeline.model.get_outputs_for_camera(camera.to(self.device))
            seconds = self._now() - started
            rgb = np.clip(pick(outputs, "rgb"), 0, 1)
            truth = true_picture(self.pipeline.model, batch["image"].to(self.device), outputs, files[index])
            mask = batch["mask"].cpu().numpy().reshape(rgb.shape[:2]) > 0 if "mask" in batch else None
            yield HeldOut(names[index], files[index], rgb, truth, mask, seconds)

    def count(self) -> int:
        """Number of held-out views."""
        return len(self.pipeline.datamanager.eval_dataset)

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def _read_config(path: Path) -> TrainerConfig:
    text = read_text(path)
    log.warning(WARNING, path)
    try:
        config = yaml.load(text, Loader=yaml.Loader)
    except (yaml.YAMLError, *_UNLIKE_OURS) as error:
        raise UserError(f"{path} cannot be read here: {error}; install what trained it beside nerfstudio") from error
    if not isinstance(config, TrainerConfig):
        raise UserError(f"{path} holds no nerfstudio training config but {type(config).__name__}")
    return config


def _read_checkpoint(run: RunFiles) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint, as plain tensors where it is no more than that."""
    path = max(run.checkpoints.glob("step-*.ckpt"), default=None)
    if path is None:
        raise UserError(f"no checkpoint in {run.checkpoints}")
    try:
        try:
            return path, torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            log.warning(WARNING, path)
            return path, torch.load(path, map_location="cpu", weights_only=False)
    except _UNREADABLE as error:
        raise UserError(f"{path} is no checkpoint that can be read here: {error}") from error


def _data_of(config: TrainerConfig, run: RunFiles, data: Path | None) -> Path:
    """Where the run's dataset is: paths of its config may be relative to where ``ns-train`` was started."""
    datamanager: Any = config.pipeline.datamanager
    named = Path(data or datamanager.data or datamanager.dataparser.data)
    places = [named]
    if data is None and not named.is_absolute():
        above = run.root.absolute().parents
        places += [above[depth] / named for depth in [len(config.get_base_dir().parts) - 1] if depth < len(above)]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise UserError(f"the data of {run.root} are not at {' nor at '.join(map(str, places))}; give --data")
    return found.absolute()


def _prepare(config: TrainerConfig, data: Path, device: str) -> None:
    """Point a config at its data; load no picture before it is looked at, start no process, mind a CPU's memory."""
    datamanager: Any = config.pipeline.datamanager
    datamanager.data = datamanager.dataparser.data = data
    in_process(datamanager)
    for name in ("train_num_images_to_sample_from", "eval_num_images_to_sample_from"):
        if hasattr(datamanager, name):
            setattr(datamanager, name, 1)
    if device == "cpu":
        model = config.pipeline.model
        model.eval_num_rays_per_chunk = min(model.eval_num_rays_per_chunk, CPU_CHUNK)


def true_picture(model: Any, image: torch.Tensor, outputs: Any, path: Path) -> np.ndarray:
    """A dataset's picture as the model's own evaluation compares with it, ``[h, w, 3]``."""
    if image.dtype == torch.uint8:
        image = image.float() / 255
    if image.shape[-1] == 4:
        colours, alpha = image[..., :3], image[..., 3:]
        if hasattr(model, "renderer_rgb"):
            image = model.renderer_rgb.blend_background(image)
        elif "background" in outputs or hasattr(model, "render_background"):
            behind = outputs["background"] if "background" in outputs else model.render_background()
            image = colours * alpha + behind * (1 - alpha)
        else:
            raise UserError(f"{path} has an alpha channel, and {type(model).__name__} does not say what is behind it")
    return image.float().cpu().numpy()


def unique_names(files: list[Path]) -> list[str]:
    """Names of pictures without suffix, with their folders where those alone tell them apart.

    Args:
        files: At least one.
    """
    stems = [path.stem for path in files]
    if len(set(stems)) == len(stems):
        return stems
    root = Path(os.path.commonpath([path.parent for path in files]))
    return ["-".join(path.relative_to(root).with_suffix("").parts) for path in files]
