"""Train one run of any nerfstudio method, headless and in one process."""

from __future__ import annotations

import functools
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml

from fieldbook.errors import Infeasible
from fieldbook.files import atomic_path, sha256_file, write_json, write_text
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.machine import cpu_name
from fieldbook.versions import lock_sha256, versions
from methods.presets import method_entry
from methods.runner.checkpoint import finished, newest_checkpoint, record_finish, save_checkpoint, write_manifest
from methods.runner.identity import training_identity
from methods.runner.interrupt import SaveOnSignal
from methods.runner.meter import Meter
from methods.runner.offline import quiet, without_downloads
from methods.runner.pictures import checked_pictures
from methods.runner.progress import Progress, TrainLog
from methods.runner.registry import Optimizers, TrainerConfig, TrainingCallbackAttributes, TrainingCallbackLocation
from methods.runner.resume import (
    EXACT,
    Moment,
    attributes,
    changed,
    fit_shapes,
    generators,
    set_attributes,
    set_generators,
)
from methods.runner.setup import (
    build_config,
    for_any_folder,
    out_of_memory_is_infeasible,
    plain_config,
    reproducible,
    seed_everything,
    set_threads,
)

log = logging.getLogger(__name__)

LOG_EVERY = 10  # steps between looks at the loss: each look waits for the GPU
SAVE_EVERY_S = 600.0  # besides the method's own steps per save, which may be hours apart on a CPU


def train(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Train a run and write its checkpoint, config, log and ``run.json``.

    Where an earlier process was stopped in the midst of the same training, it goes on from the last checkpoint. SIGTERM
    and SIGINT save one and end the process with 128 + their number.

    Args:
        run: The run's files; its folder is ``<experiment>/<method>/<run>``.
        dataset: The dataset's files.
        spec: ``method``; optionally ``preset`` (default paper), ``overrides`` (dotted keys), ``seed`` (0),
            ``device`` (auto | cpu | cuda), ``torch_threads`` (None leaves torch's choice). What else it holds (the
            run's identity) is stored in ``run.json``.

    Returns:
        ``steps``, ``loss`` (mean over the last logged steps), ``seconds``, ``rays``, ``rays_per_s`` and ``sessions``
        (of all processes that had a part in it), ``resume`` (exact: a resumed training equals an undisturbed one; or
        approximate), ``parameters``, ``checkpoint_bytes``, ``checkpoint_sha256``, ``device``, ``torch_threads``.

    Raises:
        UserError: The spec asks for something that does not exist, or the disk is full.
        Infeasible: Out of memory, the loss or a parameter became NaN or infinite, or the machine lacks what the
            method needs.
    """
    config, identity = build_config(run, dataset, spec), training_identity(dataset, spec)
    if (numbers := finished(run, identity)) is not None:
        return numbers
    set_threads(spec.get("torch_threads"))
    run.root.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, run, identity)
    with out_of_memory_is_infeasible(trainer.where), quiet(), reproducible(trainer.device):
        before = newest_checkpoint(run, trainer.identity)
        seed_everything(config.machine.seed)
        with checked_pictures(dataset):
            trainer.build(before)
        _describe(run, dataset, spec, config)
        return trainer.loop()


class Trainer:
    """The loop of nerfstudio's trainer without its viewer, writers and in-loop evaluation.

    Args:
        config: nerfstudio's.
        run: The run's files.
        identity: Of the training, for its checkpoints.
    """

    def __init__(self, config: TrainerConfig, run: RunFiles, identity: str = ""):
        self.config, self.run, self.identity, self.step = config, run, identity, -1
        self.device = config.machine.device_type
        self.mixed = config.mixed_precision and self.device == "cuda"
        # On a CPU there is no half precision to protect, and the scaler only costs time.
        scaled = self.device == "cuda" and (config.mixed_precision or config.use_grad_scaler)
        self.scaler = torch.amp.GradScaler(self.device, enabled=scaled)
        self.accumulate: dict[str, int] = defaultdict(lambda: 1, config.gradient_accumulation_steps)

    def where(self) -> tuple[str, dict[str, Any]]:
        """Where training stands, for the reason of an infeasible run."""
        text = "while the model was built" if self.step < 0 else f"at step {self.step}"
        return text, {"step": self.step}

    def build(self, before: dict[str, Any] | None = None) -> None:
        """Load the images and build model, optimisers and callbacks.

        Args:
            before: A checkpoint to go on from.
        """
        with without_downloads(self.config.pipeline.model):
            self.pipeline: Any = self.config.pipeline.setup(
                device=self.device, test_mode="val", world_size=1, local_rank=0, grad_scaler=self.scaler
            )
        if before is not None:  # before the optimisers, which take the parameters as they are
            fit_shapes(self.pipeline, before["pipeline"])
            self.pipeline.load_pipeline(before["pipeline"], before["step"])
        self.optimizers = Optimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())
        self._fuse()
        attributes_ = TrainingCallbackAttributes(
            optimizers=self.optimizers,  # pyright: ignore[reportArgumentType] - declared as a dict, used as this
            grad_scaler=self.scaler,  # pyright: ignore[reportArgumentType]
            pipeline=self.pipeline,
            trainer=self,  # pyright: ignore[reportArgumentType]
        )
        self.callbacks = self.pipeline.get_training_callbacks(attributes_)
        self._fresh = attributes(self.pipeline)
        self._restore(before)
        outputs = self.pipeline.datamanager.train_dataparser_outputs
        with atomic_path(self.run.root / "dataparser_transforms.json") as temporary:
            outputs.save_dataparser_transform(temporary)

    def _restore(self, before: dict[str, Any] | None) -> None:
        """Put everything but the model's tensors back to a checkpoint, or take this as the beginning."""
        self.saved = -1 if before is None else int(before["step"])
        self.meter = Meter(TrainLog(self.run.train_log), None if before is None else before["fieldbook"]["log"])
        self.moment = self._moment(0, begun=False)
        if before is None:
            return
        self.pipeline.load_state_dict(before["pipeline"])  # again: building the callbacks may have changed buffers
        for name, optimizer in self.optimizers.optimizers.items():
            optimizer.load_state_dict(before["optimizers"][name])
        for name, scheduler in self.optimizers.schedulers.items():
            scheduler.load_state_dict(before["schedulers"][name])
        self.scaler.load_state_dict(before["scalers"])
        extra = before["fieldbook"]
        set_attributes(self.pipeline, extra["attributes"])
        for name, parameter in self.pipeline.named_parameters():
            if name in extra["gradients"]:
                parameter.grad = extra["gradients"][name].to(parameter)
        set_generators(extra["generators"])
        self.moment = self._moment(before["step"] + 1, begun=extra["begun"])
        log.info("going on from step %d of %s", before["step"], self.run.root)

    def _fuse(self) -> None:
        # nerfstudio's optimiser configs cannot ask for the one-pass Adam; on a CPU it makes a step about 13 % faster.
        for optimizer in self.optimizers.optimizers.values():
            if type(optimizer) in (torch.optim.Adam, torch.optim.AdamW) and self.device == "cpu":
                for group in optimizer.param_groups:
                    group["fused"] = True

    def loop(self) -> dict[str, Any]:
        """Train up to ``max_num_iterations`` steps; numbers for the status."""
        steps, label = self.config.max_num_iterations, f"train {self.config.method_name}"
        with Progress(label, steps, done=self.moment.step) as progress, SaveOnSignal(self._stopped) as guard:
            saved = time.monotonic()
            for step in range(self.moment.step, steps):
                self.step = step
                rays = self.pipeline.datamanager.get_train_rays_per_batch()  # before the step, which may change it
                with guard.changing:
                    self._begin(step)
                loss = self._gradients(step)
                with guard.changing:
                    self._apply(step)
                    self.meter.add(loss, rays)
                    self.moment = self._moment(step + 1, begun=False)
                    if (step + 1) % LOG_EVERY == 0 or step == steps - 1:
                        progress.update(step + 1, **self.meter.flush(step, self._learning_rate()))
                    if self._is_due(saved) and step != steps - 1:
                        self._save(self.identity)
                        saved = time.monotonic()
            with guard.changing:
                return self._finish(steps)

    def _finish(self, steps: int) -> dict[str, Any]:
        self._callbacks(TrainingCallbackLocation.AFTER_TRAIN, self.step)
        self._check_parameters()
        path = self._save(None)
        manifest = write_manifest(self.run, self.step)
        exact = self.config.method_name in EXACT and self.device == "cpu"
        numbers = {
            "steps": steps,
            **self.meter.totals(),
            "resume": "exact" if exact else "approximate",
            "parameters": sum(p.numel() for p in self.pipeline.model.parameters()),
            "checkpoint_bytes": path.stat().st_size,
            "checkpoint_sha256": manifest["sha256"],
            "device": device_name(self.device),
            "torch_threads": torch.get_num_threads(),
        }
        record_finish(self.run, self.identity, numbers)
        return numbers

    def _is_due(self, saved: float) -> bool:
        return (self.step + 1) % self.config.steps_per_save == 0 or time.monotonic() - saved > SAVE_EVERY_S

    def _check_parameters(self) -> None:
        # The last step's gradient may be NaN under a finite loss, and nerfstudio's renderers would show that as black.
        if not all(torch.isfinite(p).all() for p in self.pipeline.model.parameters()):
            raise Infeasible(f"parameters became NaN or infinite by step {self.step}", {"step": self.step})

    def _moment(self, step: int, begun: bool) -> Moment:
        """What the next forward pass will change, as it is now."""
        waiting = {g for g in self.optimizers.parameters if self.accumulate[g] > 1 and step % self.accumulate[g]}
        kept = {id(p) for g in waiting for p in self.optimizers.parameters[g]}
        gradients = (
            {
                name: p.grad.clone()
                for name, p in self.pipeline.named_parameters()
                if id(p) in kept and p.grad is not None
            }
            if kept
            else {}
        )
        return Moment(step, begun, generators(), changed(attributes(self.pipeline), self._fresh), gradients)

    def _save(self, identity: str | None) -> Path:
        """Write the checkpoint of the moment; one to go on from holds more than nerfstudio's, the last one does not."""
        state = {
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {k: v.state_dict() for k, v in self.optimizers.optimizers.items()},
            "schedulers": {k: v.state_dict() for k, v in self.optimizers.schedulers.items()},
            "scalers": self.scaler.state_dict(),
        }
        if identity is not None:
            state["fieldbook"] = {**self.moment.plain(), "log": self.meter.state()}
        self.saved = self.moment.step - 1
        path = save_checkpoint(self.run, self.saved, state, identity)
        self.meter.log.write()
        return path

    def _stopped(self) -> str:
        """Save what is done, for a process about to end; what to tell the user."""
        last = self.moment.step - 1
        if last < 0:
            return "stopped before the first step was done"
        if last != self.saved:
            self._save(self.identity)
        return f"stopped after step {last}, which is kept in {self.run.checkpoints}"

    def _learning_rate(self) -> float:
        group = "fields" if "fields" in self.optimizers.optimizers else next(iter(self.optimizers.optimizers))
        return float(self.optimizers.optimizers[group].param_groups[0]["lr"])

    def _callbacks(self, location: TrainingCallbackLocation, step: int) -> None:
        for callback in self.callbacks:
            callback.run_callback_at_location(step, location=location)

    def iteration(self, step: int) -> torch.Tensor:
        """One step of optimisation, as nerfstudio's ``Trainer.train_iteration``; the loss, detached."""
        self._begin(step)
        loss = self._gradients(step)
        self._apply(step)
        return loss

    def _begin(self, step: int) -> None:
        """What comes before the forward pass, unless a checkpoint was saved right after it."""
        self.pipeline.train()
        if self.moment.begun and self.moment.step == step:
            return
        self._callbacks(TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, step)
        self.moment = self._moment(step, begun=True)

    def _gradients(self, step: int) -> torch.Tensor:
        groups, every = list(self.optimizers.parameters), self.accumulate
        self.optimizers.zero_grad_some([g for g in groups if step % every[g] == 0])
        with torch.autocast(device_type=self.device, enabled=self.mixed):
            _, losses, _ = self.pipeline.get_train_loss_dict(step=step)
            loss = functools.reduce(torch.add, losses.values())
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _apply(self, step: int) -> None:
        due = [g for g in self.optimizers.parameters if step % self.accumulate[g] == self.accumulate[g] - 1]
        self.optimizers.optimizer_scaler_step_some(self.scaler, due)  # pyright: ignore[reportArgumentType]
        before = self.scaler.get_scale()
        self.scaler.update()
        if before <= self.scaler.get_scale():  # a lowered scale means the optimiser skipped this step
            self._schedule()
        self._callbacks(TrainingCallbackLocation.AFTER_TRAIN_ITERATION, step)

    def _schedule(self) -> None:
        # nerfstudio's scheduler_step_all also writes to its event writer, which a headless run never sets up.
        for scheduler in self.optimizers.schedulers.values():
            scheduler.step()


def _describe(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any], config: TrainerConfig) -> None:
    """Write ``config.yml`` (nerfstudio's form) and ``run.json`` (plain): everything that defines the run."""
    method = method_entry(spec["method"])
    write_text(run.config, yaml.dump(for_any_folder(config)))
    write_json(
        run.run,
        {
            "spec": plain_config(spec),
            "needs": list(method.needs),
            "gives": list(method.gives),
            "transforms_sha256": sha256_file(dataset.transforms),
            "config": plain_config(config),
            "versions": versions(),
            "lock_sha256": lock_sha256(),
            "device": device_name(config.machine.device_type),
            "torch_threads": torch.get_num_threads(),
        },
    )


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's as the kernel spells it."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()
