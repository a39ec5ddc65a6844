"""Losses and speed of a training, from look to look, over any number of sessions."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from fieldbook.errors import Infeasible
from methods.runner.progress import TrainLog


class Meter:
    """Losses and speed between two looks at them.

    Args:
        log: Gets a row at each look.
        before: What ``state`` said when an earlier session of the same training was left; None for the first.
    """

    def __init__(self, log: TrainLog, before: dict[str, Any] | None = None):
        self.log, self.losses, self.rays, self.all_rays = log, [], 0, 0
        self.loss, self.sessions = math.nan, 1
        self.started = self.looked = time.monotonic()
        if before is not None:
            self.log.rows = [dict(row) for row in before["rows"]]
            self.losses = list(before["losses"].unbind())
            self.rays, self.all_rays, self.loss = before["rays"], before["all_rays"], before["loss"]
            self.sessions = before["sessions"] + 1
            self.started -= before["seconds"]
            self.looked -= before["since_look"]

    def state(self) -> dict[str, Any]:
        """Everything, as plain values and a tensor."""
        now = time.monotonic()
        return {
            "rows": self.log.rows,
            "losses": torch.stack(self.losses).cpu() if self.losses else torch.empty(0),
            "rays": self.rays,
            "all_rays": self.all_rays,
            "loss": self.loss,
            "sessions": self.sessions,
            "seconds": now - self.started,
            "since_look": now - self.looked,
        }

    def add(self, loss: torch.Tensor, rays: int) -> None:
        """Take a step's loss and rays."""
        self.losses.append(loss)
        self.rays += rays

    def flush(self, step: int, lr: float) -> dict[str, float]:
        """Mean loss and speed since the last look; a row of ``train.csv``.

        Raises:
            Infeasible: A loss is NaN or infinite.
        """
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
        """Loss, seconds, rays and their rate of all sessions, up to the last look."""
        seconds = self.looked - self.started
        return {
            "loss": self.loss,
            "seconds": round(seconds, 3),
            "rays": self.all_rays,
            "rays_per_s": round(self.all_rays / max(seconds, 1e-9), 1),
            "sessions": self.sessions,
        }
