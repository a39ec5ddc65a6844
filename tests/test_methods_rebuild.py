"""A run's files may be anybody's: what is rendered is built from plain values, and pictures are looked at first."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fieldbook.errors import UserError
from fieldbook.files import read_json, sha256_file, write_json
from fieldbook.layout import DatasetFiles, RunFiles

from .runner_ball import FAR, SPEC, run_files, write_dataset
from .safety_harness import refused

SMALL = {"pipeline.model.log2_hashmap_size": 10, "pipeline.model.num_levels": 2, "max_num_iterations": 2}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def trained(dataset: DatasetFiles, tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    from methods.runner.train import train

    run = run_files(tmp_path_factory.mktemp("trained"))
    train(run, dataset, {**SPEC, "overrides": SMALL})
    return run


@pytest.fixture
def run(trained: RunFiles, tmp_path: Path) -> RunFiles:
    copy = run_files(tmp_path, name="copy")
    shutil.copytree(trained.root, copy.root)
    return copy


def loaded(run: RunFiles, dataset: DatasetFiles) -> Any:
    from methods.runner.offline import quiet
    from methods.runner.render import LoadedModel

    with quiet():
        return LoadedModel(run, dataset, "cpu")


def test_a_config_that_calls_a_function_when_it_is_read_is_not_read(
    run: RunFiles, dataset: DatasetFiles, tmp_path: Path
):
    run.config.write_text(
        f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path}/x]]"
    )
    assert loaded(run, dataset).model.config.log2_hashmap_size == 10
    run.config.unlink()
    assert loaded(run, dataset).step == 1
    assert not (tmp_path / "x").exists()


def test_the_model_is_as_it_was_trained_though_scene_and_presets_have_changed(
    run: RunFiles, dataset: DatasetFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from methods.runner import setup

    moved = DatasetFiles(Path(shutil.copytree(dataset.root, tmp_path / "moved")))
    write_json(moved.root / "scene.json", {**read_json(moved.root / "scene.json"), "far": 99.0})
    real = setup.preset_overrides
    other = {"pipeline.model.hidden_dim": 48, "pipeline.model.num_nerf_samples_per_ray": 7}
    monkeypatch.setattr(setup, "preset_overrides", lambda *names: {**real(*names), **other})
    before = read_json(run.run)["config"]["pipeline"]["model"]
    model = loaded(run, moved).model.config
    assert model.far_plane == FAR != 99.0
    assert (model.hidden_dim, model.num_nerf_samples_per_ray) == (
        before["hidden_dim"],
        before["num_nerf_samples_per_ray"],
    )


def change(run: RunFiles, key: str, value: Any) -> None:
    described = read_json(run.run)
    *parents, last = key.split("/")
    node = described
    for parent in parents:
        node = node[parent]
    node[last] = value
    write_json(run.run, described)


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("spec/method", "os.system", "no method 'os.system'"),
        ("spec/method", ["nerfacto"], "not text"),
        ("spec/overrides", {"pipeline.model._target": "os.system"}, "no field '_target'"),
        ("spec/overrides", {"pipeline.model.num_levels": "x" * 5000}, "allowed: int"),
        ("spec/overrides", 5, "not an object"),
        ("spec/preset", "../x", "no preset '../x'"),
        ("spec/seed", "0", "not a whole number"),
        ("config/pipeline/model/num_levels", "many", "allowed: int"),
        ("config/pipeline/model/of_another_version", 1, "of_another_version"),
        ("config/pipeline/model/num_levels", 3, "does not fit"),
        ("config/pipeline", {}, "no key 'model'"),
        ("config", None, "not an object"),
    ],
)
def test_a_run_json_that_describes_no_such_model_is_one_line(
    run: RunFiles, dataset: DatasetFiles, key: str, value: Any, word: str
):
    change(run, key, value)
    assert word in refused(lambda: loaded(run, dataset), run.root)


def test_a_run_without_its_run_json_is_one_line(run: RunFiles, dataset: DatasetFiles):
    run.run.unlink()
    assert "train the run first" in refused(lambda: loaded(run, dataset), run.root)


def test_the_checkpoint_of_another_model_is_one_line(run: RunFiles, dataset: DatasetFiles):
    import torch

    path = run.checkpoints / read_json(run.checkpoint_manifest)["checkpoint"]
    torch.save({"step": 1, "pipeline": {"_model.field.mlp_head.nothing": torch.zeros(3)}}, path)
    write_json(run.checkpoint_manifest, {"checkpoint": path.name, "step": 1, "sha256": sha256_file(path)})
    with pytest.raises(UserError, match="does not fit its model"):
        loaded(run, dataset)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


PICTURES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "missing"),
    "cut": (cut, "not a readable image"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable image"),
    "another format": (lambda path: Image.new("RGB", (32, 24)).save(path, "BMP"), "PNG or JPEG"),
    "another size": (lambda path: Image.new("RGB", (16, 12)).save(path), "is 16x12, its camera"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nerfstudio leaves a cut file open
@pytest.mark.parametrize(("damage", "word"), PICTURES.values(), ids=PICTURES)
def test_a_training_names_the_picture_it_cannot_use(tmp_path: Path, damage: Callable[[Path], Any], word: str):
    from methods.runner.train import train

    (tmp_path / "d").mkdir()
    dataset, run = write_dataset(tmp_path / "d"), run_files(tmp_path)
    path = dataset.root / "images" / "frame_00003.png"
    damage(path)
    with pytest.raises(UserError, match=r"frame_00003\.png") as error:
        train(run, dataset, {**SPEC, "overrides": SMALL})
    message = str(error.value)
    del error
    gc.collect()
    assert word in message
    assert not run.checkpoint_manifest.exists()
