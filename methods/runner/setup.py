"""From a run's spec to a nerfstudio config: method, preset, scene bounds, overrides, device."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.data.datamanagers.parallel_datamanager import ParallelDataManager
from nerfstudio.models.instant_ngp import InstantNGPModelConfig

from fieldbook.documents import Document, check_document
from fieldbook.errors import Infeasible, UserError
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.machine import choose_device
from fieldbook.shapes import mapping, maybe, plain, record, text, whole
from methods.presets import preset_overrides
from methods.runner.config import FieldbookDataParserConfig
from methods.runner.needs import check_machine, check_needs
from methods.runner.overrides import apply_overrides
from methods.runner.planes import keep_planes
from methods.runner.registry import TrainerConfig, method_config
from methods.runner.transforms import read_scene, read_transforms, scene_gives

_SPEC = Document(
    record(
        {"method": text},
        {
            "preset": text,
            "overrides": mapping(plain, text),
            "seed": whole(),
            "device": text,
            "torch_threads": maybe(whole(high=1024)),
        },
    ),
    "`fieldbook plan --json` prints whole ones",
)


def resolve_device(asked: str) -> Literal["cpu", "cuda"]:
    """``cpu`` or ``cuda``.

    Raises:
        UserError: Unknown device, or ``cuda`` where there is none.
    """
    return choose_device(asked, torch.cuda.is_available, "torch finds no CUDA device")


def fix_cameras_and_appearance(model: Any) -> None:
    """Turn camera optimiser and appearance embedding off, wherever a model's config has them.

    Poses come from the dataset, and pictures are compared with what the camera saw. A study turns either into an axis
    with an override.

    Args:
        model: nerfstudio ``ModelConfig``, changed in place.
    """
    cameras: Any = getattr(model, "camera_optimizer", None)
    if hasattr(cameras, "mode"):
        cameras.mode = "off"
    _without_appearance(model)


def _without_appearance(config: Any) -> None:
    names = [f.name for f in fields(config)]
    if "use_appearance_embedding" in names:
        # nerfstudio 1.1.5's instant-ngp reads the switch the wrong way round: True builds no embedding.
        config.use_appearance_embedding = isinstance(config, InstantNGPModelConfig)
    else:
        for name in ("appearance_embed_dim", "appearance_embedding_dim"):
            if name in names:
                setattr(config, name, 0)
    for name in names:
        part = getattr(config, name)
        if is_dataclass(part) and not isinstance(part, type):
            _without_appearance(part)


def apply_scene_bounds(config: Any, scene: dict[str, Any]) -> None:
    """Put ``scene.json``'s near and far wherever a model's config keeps such planes.

    nerfstudio's defaults (2 and 6 for mipnerf, vanilla-nerf and tensorf) lie behind a scene whose cameras stand at
    distance 1. The scene box comes with the dataset.

    Args:
        config: nerfstudio ``TrainerConfig``, changed in place.
        scene: ``scene.json``: ``near`` and ``far`` in scene units.
    """
    model, near, far = config.pipeline.model, float(scene["near"]), float(scene["far"])
    if not 0 < near < far:
        raise UserError(f"scene.json: near {near} and far {far}; allowed: 0 < near < far")
    planes = {"near_plane": near, "far_plane": far}
    for name, value in planes.items():
        if hasattr(model, name):
            setattr(model, name, value)
    if getattr(model, "collider_params", None) is not None:
        model.collider_params = {**model.collider_params, **planes}


def apply_background(config: Any, background: str | None) -> None:
    """Let the model show the dataset's background where it sees nothing, if its config knows a background.

    Pictures were blended over one colour: to show it before nerfacto's last sample, or instant-ngp's black, a model
    would have to fill empty space, and a random one asks for an alpha channel that blended pictures no longer have.

    Args:
        config: nerfstudio ``TrainerConfig``, changed in place.
        background: Its name; ``None`` for pictures without alpha, which fill the frame: nothing is changed.
    """
    model = config.pipeline.model
    if background is not None and hasattr(model, "background_color"):
        model.background_color = background


def in_process(datamanager: Any) -> None:
    """Let a data manager's config build the one that works in this process.

    The parallel one draws its rays in child processes: not reproducible. Only the target changes: nerfstudio's own
    tools put theirs back when they open the run, and find the config class they expect.
    """
    if getattr(datamanager, "_target", None) is ParallelDataManager:
        datamanager._target = VanillaDataManager


def _parse_our_datasets(datamanager: Any, data: Path) -> None:
    # A method made for our datasets says itself how it wants them; generfacto, which reads none, has no parser.
    own = getattr(datamanager, "dataparser", None)
    parser = own if isinstance(own, FieldbookDataParserConfig) else FieldbookDataParserConfig()
    datamanager.dataparser = replace(parser, data=data)


def _place(config: TrainerConfig, run: RunFiles, method: str) -> None:
    """Choose output_dir, experiment and timestamp such that nerfstudio's base folder is the run's folder."""
    root = run.root
    if root.parent.name != method:
        raise UserError(f"run folder {root} must lie in a folder named after its method, {method!r}")
    config.timestamp = root.name
    config.experiment_name, config.output_dir = root.parent.parent.name, root.parent.parent.parent
    if config.get_base_dir().resolve() != root.resolve():
        raise UserError(f"run folder {root} must lie at least two folders deep, <experiment>/{method}/<run>")


def for_any_folder(config: TrainerConfig) -> TrainerConfig:
    """A copy with absolute paths: nerfstudio's tools take those of a ``config.yml`` from where they are started."""
    config = deepcopy(config)
    config.output_dir = config.output_dir.absolute()
    datamanager: Any = config.pipeline.datamanager
    datamanager.data = datamanager.dataparser.data = datamanager.data.absolute()
    return config


def _sample_inside_masks(pixel_sampler: Any, frames: int) -> None:
    """Let nerfstudio's pixel sampler draw inside masks without giving up.

    It draws anywhere and draws again what falls outside, 100 times: too few for an object that fills a few per cent of
    the pictures. And with one picture, that loop indexes a mask whose axis of pictures it has squeezed away.
    """
    pixel_sampler.max_num_iterations = 2000
    pixel_sampler.rejection_sample_mask = frames > 1


def build_config(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> TrainerConfig:
    """``resolve_config``, with the run's folder as nerfstudio's base folder.

    Raises:
        UserError: As ``resolve_config``; or the folder is not one that nerfstudio could have chosen.
        Infeasible: As ``resolve_config``.
    """
    config = resolve_config(dataset, spec)
    _place(config, run, spec["method"])
    return config


def resolve_config(dataset: DatasetFiles, spec: dict[str, Any]) -> TrainerConfig:
    """Resolve a run's spec: nerfstudio's defaults, fixed cameras, preset, the scene's bounds and background, overrides.

    Args:
        dataset: The dataset's files.
        spec: ``method``, and optionally ``preset``, ``overrides``, ``seed``, ``device``.

    Raises:
        UserError: Unknown method, preset, device or override, or a value of the wrong type.
        Infeasible: The method cannot run on this scene or machine.
    """
    check_document(spec, "the spec of the run", _SPEC)
    method = spec["method"]
    config = method_config(method)
    device = resolve_device(spec.get("device", "auto"))
    gives = scene_gives(dataset.transforms)
    check_needs(method, device, gives)
    config.method_name = method
    config.vis, config.machine.seed, config.machine.device_type = "tensorboard", spec.get("seed", 0), device
    config.data = None
    datamanager: Any = config.pipeline.datamanager
    in_process(datamanager)
    _parse_our_datasets(datamanager, dataset.transforms)
    datamanager.data = dataset.transforms
    if "masks" in gives and hasattr(datamanager, "pixel_sampler"):
        _sample_inside_masks(datamanager.pixel_sampler, len(read_transforms(dataset.transforms)["train_filenames"]))
    if hasattr(datamanager, "train_cameras_sampling_seed"):  # whole-image methods shuffle with a seed of their own
        datamanager.train_cameras_sampling_seed = config.machine.seed
    fix_cameras_and_appearance(config.pipeline.model)
    apply_overrides(config, preset_overrides(method, spec.get("preset", "paper")))
    apply_scene_bounds(config, read_scene(dataset.transforms))
    apply_background(config, read_transforms(dataset.transforms).get("background"))
    apply_overrides(config, spec.get("overrides", {}))
    _check_numbers(config)
    keep_planes(config.pipeline.model)
    return config


def check_method(spec: dict[str, Any]) -> dict[str, Any]:
    """Check a method and its overrides before anything else of a study is computed.

    Args:
        spec: ``method``, ``preset``, ``overrides``, ``device``.

    Raises:
        UserError: Unknown method, preset, device or override, or a value of the wrong type.
        Infeasible: The machine lacks what the method needs.
    """
    config = method_config(spec["method"])
    _parse_our_datasets(config.pipeline.datamanager, Path())
    apply_overrides(config, preset_overrides(spec["method"], spec["preset"]))
    apply_overrides(config, spec["overrides"])
    _check_numbers(config)
    check_machine(spec["method"], resolve_device(spec["device"]))
    return {"steps": config.max_num_iterations}


def _check_numbers(config: TrainerConfig) -> None:
    for part in (config.pipeline, config.pipeline.model):
        check = getattr(part, "check", None)  # of methods of ours
        if check is not None:
            check()
    _check_steps(config)


def _check_steps(config: TrainerConfig) -> None:
    for name in ("max_num_iterations", "steps_per_save"):
        if getattr(config, name) < 1:
            raise UserError(f"override {name!r}: got {getattr(config, name)}; allowed: 1 and more")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch: nerfstudio draws from all three global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def reproducible(device: str) -> Iterator[None]:
    """On a CPU, let the same seed and thread count give the same bits.

    torch sums the gradients of a gather with atomic adds from several threads, in whichever order they come, unless
    asked not to. On a GPU that order is the price of speed, so there the seed's repeats measure its effect.
    """
    options: Any = torch.utils.deterministic  # set through a module class that type checkers do not see
    before, fill = torch.get_deterministic_debug_mode(), options.fill_uninitialized_memory
    if device == "cpu":
        torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import torch's compiler
        options.fill_uninitialized_memory = False  # costs time, and only helps to find bugs
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        options.fill_uninitialized_memory = fill


def set_threads(threads: int | None) -> int:
    """Set torch's intra-op threads (None or 0 leaves them) and return how many there are."""
    if threads:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextmanager
def out_of_memory_is_infeasible(where: Callable[[], tuple[str, dict[str, Any]]]) -> Iterator[None]:
    """Turn running out of memory inside the block into a result.

    Args:
        where: Called then; says where it happened, for the reason, and the numbers that go with it.

    Raises:
        Infeasible: Out of memory on the host or the GPU.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        text, numbers = where()
        raise Infeasible(f"out of memory {text}", numbers) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # torch's CPU allocator raises a bare RuntimeError, with one of these spellings.
    return any(s in str(error) for s in ("can't allocate memory", "not enough memory"))


def plain_config(value: Any) -> Any:
    """A config as plain JSON values, classes and functions by their dotted name."""
    if is_dataclass(value) and not isinstance(value, type):
        return {k: plain_config(v) for k, v in vars(value).items()}
    if isinstance(value, dict):
        return {str(k): plain_config(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_config(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if name else str(value)
