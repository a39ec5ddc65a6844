"""What cannot be trained: a result with its reason, or the user's mistake in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fieldbook.errors import Infeasible, UserError
from fieldbook.layout import DatasetFiles, RunFiles

from .runner_ball import SPEC, run_files, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.mark.parametrize(("value", "word"), [(math.nan, "NaN"), (math.inf, "infinite")])
def test_a_loss_that_stops_being_a_number_is_a_result_with_its_step(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, word: str
):
    from nerfstudio.models.nerfacto import NerfactoModel

    from methods.runner.train import train

    real = NerfactoModel.get_loss_dict

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        losses = real(self, *args, **kwargs)
        return {**losses, "rgb_loss": losses["rgb_loss"] * (value if self.step == 17 else 1.0)}

    monkeypatch.setattr(NerfactoModel, "get_loss_dict", poisoned)
    with pytest.raises(Infeasible, match=f"loss became {word} at step 17") as caught:
        train(run_files(tmp_path), dataset, SPEC)
    assert caught.value.numbers == {"step": 17}
    assert not run_files(tmp_path).checkpoint_manifest.exists()


def test_a_nan_that_only_the_last_gradient_shows_is_a_result_too(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import torch
    from nerfstudio.models.nerfacto import NerfactoModel

    from methods.runner.train import train

    real = NerfactoModel.get_loss_dict

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        nothing = 0 * torch.stack([p.sum() for p in self.field.parameters()]).sum()
        extra = torch.sqrt(nothing) if self.step == 2 else nothing  # 0, with an infinite slope
        return {**real(self, *args, **kwargs), "extra": extra}

    monkeypatch.setattr(NerfactoModel, "get_loss_dict", poisoned)
    with pytest.raises(Infeasible, match="parameters became NaN or infinite by step 2"):
        train(run_files(tmp_path), dataset, {**SPEC, "overrides": {"max_num_iterations": 3}})


@pytest.mark.parametrize(
    "error", [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1"), MemoryError()]
)
def test_running_out_of_memory_is_a_result_and_another_error_is_not(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    from nerfstudio.models.nerfacto import NerfactoModel

    from methods.runner.train import train

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(NerfactoModel, "get_outputs", fail)
    with pytest.raises(Infeasible, match="out of memory at step 0") as caught:
        train(run_files(tmp_path), dataset, SPEC)
    assert caught.value.numbers == {"step": 0}
    error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(run_files(tmp_path), dataset, SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "nerfakto"}, "no method 'nerfakto'.*did you mean 'nerfacto'"),
        ({"method": "zipnerf"}, "external package that is not installed"),
        ({"preset": "tiny"}, "no preset 'tiny'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "cuda"}, "device: cuda, but torch finds no CUDA device"),
        ({"overrides": {"pipeline.model.num_level": 3}}, "pipeline.model has no field 'num_level'.*'num_levels'"),
        ({"overrides": {"pipeline.model.num_levels": "3"}}, "got '3' \\(str\\); allowed: int"),
        ({"overrides": {"max_num_iterations": 0}}, "'max_num_iterations': got 0; allowed: 1 and more"),
        ({"overrides": {"steps_per_save": -5}}, "'steps_per_save': got -5; allowed: 1 and more"),
        ({"overrides": {"optimizers.field.optimizer.lr": 1}}, "optimizers has no field 'field'.*'fields'"),
        ({"overrides": {"optimizers.fields.scheduler": {"lr": 1}}}, "has no field 'lr'; allowed: lr_final"),
    ],
)
def test_a_users_mistake_is_one_line_and_leaves_no_files(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
):
    import torch

    from methods.runner.train import train

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = {**SPEC, **change}
    with pytest.raises(UserError, match=message) as caught:
        train(run_files(tmp_path, spec["method"]), dataset, spec)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("splatfacto", "splatfacto needs a CUDA GPU .*the device is cpu"),
        ("instant-ngp", "instant-ngp needs a CUDA GPU"),
        ("neus", "neus needs tiny-cuda-nn"),
        ("neus-facto", "neus-facto needs tiny-cuda-nn"),
        ("dnerf", "dnerf needs a time for every picture of a moving scene, which this scene does not have"),
    ],
)
def test_what_the_machine_or_the_scene_cannot_do_is_infeasible_with_the_reason(
    dataset: DatasetFiles, tmp_path: Path, method: str, reason: str
):
    from methods.runner.train import train

    with pytest.raises(Infeasible, match=reason):
        train(run_files(tmp_path, method), dataset, {**SPEC, "method": method})


def test_a_run_folder_that_nerfstudio_could_not_name_is_refused(dataset: DatasetFiles, tmp_path: Path):
    from methods.runner.train import train

    with pytest.raises(UserError, match="must lie in a folder named after its method, 'nerfacto'"):
        train(RunFiles(tmp_path / "somewhere"), dataset, SPEC)


def test_a_method_is_checked_before_there_is_a_dataset():
    from methods.runner.setup import check_method

    spec = {"method": "nerfacto", "preset": "smoke", "overrides": {"max_num_iterations": 7}, "device": "cpu"}
    assert check_method(spec) == {"steps": 7}
    with pytest.raises(UserError, match="num_levels"):
        check_method(spec | {"overrides": {"pipeline.model.num_lvels": 2}})
    with pytest.raises(Infeasible, match="CUDA GPU"):
        check_method(spec | {"method": "splatfacto", "overrides": {}})
