"""hash-nerf as nerfstudio's own commands use it."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_an_export_of_hash_nerf_has_the_objects_colours_without_the_background():
    import torch

    from methods.hash_nerf.model import HashNerfModel

    opacity, straight = torch.tensor([[1.0], [0.25], [0.0]]), torch.tensor([[0.2, 0.4, 0.6]])
    seen = {"rgb": opacity * straight + (1 - opacity), "accumulation": opacity}
    model: Any = SimpleNamespace(render_background=lambda: torch.ones(3))
    rgba = HashNerfModel.get_rgba_image(model, seen)
    torch.testing.assert_close(rgba[:2, :3], straight.expand(2, 3))
    assert rgba[:, 3].tolist() == [1.0, 0.25, 0.0]
    assert rgba[2, :3].abs().max() < 1e-5


def test_what_ns_train_saves_of_hash_nerf_holds_plain_values(tmp_path: Path):
    """Same rates as nerfstudio's own schedule, whose NumPy numbers torch 2.6 refuses to load."""
    import torch
    from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

    from methods.runner.registry import method_config

    ours: Any = method_config("hash-nerf").optimizers["fields"]["scheduler"]
    theirs = ExponentialDecaySchedulerConfig(lr_final=ours.lr_final, max_steps=ours.max_steps)
    rates = []
    for config in (ours, theirs):
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
        scheduler = config.setup().get_scheduler(optimizer, lr_init=1e-2)
        for _ in range(3):
            optimizer.step()
            scheduler.step()
        rates.append(scheduler.get_last_lr())
        torch.save([optimizer.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
        if config is ours:
            torch.load(tmp_path / "state.pt", weights_only=True)
    assert rates[0] == rates[1]
    with pytest.raises(pickle.UnpicklingError):  # once this fails, nerfstudio's own schedule will do
        torch.load(tmp_path / "state.pt", weights_only=True)
