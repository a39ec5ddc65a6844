"""A training that was stopped anywhere goes on as if it had not been."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles
from methods.runner.checkpoint import checkpoint_path, is_final, tidy

from .runner_ball import SPEC, run_files, write_dataset

# Steps, steps between checkpoints, and the step in whose midst training stops.
METHODS: dict[str, tuple[int, int, int]] = {
    "nerfacto": (40, 16, 37),
    "hash-nerf": (60, 25, 55),
    "neus-hash": (60, 25, 55),
    "tensorf": (20, 6, 14),  # its grids grow after steps 10 and 15
    "vanilla-nerf": (8, 3, 7),
    "mipnerf": (8, 3, 7),
}


class Killed(BaseException):
    """Stands for a death that nothing in the process can see coming."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def _spec(method: str, **overrides: Any) -> dict[str, Any]:
    steps, save, _ = METHODS[method]
    return {
        **SPEC,
        "method": method,
        "overrides": {"max_num_iterations": steps, "steps_per_save": save, **overrides},
    }


def _train(folder: Path, dataset: DatasetFiles, spec: dict[str, Any]) -> tuple[RunFiles, dict[str, Any]]:
    from methods.runner.train import train

    run = run_files(folder, spec["method"])
    return run, train(run, dataset, spec)


def _stop(folder: Path, dataset: DatasetFiles, spec: dict[str, Any], step: int) -> RunFiles:
    """Train, and die in the forward pass of a step: what it has drawn by then is lost."""
    from methods.runner.train import Trainer

    whole = Trainer._gradients

    def dies(self: Any, now: int) -> torch.Tensor:
        loss = whole(self, now)
        if now == step:
            raise Killed
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_gradients", dies)
        with pytest.raises(Killed):
            _train(folder, dataset, spec)
    return run_files(folder, spec["method"])


def _columns(run: RunFiles) -> list[tuple[str, ...]]:
    with open(run.train_log, encoding="utf-8") as stream:
        return [(row["step"], row["loss"], row["lr"]) for row in csv.DictReader(stream)]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _checkpoint(run: RunFiles) -> dict[str, Any]:
    path = run.checkpoints / read_json(run.checkpoint_manifest)["checkpoint"]
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def undisturbed(dataset: DatasetFiles, tmp_path_factory: pytest.TempPathFactory):
    """Runs that nothing stopped, by method."""
    made: dict[str, RunFiles] = {}

    def run(method: str) -> RunFiles:
        if method not in made:
            made[method], _ = _train(tmp_path_factory.mktemp(f"whole-{method}"), dataset, _spec(method))
        return made[method]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_equals_undisturbed(method: str, dataset: DatasetFiles, undisturbed, tmp_path: Path):
    spec, (steps, save, stop) = _spec(method), METHODS[method]
    run = _stop(tmp_path, dataset, spec, stop)
    kept = [entry["step"] for entry in read_json(run.resume)["checkpoints"]]
    assert kept == [k - 1 for k in range(stop // save * save, 0, -save)][:2]
    random.seed(99)  # another process would have other states
    np.random.seed(99)
    torch.manual_seed(99)
    _, numbers = _train(tmp_path, dataset, spec)
    assert numbers["sessions"] == 2
    assert numbers["resume"] == "exact"
    assert _columns(run) == _columns(undisturbed(method))
    assert _same(_checkpoint(run), _checkpoint(undisturbed(method)))
    tidy(run)
    assert [p.name for p in run.checkpoints.iterdir()] == [checkpoint_path(run, steps - 1).name]
    assert not run.resume.exists()


@pytest.mark.slow
@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("method", METHODS)
def test_stopped_twice_anywhere_equals_undisturbed(
    method: str, draw: int, dataset: DatasetFiles, undisturbed, tmp_path: Path
):
    chance = random.Random(f"{method} {draw}")
    for step in sorted(chance.sample(range(METHODS[method][0]), 2)):
        run = _stop(tmp_path, dataset, _spec(method), step)
    _train(tmp_path, dataset, _spec(method))
    assert _columns(run) == _columns(undisturbed(method))
    assert _same(_checkpoint(run), _checkpoint(undisturbed(method)))


@pytest.mark.parametrize(
    ("method", "step"), [*((method, stop - 1) for method, (_, _, stop) in METHODS.items()), ("hash-nerf", 16)]
)
def test_a_step_that_is_stopped_by_a_signal_is_done_again_from_its_beginning(
    method: str, step: int, dataset: DatasetFiles, undisturbed, tmp_path: Path
):
    """The proposal networks' schedule and the first callbacks of the step have moved on when the signal comes."""
    from methods.runner.train import Trainer

    whole = Trainer._gradients

    def saves(self: Any, now: int) -> torch.Tensor:
        loss = whole(self, now)
        if now == step:
            self._stopped()
            raise Killed
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_gradients", saves)
        with pytest.raises(Killed):
            _train(tmp_path, dataset, _spec(method))
    run, numbers = _train(tmp_path, dataset, _spec(method))
    assert read_json(run.checkpoint_manifest)["step"] == METHODS[method][0] - 1
    assert _columns(run) == _columns(undisturbed(method))
    assert _same(_checkpoint(run), _checkpoint(undisturbed(method)))
    assert numbers["sessions"] == 2


ENDS = ("save_checkpoint", "write_manifest", "record_finish")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("point", ENDS)
def test_a_death_between_the_last_step_and_the_status_loses_nothing_that_was_saved(
    point: str, after: bool, dataset: DatasetFiles, undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from methods.runner import train

    real, last = getattr(train, point), METHODS["nerfacto"][0] - 1

    def dies(run: RunFiles, *arguments: Any) -> Any:
        if point == "save_checkpoint" and arguments[0] != last:
            return real(run, *arguments)
        if after:
            real(run, *arguments)
        raise Killed

    monkeypatch.setattr(train, point, dies)
    with pytest.raises(Killed):
        _train(tmp_path, dataset, _spec("nerfacto"))
    monkeypatch.setattr(train, point, real)
    monkeypatch.setattr(train.Trainer, "_gradients", _counted(trained := [], train.Trainer._gradients))
    run, numbers = _train(tmp_path, dataset, _spec("nerfacto"))
    done = point == "record_finish" and after
    assert trained == ([] if done else list(range(32, last + 1)))  # the checkpoint before is from step 31
    assert numbers["sessions"] == (1 if done else 2)
    assert _columns(run) == _columns(undisturbed("nerfacto"))
    assert _same(_checkpoint(run), _checkpoint(undisturbed("nerfacto")))


def _counted(steps: list[int], real: Any) -> Any:
    def gradients(self: Any, step: int) -> torch.Tensor:
        steps.append(step)
        return real(self, step)

    return gradients


def test_a_damaged_checkpoint_is_left_out_for_the_one_before(
    dataset: DatasetFiles, undisturbed, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    spec = _spec("nerfacto")
    run = _stop(tmp_path, dataset, spec, 37)
    newest, older = (checkpoint_path(run, k) for k in (31, 15))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    caplog.set_level("INFO")
    _train(tmp_path, dataset, spec)
    assert f"{newest} is damaged" in caplog.text
    assert "going on from step 15" in caplog.text
    assert _same(_checkpoint(run), _checkpoint(undisturbed("nerfacto")))
    tidy(run)
    assert not older.exists()


def test_without_a_whole_checkpoint_training_starts_again(
    dataset: DatasetFiles, undisturbed, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    spec = _spec("nerfacto")
    run = _stop(tmp_path, dataset, spec, 37)
    checkpoint_path(run, 31).write_bytes(b"nothing of the kind")
    checkpoint_path(run, 15).unlink()
    _, numbers = _train(tmp_path, dataset, spec)
    assert "no checkpoint in" in caplog.text
    assert "is whole: training starts again from step 0" in caplog.text
    assert [p.name for p in run.set_aside.iterdir()] == [checkpoint_path(run, 31).name]
    assert numbers["sessions"] == 1
    assert _same(_checkpoint(run), _checkpoint(undisturbed("nerfacto")))


def test_a_damaged_record_of_checkpoints_is_none(dataset: DatasetFiles, undisturbed, tmp_path: Path):
    spec = _spec("nerfacto")
    run = _stop(tmp_path, dataset, spec, 37)
    run.resume.write_text("{")
    assert _train(tmp_path, dataset, spec)[1]["sessions"] == 1
    assert _same(_checkpoint(run), _checkpoint(undisturbed("nerfacto")))


def test_another_training_does_not_go_on_from_this_ones_checkpoints_and_keeps_them_until_it_is_done(
    dataset: DatasetFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = _stop(tmp_path, dataset, _spec("nerfacto"), 37)
    other = {**_spec("nerfacto"), "seed": 8}
    assert _train(tmp_path, dataset, other)[1]["sessions"] == 1
    assert f"they are kept in {run.set_aside} until it is done" in caplog.text
    assert {p.name for p in run.set_aside.iterdir()} == {checkpoint_path(run, k).name for k in (15, 31)}
    tidy(run)
    assert not run.set_aside.exists()


def test_other_pictures_are_another_training(tmp_path: Path):
    from methods.runner.identity import training_identity

    dataset = write_dataset(tmp_path)
    before = training_identity(dataset, SPEC)
    assert training_identity(dataset, dict(SPEC)) == before
    picture = next((tmp_path / "images").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert training_identity(dataset, SPEC) != before
    picture.unlink()
    with pytest.raises(UserError, match=f"{picture.name}: missing; put it back, or make the dataset again"):
        training_identity(dataset, SPEC)


def test_a_picture_that_goes_missing_ends_with_one_line_and_all_is_well_once_it_is_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from fieldbook.cli import main
    from fieldbook.status import OK, Status, write_status

    (tmp_path / "study").mkdir()
    dataset = write_dataset(tmp_path / "study")
    write_status(dataset.status(), Status(OK, "dataset"))
    run = RunFiles(dataset.root / "nerfacto" / "run")
    command = ["train", str(run.root), "--spec", json.dumps(_spec("nerfacto", max_num_iterations=4))]
    picture = dataset.root / "images" / "frame_00003.png"
    content = picture.read_bytes()
    picture.unlink()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error == f"fieldbook: {picture}: missing; put it back, or make the dataset again\n"
    assert not run.status("train").exists()
    picture.write_bytes(content)
    assert main(command) == 0


def test_accumulated_gradients_go_on_too(dataset: DatasetFiles, tmp_path: Path):
    spec = _spec("vanilla-nerf", **{"gradient_accumulation_steps": {"fields": 4}})
    whole, _ = _train(tmp_path / "whole", dataset, spec)
    run = _stop(tmp_path / "stopped", dataset, spec, 7)  # the checkpoint after step 5 lies within steps 4 to 7
    _train(tmp_path / "stopped", dataset, spec)
    assert _same(_checkpoint(run), _checkpoint(whole))


def test_a_full_disk_ends_training_with_one_line_and_leaves_what_was_saved(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import errno

    saved, real = [], torch.save

    def full(state: Any, stream: Any, **options: Any) -> None:
        if not options:  # with some, the config's tensors are written as YAML
            if saved:
                stream.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            saved.append(state["step"])
        real(state, stream, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"no space left for .*; what was saved before is whole"):
        _train(tmp_path, dataset, _spec("nerfacto"))
    run = run_files(tmp_path)
    assert [p.name for p in run.checkpoints.iterdir()] == [checkpoint_path(run, 15).name]
    assert read_json(run.resume)["checkpoints"][0]["step"] == 15


def test_a_finished_training_is_recognised_by_its_checkpoint(undisturbed):
    run = undisturbed("nerfacto")
    manifest = read_json(run.checkpoint_manifest)
    numbers = {"steps": manifest["step"] + 1, "checkpoint_sha256": manifest["sha256"]}
    run.checkpoint_manifest.unlink()  # as Snakemake does before the job
    assert is_final(run, numbers)
    assert read_json(run.checkpoint_manifest) == manifest
    assert not is_final(run, {**numbers, "checkpoint_sha256": "0" * 64})
    assert not is_final(run, {**numbers, "steps": 7})
