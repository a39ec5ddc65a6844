"""The runner end to end on a tiny analytic scene."""

from __future__ import annotations

import csv
import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camera_paths.formats import CameraPath, write_camera_path
from data.poses import Camera
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles

from .runner_ball import FAR, NEAR, SPEC, forbid_downloads, poses_around, read_picture, run_files, write_dataset

IDENTITY: dict[str, Any] = {"study": "s", "scene": "ball", "count": "all", "repeat": 2, "resolved": {"a.b": [1, 2.5]}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * math.log10(float(np.mean((a - b) ** 2)))


@pytest.fixture(scope="module")
def trained(dataset: DatasetFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFiles, dict[str, Any]]:
    """One smoke run, shared by the tests that only look at it; downloads would fail it."""
    from methods.runner.train import train

    run = run_files(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        forbid_downloads(patch)
        return run, train(run, dataset, {**SPEC, **IDENTITY})


@pytest.fixture(scope="module")
def rendered(
    dataset: DatasetFiles, trained: tuple[RunFiles, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFiles, dict[str, Any]]:
    from methods.runner.render import render

    source = tmp_path_factory.mktemp("path") / "camera_path.json"
    write_camera_path(source, CameraPath.uniform(np.stack(poses_around(3)), Camera(16, 12, 14.0, 14.0, 8.0, 6.0), 4.0))
    return trained[0], render(trained[0], dataset, {"ring": source}, SPEC)


def test_a_smoke_run_beats_the_mean_colour_by_3_db(dataset: DatasetFiles, rendered: tuple[RunFiles, dict[str, Any]]):
    meta = read_json(dataset.transforms)
    mean = np.mean([read_picture(dataset.root / n).mean(axis=(0, 1)) for n in meta["train_filenames"]], axis=0)
    for name in meta["test_filenames"]:
        truth, ours = read_picture(dataset.root / name), read_picture(rendered[0].test / Path(name).name)
        assert _psnr(truth, ours) > _psnr(truth, np.broadcast_to(mean, truth.shape)) + 3


def test_rendered_folders_hold_every_view_in_every_form(rendered: tuple[RunFiles, dict[str, Any]]):
    import cv2

    run, numbers = rendered
    assert numbers["views"] == 5
    assert numbers["rays"] == 2 * 32 * 24 + 3 * 16 * 12
    for folder, views in ((run.test, ["frame_00004", "frame_00009"]), (run.path("ring"), ["view_000", "view_001"])):
        index = read_json(folder / "renders.json")
        assert [v["name"] for v in index["views"]][:2] == views
        assert index["rays_per_s"] > 0
        for view in index["views"]:
            shape = (view["camera"]["height"], view["camera"]["width"])
            eight = np.asarray(Image.open(folder / f"{view['name']}.png"))
            sixteen = cv2.imread(str(folder / f"{view['name']}.rgb16.png"), cv2.IMREAD_UNCHANGED)
            assert sixteen is not None
            assert sixteen.dtype == np.uint16
            assert np.abs(sixteen[..., ::-1] / 65535 - eight / 255).max() <= 0.5 / 255 + 1e-5
            depth = np.load(folder / f"{view['name']}.depth.npy")
            assert (depth.dtype, depth.shape) == (np.float32, shape)
            assert np.asarray(Image.open(folder / f"{view['name']}.opacity.png")).shape == shape
    assert read_json(run.path("ring") / "camera_path.json")["render_width"] == 16
    assert (run.path("ring") / "path.mp4").stat().st_size > 0


def test_depth_lies_between_near_and_far(rendered: tuple[RunFiles, dict[str, Any]]):
    depth = np.load(rendered[0].test / "frame_00004.depth.npy")
    assert depth.min() >= NEAR * 0.99
    assert depth.max() <= FAR * 1.01


def test_the_checkpoint_is_nerfstudios_and_loads_as_plain_tensors(trained: tuple[RunFiles, dict[str, Any]]):
    import torch

    run, numbers = trained
    manifest = read_json(run.checkpoint_manifest)
    assert manifest["checkpoint"] == f"step-{numbers['steps'] - 1:09d}.ckpt"
    assert [p.name for p in run.checkpoints.iterdir()] == [manifest["checkpoint"]]
    state = torch.load(run.checkpoints / manifest["checkpoint"], weights_only=True)
    assert set(state) == {"step", "pipeline", "optimizers", "schedulers", "scalers"}
    assert not any("lpips" in key for key in state["pipeline"])


def test_nerfstudios_own_tools_open_the_run(trained: tuple[RunFiles, dict[str, Any]]):
    from nerfstudio.utils.eval_utils import eval_setup

    from methods.runner.offline import quiet, without_downloads

    run, numbers = trained
    with without_downloads(), quiet():
        config, pipeline, path, step = eval_setup(run.config, test_mode="inference")
    assert config.get_base_dir() == run.root
    assert path == run.checkpoints / f"step-{step:09d}.ckpt"
    assert step == numbers["steps"] - 1
    assert read_json(run.root / "dataparser_transforms.json")["scale"] == 1.0
    model: Any = pipeline.model
    assert model.config.camera_optimizer.mode == "off"


def test_the_log_and_run_json_say_what_was_done(dataset: DatasetFiles, trained: tuple[RunFiles, dict[str, Any]]):
    run, numbers = trained
    with open(run.train_log, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["step", "loss", "lr", "rays_per_s", "seconds"]
    assert int(rows[-1]["step"]) == numbers["steps"] - 1
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"])
    described = read_json(run.run)
    assert described["spec"] == {**SPEC, **IDENTITY}
    assert described["transforms_sha256"] == hashlib.sha256(dataset.transforms.read_bytes()).hexdigest()
    assert (described["needs"], described["gives"]) == (["poses"], ["rgb", "depth", "opacity"])
    assert described["config"]["pipeline"]["model"]["far_plane"] == FAR
    assert described["versions"]["nerfstudio"] == "1.1.5"
    assert described["torch_threads"] == 1


def test_rendering_an_untrained_or_altered_run_is_the_users_mistake(
    dataset: DatasetFiles, trained: tuple[RunFiles, dict[str, Any]], tmp_path: Path
):
    import shutil

    from methods.runner.render import render

    with pytest.raises(UserError, match="train the run first"):
        render(run_files(tmp_path), dataset, {}, SPEC)
    copy = run_files(tmp_path, name="copy")
    shutil.copytree(trained[0].root, copy.root, ignore=shutil.ignore_patterns("test", "cones"))
    (copy.checkpoints / read_json(copy.checkpoint_manifest)["checkpoint"]).write_bytes(b"other")
    with pytest.raises(UserError, match="is not the checkpoint its manifest describes"):
        render(copy, dataset, {}, SPEC)
    assert not copy.test.exists()


def _tensors(run: RunFiles) -> dict[str, Any]:
    from methods.runner.checkpoint import read_checkpoint

    return read_checkpoint(run)["pipeline"]


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_checkpoint_and_another_seed_another(
    dataset: DatasetFiles, tmp_path: Path, threads: int
):
    import torch

    from methods.runner.train import train

    # Two threads are the harder case: their sums must not depend on who comes first. Slow where cores are shared.
    spec = {**SPEC, "torch_threads": threads, "overrides": {"max_num_iterations": 5}}
    runs = [run_files(tmp_path, name=name) for name in ("a", "b", "c")]
    for run, seed in zip(runs, (1, 1, 2), strict=True):
        train(run, dataset, {**spec, "seed": seed})
    first, second, third = map(_tensors, runs)
    assert set(first) == set(second)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], third[k]) for k in first)
    hashes = [read_json(run.checkpoint_manifest)["sha256"] for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("method", ["mipnerf", "vanilla-nerf", "tensorf"])
def test_the_other_cpu_methods_take_steps_and_render(dataset: DatasetFiles, tmp_path: Path, method: str):
    from methods.runner.render import render
    from methods.runner.train import train

    few = {"pipeline.model.num_coarse_samples": 8, "pipeline.model.num_importance_samples": 8}
    overrides = {"max_num_iterations": 3, "pipeline.datamanager.train_num_rays_per_batch": 16, **few}
    if method == "tensorf":
        overrides = {"max_num_iterations": 12}  # its grids grow at step 10
    run, spec = run_files(tmp_path, method), {**SPEC, "method": method, "overrides": overrides}
    numbers = train(run, dataset, spec)
    assert numbers["steps"] == overrides["max_num_iterations"]
    assert math.isfinite(numbers["loss"])
    source = tmp_path / "camera_path.json"
    write_camera_path(source, CameraPath.uniform(np.stack(poses_around(1)), Camera(8, 6, 7.0, 7.0, 4.0, 3.0), 4.0))
    render(run, dataset, {"ring": source}, spec)
    assert read_picture(run.path("ring") / "view_000.png").shape == (6, 8, 3)
    depth = np.load(run.test / "frame_00004.depth.npy")
    assert np.isfinite(depth).all()
    if method != "tensorf":  # whose rays end where they leave the scene's box
        assert depth.min() >= NEAR * 0.99
        assert depth.max() <= FAR * 1.01


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mipnerf", "vanilla-nerf", "tensorf"])
def test_the_other_cpu_methods_train_and_render(dataset: DatasetFiles, tmp_path: Path, method: str):
    from methods.runner.render import render
    from methods.runner.train import train

    run, spec = run_files(tmp_path, method), {**SPEC, "method": method}
    numbers = train(run, dataset, spec)
    assert math.isfinite(numbers["loss"])
    render(run, dataset, {}, spec)
    picture = read_picture(run.test / "frame_00004.png")
    assert picture.std(axis=(0, 1)).max() > 0.005


def test_a_stage_imports_neither_viewer_nor_table_of_methods_and_both_work_later():
    code = """
import sys
from methods.runner.registry import TrainerConfig, method_config
assert method_config("hash-nerf").method_name == "hash-nerf"
late = {"nerfstudio.viewer.viewer", "nerfstudio.viewer_legacy.server.viewer_state", "nerfstudio.configs.method_configs"}
assert not late & set(sys.modules), late & set(sys.modules)
assert isinstance(method_config("nerfacto"), TrainerConfig)
from nerfstudio.viewer.viewer import Viewer
import nerfstudio.engine.trainer as trainer
try:
    trainer.ViewerState()
except TypeError as error:
    assert "Viewer.__init__" in str(error), error
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
