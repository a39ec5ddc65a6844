"""Train one run of any nerfstudio method, headless and in one process."""

from __future__ import annotations

import functools
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers

from fieldbook.errors import Infeasible
from fieldbook.files import sha256_file, write_json, write_text
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.machine import cpu_name
from fieldbook.versions import versions
from methods.presets import method_entry
from methods.runner.checkpoint import save_checkpoint, write_manifest
from methods.runner.offline import quiet, without_downloads
from methods.runner.progress import Progress, TrainLog
from methods.runner.registry import TrainerConfig
from methods.runner.setup import (
    build_config,
    out_of_memory_is_infeasible,
    plain_config,
    reproducible,
    seed_everything,
    set_threads,
)

LOG_EVERY = 10  # steps between looks at the loss: each look waits for the GPU


def train(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Train a run from scratch and write its checkpoint, config, log and ``run.json``.

    Args:
        run: The run's files; its folder is ``<experiment>/<method>/<run>``.
        dataset: The dataset's files.
        spec: ``method``; optionally ``preset`` (default paper), ``overrides`` (dotted keys), ``seed`` (0),
            ``device`` (auto | cpu | cuda), ``torch_threads`` (None leaves torch's choice). What else it holds (the
            run's identity) is stored in ``run.json``.

    Returns:
        ``steps``, ``loss`` (mean over the last logged steps), ``seconds``, ``rays``, ``rays_per_s``,
        ``parameters``, ``checkpoint_bytes``, ``device``, ``torch_threads``.

    Raises:
        UserError: The spec asks for something that does not exist.
        Infeasible: Out of memory, the loss or a parameter became NaN or infinite, or the machine lacks what the
            method needs.
    """
    config = build_config(run, dataset, spec)
    threads = set_threads(spec.get("torch_threads"))
    run.root.mkdir(parents=True, exist_ok=True)
    seed_everything(config.machine.seed)
    trainer = Trainer(config, run)
    with out_of_memory_is_infeasible(trainer.where), quiet(), reproducible(trainer.device):
        trainer.build()
        _describe(run, dataset, spec, config, threads)
        numbers = trainer.loop()
    return {**numbers, "device": device_name(config.machine.device_type), "torch_threads": threads}


class Trainer:
    """The loop of nerfstudio's trainer without its viewer, writers and in-loop evaluation."""

    def __init__(self, config: TrainerConfig, run: RunFiles):
        self.config, self.run, self.step = config, run, -1
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

    def build(self) -> None:
        """Load the images and build model, optimisers and callbacks."""
        with without_downloads():
            self.pipeline: Any = self.config.pipeline.setup(
                device=self.device, test_mode="val", world_size=1, local_rank=0, grad_scaler=self.scaler
            )
        self.optimizers = Optimizers(self.config.optimizers.copy(), self.pipeline.get_param_groups())
        self._fuse()
        attributes = TrainingCallbackAttributes(
            optimizers=self.optimizers,  # pyright: ignore[reportArgumentType] - declared as a dict, used as this
            grad_scaler=self.scaler,  # pyright: ignore[reportArgumentType]
            pipeline=self.pipeline,
            trainer=self,  # pyright: ignore[reportArgumentType]
        )
        self.callbacks = self.pipeline.get_training_callbacks(attributes)
        outputs = self.pipeline.datamanager.train_dataparser_outputs
        outputs.save_dataparser_transform(self.run.root / "dataparser_transforms.json")

    def _fuse(self) -> None:
        # nerfstudio's optimiser configs cannot ask for the one-pass Adam; on a CPU it makes a step about 13 % faster.
        for optimizer in self.optimizers.optimizers.values():
            if type(optimizer) is torch.optim.Adam and self.device == "cpu":
                for group in optimizer.param_groups:
                    group["fused"] = True

    def loop(self) -> dict[str, Any]:
        """Train ``max_num_iterations`` steps; numbers for the status."""
        steps, meter = self.config.max_num_iterations, _Meter(TrainLog(self.run.train_log))
        with Progress(f"train {self.config.method_name}", steps) as progress:
            for self.step in range(steps):
                rays = self.pipeline.datamanager.get_train_rays_per_batch()  # before the step, which may change it
                meter.add(self.iteration(self.step), rays)
                if (self.step + 1) % LOG_EVERY == 0 or self.step == steps - 1:
                    facts = meter.flush(self.step, self._learning_rate())
                    progress.update(self.step + 1, **facts)
                if (self.step + 1) % self.config.steps_per_save == 0 and self.step != steps - 1:
                    self._save()
        self._callbacks(TrainingCallbackLocation.AFTER_TRAIN, self.step)
        self._check_parameters()
        path = self._save()
        write_manifest(self.run, self.step)
        meter.log.write()
        model = self.pipeline.model
        return {
            "steps": steps,
            **meter.totals(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "checkpoint_bytes": path.stat().st_size,
        }

    def _check_parameters(self) -> None:
        # The last step's gradient may be NaN under a finite loss, and nerfstudio's renderers would show that as black.
        if not all(torch.isfinite(p).all() for p in self.pipeline.model.parameters()):
            raise Infeasible(f"parameters became NaN or infinite by step {self.step}", {"step": self.step})

    def _save(self) -> Path:
        return save_checkpoint(self.run, self.step, self.pipeline, self.optimizers, self.scaler)

    def _learning_rate(self) -> float:
        group = "fields" if "fields" in self.optimizers.optimizers else next(iter(self.optimizers.optimizers))
        return float(self.optimizers.optimizers[group].param_groups[0]["lr"])

    def _callbacks(self, location: TrainingCallbackLocation, step: int) -> None:
        for callback in self.callbacks:
            callback.run_callback_at_location(step, location=location)

    def iteration(self, step: int) -> torch.Tensor:
        """One step of optimisation, as nerfstudio's ``Trainer.train_iteration``; the loss, detached."""
        self.pipeline.train()
        self._callbacks(TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, step)
        groups, every = list(self.optimizers.parameters), self.accumulate
        self.optimizers.zero_grad_some([g for g in groups if step % every[g] == 0])
        with torch.autocast(device_type=self.device, enabled=self.mixed):
            _, losses, _ = self.pipeline.get_train_loss_dict(step=step)
            loss = functools.reduce(torch.add, losses.values())
        self.scaler.scale(loss).backward()
        due = [g for g in groups if step % every[g] == every[g] - 1]
        self.optimizers.optimizer_scaler_step_some(self.scaler, due)  # pyright: ignore[reportArgumentType]
        before = self.scaler.get_scale()
        self.scaler.update()
        if before <= self.scaler.get_scale():  # a lowered scale means the optimiser skipped this step
            self._schedule()
        self._callbacks(TrainingCallbackLocation.AFTER_TRAIN_ITERATION, step)
        return loss.detach()

    def _schedule(self) -> None:
        # nerfstudio's scheduler_step_all also writes to its event writer, which a headless run never sets up.
        for scheduler in self.optimizers.schedulers.values():
            scheduler.step()


class _Meter:
    """Losses and speed between two looks at them."""

    def __init__(self, log: TrainLog):
        self.log, self.losses, self.rays, self.all_rays = log, [], 0, 0
        self.started = self.looked = time.monotonic()
        self.loss = math.nan

    def add(self, loss: torch.Tensor, rays: int) -> None:
        self.losses.append(loss)
        self.rays += rays

    def flush(self, step: int, lr: float) -> dict[str, float]:
        """Mean loss and speed since the last look; a row of ``train.csv``."""
        losses = torch.stack(self.losses).float().cpu()
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            first = step - len(losses) + 1 + int(bad[0])
            kind = "NaN" if torch.isnan(losses[bad[0]]).any() else "infinite"
            raise Infeasible(f"loss became {kind} at step {first}", {"step": first})
        now = time.monotonic()
        self.loss, speed = float(losses.mean()), self.rays / max(now - self.looked, 1e-9)
        seconds = round(now - self.started, 3)
        self.log.add(step=step, loss=self.loss, lr=lr, rays_per_s=round(speed, 1), seconds=seconds)
        self.all_rays += self.rays
        self.losses, self.rays, self.looked = [], 0, now
        return {"loss": self.loss, "rays/s": speed}

    def totals(self) -> dict[str, Any]:
        seconds = self.looked - self.started
        return {
            "loss": self.loss,
            "seconds": round(seconds, 3),
            "rays": self.all_rays,
            "rays_per_s": round(self.all_rays / max(seconds, 1e-9), 1),
        }


def _describe(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any], config: TrainerConfig, threads: int) -> None:
    """Write ``config.yml`` (nerfstudio's form) and ``run.json`` (plain): everything that defines the run."""
    method = method_entry(spec["method"])
    write_text(run.config, yaml.dump(config))
    write_json(
        run.run,
        {
            "spec": plain_config(spec),
            "needs": list(method.needs),
            "gives": list(method.gives),
            "transforms_sha256": sha256_file(dataset.transforms),
            "config": plain_config(config),
            "versions": versions(),
            "device": device_name(config.machine.device_type),
            "torch_threads": threads,
        },
    )


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's as the kernel spells it."""
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()
