"""The runner end to end on a tiny analytic scene: a patterned ball before a gradient, seen from twelve sides."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from camera_paths.formats import CameraPath, write_camera_path
from data.poses import Camera, look_at
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles
from methods.presets import METHODS

RADIUS, POI = 0.4, np.zeros(3)
NEAR, FAR = 0.3, 2.5
SPEC: dict[str, Any] = {"method": "nerfacto", "preset": "smoke", "seed": 3, "device": "cpu", "torch_threads": 1}
IDENTITY: dict[str, Any] = {"study": "s", "scene": "ball", "count": "all", "repeat": 2, "resolved": {"a.b": [1, 2.5]}}


def _colour(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """The true picture: a ball of ``RADIUS`` with bands, before a gradient; ``[h, w, 3]``."""
    sky = np.stack([0.5 + 0.4 * directions[..., 2], 0.3 + 0.1 * directions[..., 0], 0.8 + 0 * directions[..., 0]], -1)
    b = directions @ origin
    root = b**2 - (origin @ origin - RADIUS**2)
    normal = (origin + (-b - np.sqrt(np.maximum(root, 0)))[..., None] * directions) / RADIUS
    ball = np.array([0.9, 0.5, 0.1]) * (0.6 + 0.4 * np.sin(4 * normal[..., 2:]))
    return np.where((root > 0)[..., None], ball, sky)


def _picture(camera: Camera, pose: np.ndarray) -> np.ndarray:
    x = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    rays = np.stack(np.broadcast_arrays(x[None], -y[:, None], -np.ones(())), -1) @ pose[:3, :3].T
    return _colour(pose[:3, 3], rays / np.linalg.norm(rays, axis=-1, keepdims=True))


def _poses(count: int) -> list[np.ndarray]:
    turns = np.arange(count) * 2 * np.pi / count
    heights = 0.5 + 0.3 * np.sin(2 * turns)
    ring = np.sqrt(1 - heights**2)
    eyes = np.stack([ring * np.cos(turns), ring * np.sin(turns), heights], -1)
    return [look_at(eye, POI, np.array([0.0, 0.0, 1.0])) for eye in eyes]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    root = tmp_path_factory.mktemp("dataset")
    camera = Camera(32, 24, 28.0, 28.0, 16.0, 12.0)
    (root / "images").mkdir()
    frames = []
    for k, pose in enumerate(_poses(12)):
        name = f"images/frame_{k:05d}.png"
        Image.fromarray((_picture(camera, pose) * 255).round().astype(np.uint8)).save(root / name)
        lens = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy, "w": 32, "h": 24}
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **lens})
    names = [f["file_path"] for f in frames]
    test = [names[4], names[9]]
    trimesh.PointCloud(np.eye(3) * RADIUS, colors=np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]])).export(
        root / "points.ply"
    )
    scene = {"near": NEAR, "far": FAR, "poi": POI.tolist(), "bounds": [[-RADIUS] * 3, [RADIUS] * 3]}
    (root / "scene.json").write_text(json.dumps(scene))
    lists = {"train_filenames": [n for n in names if n not in test], "val_filenames": test, "test_filenames": test}
    meta = {"frames": frames, **lists, "ply_file_path": "points.ply", "scene_json": "scene.json"}
    (root / "transforms.json").write_text(json.dumps(meta))
    return DatasetFiles(root)


def _run(folder: Path, method: str = "nerfacto", name: str = "run") -> RunFiles:
    return RunFiles(folder / "study" / method / name)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return -10 * math.log10(float(np.mean((a - b) ** 2)))


def _load(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float64) / 255


@pytest.fixture(scope="module")
def trained(dataset: DatasetFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFiles, dict[str, Any]]:
    """One smoke run, shared by the tests that only look at it; downloads would fail it."""
    from methods.runner.train import train

    run = _run(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        _forbid_downloads(patch)
        return run, train(run, dataset, {**SPEC, **IDENTITY})


def _forbid_downloads(patch: pytest.MonkeyPatch) -> None:
    import torch.hub

    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError(f"download of {args[0]}")

    patch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    patch.setattr(torch.hub, "download_url_to_file", refuse)
    patch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture(scope="module")
def rendered(
    dataset: DatasetFiles, trained: tuple[RunFiles, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFiles, dict[str, Any]]:
    from methods.runner.render import render

    source = tmp_path_factory.mktemp("path") / "camera_path.json"
    write_camera_path(source, CameraPath.uniform(np.stack(_poses(3)), Camera(16, 12, 14.0, 14.0, 8.0, 6.0), 4.0))
    return trained[0], render(trained[0], dataset, {"ring": source}, SPEC)


def test_a_smoke_run_beats_the_mean_colour_by_3_db(dataset: DatasetFiles, rendered: tuple[RunFiles, dict[str, Any]]):
    meta = read_json(dataset.transforms)
    mean = np.mean([_load(dataset.root / n).mean(axis=(0, 1)) for n in meta["train_filenames"]], axis=0)
    for name in meta["test_filenames"]:
        truth, ours = _load(dataset.root / name), _load(rendered[0].test / Path(name).name)
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
    runs = [_run(tmp_path, name=name) for name in ("a", "b", "c")]
    for run, seed in zip(runs, (1, 1, 2), strict=True):
        train(run, dataset, {**spec, "seed": seed})
    first, second, third = map(_tensors, runs)
    assert set(first) == set(second)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not all(torch.equal(first[k], third[k]) for k in first)
    hashes = [read_json(run.checkpoint_manifest)["sha256"] for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]


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
        train(_run(tmp_path), dataset, SPEC)
    assert caught.value.numbers == {"step": 17}
    assert not _run(tmp_path).checkpoint_manifest.exists()


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
        train(_run(tmp_path), dataset, SPEC)
    assert caught.value.numbers == {"step": 0}
    error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        train(_run(tmp_path), dataset, SPEC)


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
        train(_run(tmp_path, spec["method"]), dataset, spec)
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
        train(_run(tmp_path, method), dataset, {**SPEC, "method": method})


def test_a_run_folder_that_nerfstudio_could_not_name_is_refused(dataset: DatasetFiles, tmp_path: Path):
    from methods.runner.train import train

    with pytest.raises(UserError, match="must lie in a folder named after its method, 'nerfacto'"):
        train(RunFiles(tmp_path / "somewhere"), dataset, SPEC)


def test_a_study_can_turn_the_camera_optimiser_on_and_set_a_schedule(dataset: DatasetFiles, tmp_path: Path):
    from methods.runner.setup import build_config

    overrides = {
        "pipeline.model.camera_optimizer.mode": "SO3xR3",
        "pipeline.model.far_plane": 9,
        "optimizers.fields.scheduler": {"lr_final": 1e-5, "max_steps": 7},
        "optimizers.camera_opt.scheduler": None,
    }
    config = build_config(_run(tmp_path), dataset, {**SPEC, "overrides": overrides})
    model: Any = config.pipeline.model
    assert (model.camera_optimizer.mode, model.far_plane) == ("SO3xR3", 9.0)
    assert config.optimizers["fields"]["scheduler"].max_steps == 7
    assert config.optimizers["camera_opt"]["scheduler"] is None


def test_the_parser_keeps_poses_splits_and_points_as_the_files_say(dataset: DatasetFiles):
    from methods.runner.config import FieldbookDataParserConfig

    meta = read_json(dataset.transforms)
    by_name = {f["file_path"]: f for f in meta["frames"]}
    for split in ("train", "val", "test"):
        outputs = FieldbookDataParserConfig(data=dataset.transforms).setup().get_dataparser_outputs(split)
        names = [str(p.relative_to(dataset.root)) for p in outputs.image_filenames]
        assert names == meta[f"{split}_filenames"]
        expected = np.array([by_name[n]["transform_matrix"] for n in names])[:, :3]
        np.testing.assert_allclose(outputs.cameras.camera_to_worlds, expected, atol=1e-6)
        assert outputs.dataparser_scale == 1.0
        np.testing.assert_array_equal(outputs.dataparser_transform, np.eye(4)[:3])
        np.testing.assert_allclose(outputs.metadata["points3D_xyz"], np.eye(3) * RADIUS, atol=1e-6)
        assert outputs.metadata["points3D_rgb"].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene_json": None}, "has no 'scene_json'"),
        ({"train_filenames": ["images/no.png"]}, "train_filenames names frames that are not there: images/no.png"),
        ({"mask_of_first": "m.png"}, "1 of 10 train frames have a mask; give all or none"),
    ],
)
def test_a_broken_dataset_is_named(dataset: DatasetFiles, tmp_path: Path, change: dict[str, Any], message: str):
    from methods.runner.config import FieldbookDataParserConfig

    meta = read_json(dataset.transforms)
    if "mask_of_first" in change:
        meta["frames"][0]["mask_path"] = change.pop("mask_of_first")
    meta = {k: v for k, v in {**meta, **change}.items() if v is not None}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(meta))
    (tmp_path / "scene.json").write_bytes((dataset.root / "scene.json").read_bytes())
    with pytest.raises(UserError, match=message):
        FieldbookDataParserConfig(data=path, load_3D_points=False).setup().get_dataparser_outputs("train")


BUILT_INS = ("nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "instant-ngp", "instant-ngp-bounded", "depth-nerfacto")


@pytest.mark.parametrize("method", BUILT_INS)
def test_the_object_lies_inside_what_every_built_in_samples(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    """Down a ray to the POI, sampling starts before the object and ends behind it; and no pose or embedding moves."""
    import torch
    from nerfstudio.cameras.rays import RayBundle

    from methods.runner import setup
    from methods.runner.config import FieldbookDataParserConfig
    from methods.runner.offline import quiet, without_downloads

    _forbid_downloads(monkeypatch)
    monkeypatch.setattr(setup, "check_needs", lambda *_: None)
    config = setup.build_config(_run(tmp_path, method), dataset, {**SPEC, "method": method})
    outputs = FieldbookDataParserConfig(data=dataset.transforms).setup().get_dataparser_outputs("train")
    with without_downloads(), quiet():
        model = config.pipeline.model.setup(
            scene_box=outputs.scene_box, num_train_data=10, metadata={}, device="cpu", grad_scaler=None
        )
    corners = torch.tensor([[-RADIUS] * 3, [RADIUS] * 3])
    assert (corners[0] >= outputs.scene_box.aabb[0]).all()
    assert (corners[1] <= outputs.scene_box.aabb[1]).all()
    assert getattr(model, "field", None) is None or getattr(model.field, "embedding_appearance", None) is None
    assert not hasattr(model, "camera_optimizer") or model.camera_optimizer.config.mode == "off"

    origins = torch.from_numpy(np.stack(_poses(4))[:, :3, 3]).float()
    rays = RayBundle(origins=origins, directions=-origins, pixel_area=torch.full((4, 1), 1e-3))
    if model.collider is not None:
        rays = model.train().collider(rays)
        assert rays.nears is not None
        assert rays.fars is not None
        near, far = rays.nears.max().item(), rays.fars.min().item()
    else:
        near, far = model.config.near_plane, model.config.far_plane
        assert (model.occupancy_grid.aabbs[0][:3] <= corners[0]).all()
    assert 0 < near <= 1 - RADIUS
    assert far >= 1 + RADIUS


def _untrained(run: RunFiles, dataset: DatasetFiles, method: str) -> RunFiles:
    """A run with a tiny model as it was initialised."""
    import torch
    import yaml

    from methods.runner.checkpoint import save_checkpoint, write_manifest
    from methods.runner.offline import quiet, without_downloads
    from methods.runner.setup import build_config

    small = {"pipeline.model.log2_hashmap_size": 10, "pipeline.model.grid_resolution": 8}
    overrides = small if method == "instant-ngp" else {}
    config = build_config(run, dataset, {**SPEC, "method": method, "overrides": overrides})
    with without_downloads(), quiet():
        pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    run.root.mkdir(parents=True)
    run.config.write_text(yaml.dump(config))
    nothing = SimpleNamespace(optimizers={}, schedulers={})
    save_checkpoint(run, 0, pipeline, nothing, torch.amp.GradScaler("cpu", enabled=False))
    write_manifest(run, 0)
    return run


class _SeenError(Exception):
    pass


@pytest.mark.parametrize("method", ["nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "instant-ngp"])
def test_the_object_stays_between_the_planes_of_novel_views_at_every_distance(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    """What the samplers of a loaded model are given, whether its planes are a collider's, a box's or its config's."""
    from methods.runner import render, setup
    from methods.runner.offline import quiet
    from methods.runner.views import View

    monkeypatch.setattr(setup, "check_needs", lambda *_: None)
    monkeypatch.setattr(render, "check_machine", lambda *_: None)
    with quiet():
        model = render.LoadedModel(_untrained(_run(tmp_path, method), dataset, method), dataset, "cpu")
    seen = []

    def sampler(**given: Any) -> None:
        seen.append((given["near_plane"], given["far_plane"]))
        raise _SeenError

    def outputs(bundle: Any) -> None:
        seen.append((bundle.nears.max().item(), bundle.fars.min().item()))
        raise _SeenError

    attribute, spy = ("sampler", sampler) if model.model.collider is None else ("get_outputs", outputs)
    monkeypatch.delitem(model.model._modules, attribute, raising=False)
    monkeypatch.setattr(model.model, attribute, spy, raising=False)

    def planes(distance: float, novel: bool = True) -> tuple[float, float]:
        pose = look_at(np.array([distance, 0, 0]), POI, np.array([0.0, 0.0, 1.0]))
        with pytest.raises(_SeenError):
            model.picture(View("v", Camera(1, 1, 400.0, 400.0, 0.5, 0.5), pose, novel))
        return seen[-1]

    for distance in (3.0, 0.3, 1.0, 3.0):
        near, far = planes(distance)
        assert near < distance < far
        assert near <= max(distance - RADIUS, 0.301 * distance)
        assert far >= distance + RADIUS
    if method == "tensorf":  # its rays meet the scene's box, wherever they come from
        return
    assert planes(1.0) == pytest.approx((NEAR, FAR))
    assert planes(3.0) == pytest.approx((NEAR, FAR + 2))
    assert planes(0.3) == pytest.approx((0.3 * NEAR, FAR))
    assert planes(3.0, novel=False) == planes(0.3, novel=False) == pytest.approx((NEAR, FAR))


def test_only_paths_are_novel(dataset: DatasetFiles):
    from methods.runner.views import held_out_views, path_views

    path = CameraPath.uniform(np.stack(_poses(2)), Camera(4, 3, 4.0, 4.0, 2.0, 1.5), 4.0)
    assert [v.novel for v in held_out_views(dataset)] == [False, False]
    assert [v.novel for v in path_views(path)] == [True, True]


def _values(config: Any, name: str) -> list[Any]:
    """Every value called ``name`` in a nest of dicts."""
    below = [v for part in config.values() if isinstance(part, dict) for v in _values(part, name)]
    return [config[name], *below] if name in config else below


@pytest.mark.parametrize("method", [*sorted(METHODS), "plugin"])
def test_camera_optimiser_and_appearance_embedding_are_off_for_every_method_and_preset(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    from nerfstudio.configs.method_configs import all_methods

    from methods.presets import method_entry
    from methods.runner import setup

    monkeypatch.setattr(setup, "check_needs", lambda *_: None)
    monkeypatch.setitem(all_methods, "plugin", setup.method_config("nerfacto"))
    for preset in method_entry(method).presets:
        config = setup.build_config(_run(tmp_path, method), dataset, {**SPEC, "method": method, "preset": preset})
        model = setup.plain_config(config.pipeline.model)
        assert all(c is None or c["mode"] == "off" for c in _values(model, "camera_optimizer"))
        # True is instant-ngp's word for no embedding; that none is built is tested above, with the models.
        assert set(_values(model, "use_appearance_embedding")) <= {method.startswith("instant-ngp")}
    if method in ("plugin", "nerfacto", "splatfacto"):
        on = {"pipeline.model.camera_optimizer.mode": "SO3xR3"}
        config = setup.build_config(
            _run(tmp_path, method), dataset, {**SPEC, "method": method, "preset": "paper", "overrides": on}
        )
        assert setup.plain_config(config.pipeline.model)["camera_optimizer"]["mode"] == "SO3xR3"


def test_an_embedding_that_only_has_a_size_gets_size_0():
    from methods.runner.setup import fix_cameras_and_appearance

    @dataclass
    class Field:
        appearance_embedding_dim: int = 32
        use_appearance_embedding: bool = True

    @dataclass
    class Model:
        appearance_embed_dim: int = 32
        field: Field = dataclass_field(default_factory=Field)

    model = Model()
    fix_cameras_and_appearance(model)
    assert model == Model(appearance_embed_dim=0, field=Field(32, use_appearance_embedding=False))


@pytest.mark.parametrize("frames", [10, 1])
def test_training_samples_only_pixels_inside_the_masks(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
):
    from nerfstudio.models.nerfacto import NerfactoModel

    from methods.runner.dataparser import scene_gives
    from methods.runner.train import train

    meta, kept = read_json(dataset.transforms), {}
    for k, frame in enumerate(meta["frames"]):
        name = frame["file_path"]
        mask = np.zeros((24, 32), np.uint8)
        mask[k : k + 6, 2 * k : 2 * k + 8] = 255  # a small window of its own for every frame
        Image.fromarray(mask).save(tmp_path / f"{k}.png")
        frame |= {"file_path": str(dataset.root / name), "mask_path": f"{k}.png"}
        kept[frame["file_path"]] = mask > 0
    for split in ("train", "val", "test"):
        meta[f"{split}_filenames"] = [str(dataset.root / n) for n in meta[f"{split}_filenames"]]
    meta["train_filenames"] = meta["train_filenames"][:frames]
    meta["ply_file_path"] = str(dataset.root / "points.ply")
    meta["scene_json"] = str(dataset.root / "scene.json")
    masked = DatasetFiles(tmp_path)
    masked.transforms.write_text(json.dumps(meta))

    real, seen = NerfactoModel.get_loss_dict, []

    def spy(self: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        seen.append((batch["indices"].numpy().copy(), batch["image"].numpy().copy()))
        return real(self, outputs, batch, *args, **kwargs)

    monkeypatch.setattr(NerfactoModel, "get_loss_dict", spy)
    rays = 128 if frames > 1 else 40  # a window has 48 pixels
    few = {"max_num_iterations": 3, "pipeline.datamanager.train_num_rays_per_batch": rays}
    train(_run(tmp_path), masked, {**SPEC, "overrides": few})
    cells, colours = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert len(cells) == 3 * rays
    assert set(cells[:, 0]) == set(range(frames))
    for (image, row, column), colour in zip(cells, colours, strict=True):
        name = meta["train_filenames"][image]
        assert kept[name][row, column]
        np.testing.assert_allclose(_load(Path(name))[row, column], colour, atol=1e-3)
    assert (scene_gives(dataset.transforms), scene_gives(masked.transforms)) == ({"poses"}, {"poses", "masks"})


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
        train(_run(tmp_path), dataset, {**SPEC, "overrides": {"max_num_iterations": 3}})


def test_rendering_an_untrained_or_altered_run_is_the_users_mistake(
    dataset: DatasetFiles, trained: tuple[RunFiles, dict[str, Any]], tmp_path: Path
):
    import shutil

    from methods.runner.render import render

    with pytest.raises(UserError, match="train the run first"):
        render(_run(tmp_path), dataset, {}, SPEC)
    copy = _run(tmp_path, name="copy")
    shutil.copytree(trained[0].root, copy.root, ignore=shutil.ignore_patterns("test", "cones"))
    (copy.checkpoints / read_json(copy.checkpoint_manifest)["checkpoint"]).write_bytes(b"other")
    with pytest.raises(UserError, match="is not the checkpoint its manifest describes"):
        render(copy, dataset, {}, SPEC)
    assert not copy.test.exists()


@pytest.mark.parametrize("method", ["mipnerf", "vanilla-nerf", "tensorf"])
def test_the_other_cpu_methods_take_steps_and_render(dataset: DatasetFiles, tmp_path: Path, method: str):
    from methods.runner.render import render
    from methods.runner.train import train

    few = {"pipeline.model.num_coarse_samples": 8, "pipeline.model.num_importance_samples": 8}
    overrides = {"max_num_iterations": 3, "pipeline.datamanager.train_num_rays_per_batch": 16, **few}
    if method == "tensorf":
        overrides = {"max_num_iterations": 12}  # its grids grow at step 10
    run, spec = _run(tmp_path, method), {**SPEC, "method": method, "overrides": overrides}
    numbers = train(run, dataset, spec)
    assert numbers["steps"] == overrides["max_num_iterations"]
    assert math.isfinite(numbers["loss"])
    source = tmp_path / "camera_path.json"
    write_camera_path(source, CameraPath.uniform(np.stack(_poses(1)), Camera(8, 6, 7.0, 7.0, 4.0, 3.0), 4.0))
    render(run, dataset, {"ring": source}, spec)
    assert _load(run.path("ring") / "view_000.png").shape == (6, 8, 3)
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

    run, spec = _run(tmp_path, method), {**SPEC, "method": method}
    numbers = train(run, dataset, spec)
    assert math.isfinite(numbers["loss"])
    render(run, dataset, {}, spec)
    picture = _load(run.test / "frame_00004.png")
    assert picture.std(axis=(0, 1)).max() > 0.005


def test_a_method_is_checked_before_there_is_a_dataset():
    from methods.runner.setup import check_method

    spec = {"method": "nerfacto", "preset": "smoke", "overrides": {"max_num_iterations": 7}, "device": "cpu"}
    assert check_method(spec) == {"steps": 7}
    with pytest.raises(UserError, match="num_levels"):
        check_method(spec | {"overrides": {"pipeline.model.num_lvels": 2}})
    with pytest.raises(Infeasible, match="CUDA GPU"):
        check_method(spec | {"method": "splatfacto", "overrides": {}})


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
