"""hash-nerf: its parts against plain formulas, and a ball with a half transparent rim learnt to a stated quality."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldbook.layout import DatasetFiles, RunFiles

ANGLE, SIZE = 0.7, 48  # of the fixture's folder


def _space(contracted: bool = True):
    from methods.hash_nerf.field import Space

    return Space(torch.tensor([1.0, -2.0, 0.5]), 1.5, contracted)


def test_the_box_fills_the_middle_half_and_infinity_the_faces():
    space = _space()
    box = space.centre + 1.5 * torch.tensor([[-1.0, 0.0, 1.0], [0.5, 1.0, -1.0]])
    assert torch.allclose(space.to_unit(box), torch.tensor([[0.25, 0.5, 0.75], [0.625, 0.75, 0.25]]))
    far = space.to_unit(space.centre + 1.5 * torch.tensor([[1e7, 0.0, 0.0]]))
    assert torch.allclose(far, torch.tensor([[1.0, 0.5, 0.5]]), atol=1e-6)
    # Equation 10 at norm 2: (2 - 1/2) x / |x| = 1.5, of the cube's half side 2.
    assert torch.allclose(space.to_unit(space.centre + torch.tensor([[0.0, -3.0, 0.0]]))[0, 1], torch.tensor(0.125))


@given(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), st.booleans())
@settings(deadline=None, max_examples=60)
def test_every_position_lands_in_the_unit_cube(position: list[float], contracted: bool):
    unit = _space(contracted).to_unit(torch.tensor([position]))
    assert ((unit >= 0) & (unit <= 1)).all()


@given(st.floats(0.1, 2000), st.integers(1, 40_000))
@settings(deadline=None)
def test_a_batch_stays_near_its_samples_and_within_its_rays(per_ray: float, rays: int):
    from methods.hash_nerf.pipeline import BatchSize, next_batch

    wanted, stride = next_batch(per_ray, rays, BatchSize(16384, 512, 8192, 8.0))
    assert 1 <= wanted <= min(8192, max(2 * rays, 1))
    assert 1 <= stride <= 8
    assert wanted * max(per_ray, 1) / stride <= 16384 * 1.001
    if stride > 1:  # only where the shortest steps would leave too few rays
        assert 16384 / max(per_ray, 1) < 512


def _shells(points: torch.Tensor) -> torch.Tensor:
    """A dense shell of radius 0.5 and thin fog inside the unit ball."""
    radius = points.norm(dim=-1)
    return 80.0 * ((radius - 0.5).abs() < 0.1) + 0.5 * (radius < 0.9)


def _rays(n: int):
    draw = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(n, 3, generator=draw), dim=-1) * 3
    targets = 0.4 * torch.randn(n, 3, generator=draw)
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def test_marching_to_the_last_light_leaves_out_only_what_light_does_not_reach():
    from methods.kernels.compositing import composite
    from methods.kernels.marching import March, march, ray_aabb
    from methods.kernels.visibility import march_visible

    spec = March(half=1.0, resolution=16, step_min=0.01)
    occupied = torch.ones(spec.shape, dtype=torch.bool)
    origins, directions = _rays(64)
    near, far = ray_aabb(origins, directions, spec.aabb)
    seen = march_visible((origins, directions, near, far), occupied, spec, _shells, 1e-3)
    every = march(origins, directions, near, far, occupied, spec)

    def shown(samples):
        points = origins[samples.ray_index] + directions[samples.ray_index] * samples.midpoints[:, None]
        colour = points.sin().abs()
        return composite(_shells(points), colour, samples.t_start, samples.t_end, samples.offsets, early_stop=1e-3)

    a, b = shown(seen), shown(every)
    assert torch.allclose(a.rgb, b.rgb, atol=1e-6)  # sums of the same numbers, grouped differently
    assert torch.allclose(a.opacity, b.opacity, atol=1e-6)
    reached = int((b.weights > 0).sum())
    assert abs(len(seen) - reached) <= 2  # where T stands at the threshold to the last bit
    assert reached < 0.75 * len(every)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, write_blender) -> DatasetFiles:
    """The Blender ball as a dataset with alpha, 20 training and 2 test pictures, in the capture's own units."""
    root = tmp_path_factory.mktemp("ball")
    write_blender(root, {"train": 20, "test": 2}, size=SIZE)
    lens = SIZE / 2 / math.tan(ANGLE / 2)
    camera = {"fl_x": lens, "fl_y": lens, "cx": SIZE / 2, "cy": SIZE / 2, "w": SIZE, "h": SIZE}
    lists: dict[str, list[str]] = {}
    frames = []
    for split in ("train", "test"):
        described = json.loads((root / f"transforms_{split}.json").read_text())["frames"]
        lists[split] = [f"{f['file_path']}.png" for f in described]
        frames += [{**camera, **f, "file_path": f"{f['file_path']}.png"} for f in described]
    (root / "scene.json").write_text(
        json.dumps({"near": 1.4, "far": 6.6, "poi": [0, 0, 0], "bounds": [[-1.5] * 3, [1.5] * 3]})
    )
    names = {"train_filenames": lists["train"], "val_filenames": lists["test"], "test_filenames": lists["test"]}
    meta = {"frames": frames, **names, "background": "white", "scene_json": "scene.json"}
    (root / "transforms.json").write_text(json.dumps(meta))
    return DatasetFiles(root)


def _spec(**overrides: Any) -> dict[str, Any]:
    base = {"method": "hash-nerf", "preset": "smoke", "seed": 1, "device": "cpu", "torch_threads": 1}
    return {**base, "overrides": overrides}


@pytest.fixture(scope="module")
def rendered(dataset: DatasetFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFiles, dict[str, Any]]:
    from methods.runner.render import render
    from methods.runner.train import train

    run = RunFiles(tmp_path_factory.mktemp("run") / "study" / "hash-nerf" / "run")
    numbers = train(run, dataset, _spec())
    render(run, dataset, {}, _spec())
    return run, numbers


def _truth(path: Path) -> np.ndarray:
    picture = np.asarray(Image.open(path), dtype=np.float64) / 255
    return picture[..., :3] * picture[..., 3:] + 1 - picture[..., 3:]


def test_a_smoke_run_learns_a_ball_with_a_soft_rim(dataset: DatasetFiles, rendered: tuple[RunFiles, dict[str, Any]]):
    for name in json.loads(dataset.transforms.read_text())["test_filenames"]:
        truth = _truth(dataset.root / name)
        ours = np.asarray(Image.open(rendered[0].test / Path(name).name), dtype=np.float64) / 255
        # A white picture has 8 dB, a ball of one colour 16 to 17; these 300 steps give 25.
        assert -10 * math.log10(np.mean((truth - ours) ** 2)) > 22


def test_opacity_and_depth_are_the_balls(dataset: DatasetFiles, rendered: tuple[RunFiles, dict[str, Any]]):
    run = rendered[0]
    opacity = np.asarray(Image.open(run.test / "r_0.opacity.png"), dtype=np.float64) / 255
    depth = np.load(run.test / "r_0.depth.npy")
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    assert opacity[middle, middle].min() > 0.9
    assert opacity[:4, :4].mean() < 0.05
    # The colour depends on a ray's nearest point to the centre alone, so the surface is free within the ball.
    assert 2.8 < np.median(depth[middle, middle]) < 5.2


def test_a_step_has_at_least_the_smallest_batch_of_rays(rendered: tuple[RunFiles, dict[str, Any]]):
    assert rendered[1]["rays"] >= 256 + 299 * 512  # 256 at the first step, when nothing is known; then min_rays


def test_the_same_seed_gives_the_same_checkpoint(
    dataset: DatasetFiles, rendered: tuple[RunFiles, dict[str, Any]], tmp_path: Path
):
    from methods.runner.train import train

    again = RunFiles(tmp_path / "study" / "hash-nerf" / "run")
    train(again, dataset, _spec())
    name = next(again.checkpoints.glob("*.ckpt")).name
    assert (again.checkpoints / name).read_bytes() == (rendered[0].checkpoints / name).read_bytes()


def _model(dataset: DatasetFiles, folder: Path, **overrides: Any):
    from methods.runner.offline import quiet
    from methods.runner.setup import build_config, seed_everything
    from methods.runner.train import Trainer

    run = RunFiles(folder / "study" / "hash-nerf" / "run")
    run.root.mkdir(parents=True)
    config = build_config(run, dataset, _spec(**overrides))
    seed_everything(0)
    trainer = Trainer(config, run)
    with quiet():
        trainer.build()
    return trainer


def test_pictures_with_alpha_are_bounded_and_others_are_not(dataset: DatasetFiles, tmp_path: Path):
    trainer = _model(dataset, tmp_path / "a")
    assert trainer.pipeline.model.march.cascades == 1
    assert torch.equal(trainer.pipeline.model.render_background(), torch.ones(3))
    model = _model(dataset, tmp_path / "b", **{"pipeline.model.unbounded": True}).pipeline.model
    assert model.march.cascades == 3  # 1.65 * 2^2 reaches the far plane, 6.6
    assert model.march.bound >= 6.6


def test_rendering_with_rays_falling_out_equals_compositing_every_sample(dataset: DatasetFiles, tmp_path: Path):
    from methods.kernels.compositing import composite
    from methods.kernels.marching import march

    model = _model(dataset, tmp_path).pipeline.eval().model
    origins, directions = _rays(50)
    model.config.initial_density, model.config.early_stop = 3.0, 1e-4  # some rays stop early
    near, far = model.ray_bounds(origins, directions)
    samples = march(origins, directions, near, far, model.occupancy.occupied, model.march)
    points = origins[samples.ray_index] + directions[samples.ray_index] * samples.midpoints[:, None]
    with torch.no_grad():
        density, raw = model.field.density(points)
        colour = model.field.colour(raw, model.field.ray_features(directions, None), samples.ray_index)
    want = composite(density, colour, samples.t_start, samples.t_end, samples.offsets, early_stop=1e-4)

    made = model.composited(origins, directions)
    # T is kept as 1 - opacity between rounds, so a ray may stop a sample later: 1e-4 of light.
    assert torch.allclose(made.rgb, want.rgb, atol=2e-4)
    assert torch.allclose(made.opacity, want.opacity, atol=2e-4)


def test_cells_that_no_training_camera_sees_are_never_marched(dataset: DatasetFiles, tmp_path: Path):
    trainer = _model(dataset, tmp_path)
    model, cameras = trainer.pipeline.model, trainer.pipeline.datamanager.train_dataset.cameras
    everything = _model(dataset, tmp_path / "all", **{"pipeline.model.skip_unseen": False}).pipeline.model
    assert everything.occupancy.occupied.all()
    assert not model.occupancy.occupied.all()
    h, half = model.march.resolution, model.march.half
    axis = (torch.arange(h) + 0.5) / h * 2 * half - half
    middles = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1) + model.centre
    seen = torch.zeros(h, h, h, dtype=torch.bool)
    for pose, camera in zip(cameras.camera_to_worlds, cameras, strict=True):
        x, y, z = ((middles - pose[:, 3]) @ pose[:, :3]).unbind(-1)
        u, v = camera.fx * x / -z + camera.cx, -camera.fy * y / -z + camera.cy
        seen |= (z < -model.config.near_plane) & (u > 0) & (u < camera.width) & (v > 0) & (v < camera.height)
    assert not (seen & ~model.occupancy.occupied[0]).any()
    for step in (1, 16, 32):  # an update does not bring them back
        model.update_occupancy(step)
    assert not (model.occupancy.occupied[0] & (model.occupancy.density[0] < 0)).any()


@pytest.mark.parametrize("stop", [1e-4, 1e-3])
def test_a_walls_depth_is_its_distance_however_far_one_could_see(dataset: DatasetFiles, tmp_path: Path, stop: float):
    model = _model(dataset, tmp_path, **{"pipeline.model.early_stop": stop}).pipeline.eval().model
    model.config.far_plane = 1000.0
    origins = torch.tensor([[0.0, 0.0, -1.5]]).repeat(2, 1) + model.centre
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])  # one at the wall, one away from it

    def wall(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 400.0 * (x[:, 2] > model.centre[2]).float(), torch.zeros(len(x), 16)

    model.field.density = wall
    from nerfstudio.cameras.rays import RayBundle

    bundle = RayBundle(origins, directions, torch.full((2, 1), 1e-6))
    with torch.no_grad():
        depth = model(bundle)["depth"][:, 0]
    assert depth[0] == pytest.approx(1.5, abs=2 * model.march.step_min)  # a sample stands for its whole step
    assert depth[1] == 1000.0


def test_lenses_and_fisheyes_exclude_nothing(dataset: DatasetFiles, tmp_path: Path):
    from nerfstudio.cameras.cameras import CameraType

    cameras = _model(dataset, tmp_path / "a").pipeline.datamanager.train_dataset.cameras
    model = _model(dataset, tmp_path / "b", **{"pipeline.model.skip_unseen": False}).pipeline.model
    cameras.distortion_params = torch.full((len(cameras), 6), 0.1)
    model.exclude_unseen(cameras)
    cameras.distortion_params = None
    cameras.camera_type = torch.full((len(cameras), 1), CameraType.FISHEYE.value)
    model.exclude_unseen(cameras)
    assert model.occupancy.occupied.all()
    cameras.camera_type = torch.full((len(cameras), 1), CameraType.PERSPECTIVE.value)
    model.exclude_unseen(cameras)
    assert not model.occupancy.occupied.all()


def test_an_empty_scene_trains_and_renders(dataset: DatasetFiles, tmp_path: Path):
    trainer = _model(dataset, tmp_path)
    trainer.pipeline.model.occupancy.occupied.zero_()
    loss = trainer.iteration(1)  # no sample at all: the loss is the background's, the gradient zero
    assert torch.isfinite(loss)
    model = trainer.pipeline.eval().model
    model.occupancy.occupied.zero_()
    rays = trainer.pipeline.datamanager.eval_dataset.cameras.generate_rays(camera_indices=0)
    with torch.no_grad():
        made = model.get_outputs_for_camera_ray_bundle(rays)
    assert torch.equal(made["rgb"], torch.ones_like(made["rgb"]))  # the dataset's white
    assert not made["accumulation"].any()


def test_appearance_vectors_are_learnt_and_their_mean_is_rendered(dataset: DatasetFiles, tmp_path: Path):
    trainer = _model(dataset, tmp_path, **{"pipeline.model.appearance_embedding_dim": 4})
    codes = trainer.pipeline.model.field.appearance.weight
    before = codes.detach().clone()
    for step in range(3):
        trainer.iteration(step)
    assert (codes - before).abs().max() > 0
    assert len(codes) == 20


@pytest.mark.slow
def test_ns_train_trains_it_on_nerfstudios_own_parser(tmp_path: Path, captures: Path):
    """nerfstudio's command with nerfstudio's trainer: 60 steps on Lego, then a checkpoint that holds the field."""
    command = [Path(sys.executable).with_name("ns-train"), "hash-nerf", "--max-num-iterations", "60"]
    command += ["--vis", "tensorboard", "--output-dir", tmp_path, "--machine.device-type", "cpu"]
    command += ["--pipeline.target-samples", str(1 << 13), "--pipeline.model.log2-hashmap-size", "14"]
    command += ["--pipeline.model.occupancy-res", "32", "--pipeline.model.march-steps", "128"]
    command += ["blender-data", "--data", captures / "lego"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    (checkpoint,) = tmp_path.rglob("step-000000059.ckpt")
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["pipeline"]  # our own file
    table = next(v for k, v in state.items() if k.endswith("encoding.table"))
    assert table.abs().max() > 0.01  # it starts within 1e-4
