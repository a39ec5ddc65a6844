"""neus-hash as a model: a two-coloured sphere learnt to a stated quality, its outputs, its batches, its mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from nerfstudio.cameras.rays import RayBundle
from PIL import Image

from fieldbook.errors import UserError
from fieldbook.layout import DatasetFiles, RunFiles

from .two_colour_sphere import BACK, CENTRE, FRONT, RADIUS, write_sphere

MIDDLE = torch.tensor(CENTRE, dtype=torch.float32)


def _spec(**overrides: Any) -> dict[str, Any]:
    base = {"method": "neus-hash", "preset": "smoke", "seed": 1, "device": "cpu", "torch_threads": 1}
    return {**base, "overrides": overrides}


@pytest.fixture(scope="module")
def cut_out(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    """The sphere with alpha."""
    return write_sphere(tmp_path_factory.mktemp("cut_out"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    """The sphere before grey."""
    return write_sphere(tmp_path_factory.mktemp("full"), alpha=False)


def _built(dataset: DatasetFiles, folder: Path, paper: bool = False, **overrides: Any) -> Any:
    from methods.runner.offline import quiet
    from methods.runner.setup import build_config, seed_everything
    from methods.runner.train import Trainer

    run = RunFiles(folder / "study" / "neus-hash" / "run")
    run.root.mkdir(parents=True)
    config = build_config(run, dataset, {**_spec(**overrides), "preset": "paper" if paper else "smoke"})
    seed_everything(1)
    trainer = Trainer(config, run)
    with quiet():
        trainer.build()
    return trainer


@pytest.fixture(scope="module")
def trained(cut_out: DatasetFiles, tmp_path_factory: pytest.TempPathFactory) -> RunFiles:
    """Rendered after the smoke preset's 300 steps."""
    from methods.runner.render import render
    from methods.runner.train import train

    run = RunFiles(tmp_path_factory.mktemp("run") / "study" / "neus-hash" / "run")
    train(run, cut_out, _spec())
    render(run, cut_out, {}, _spec())
    return run


@pytest.fixture(scope="module")
def model(trained: RunFiles, cut_out: DatasetFiles) -> Any:
    """The trained model, as rendering loads it."""
    from methods.runner.render import LoadedModel

    return LoadedModel(trained, cut_out, "cpu").model


def _sphere() -> tuple[torch.Tensor, torch.Tensor]:
    """Points on the true sphere and their normals, ``[500, 3]`` each."""
    draw = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(500, 3, generator=draw), dim=-1)
    return MIDDLE + RADIUS * normals, normals


@torch.no_grad()
def _off(model: Any) -> tuple[float, float]:
    """Mean distance of the model's surface from the true one, and the mean cosine between their normals."""
    points, normals = _sphere()
    made = model.field.surface(points)
    return float(made.sdf.abs().mean()), float(torch.nn.functional.cosine_similarity(made.gradient, normals).mean())


def _bundle(origins: torch.Tensor, directions: torch.Tensor) -> RayBundle:
    area = torch.full((len(origins), 1), 1e-4)
    return RayBundle(origins=origins, directions=directions, pixel_area=area)


def test_a_smoke_run_learns_the_sphere_and_both_colours(trained: RunFiles, cut_out: DatasetFiles):
    for name in json.loads(cut_out.transforms.read_text())["test_filenames"]:
        truth = np.asarray(Image.open(cut_out.root / name), dtype=np.float64) / 255
        truth = truth[..., :3] * truth[..., 3:] + 1 - truth[..., 3:]
        ours = np.asarray(Image.open(trained.test / name), dtype=np.float64) / 255
        # White has 12 dB, a sphere of the two colours' mean 19; these 300 steps give 26 to 28.
        assert -10 * math.log10(np.mean((truth - ours) ** 2)) > 22


def test_the_surface_of_a_smoke_run_is_where_the_sphere_is(model: Any, cut_out: DatasetFiles, tmp_path: Path):
    distance, cosine = _off(_built(cut_out, tmp_path).pipeline.model)
    assert distance > 0.1  # before training it is another sphere, elsewhere
    assert cosine < 0.95
    distance, cosine = _off(model)
    assert distance < 0.03
    assert cosine > 0.95


@torch.no_grad()
def test_distances_and_normals_of_the_surface_are_in_scene_units(model: Any):
    surface = model.surface()
    low, high = surface.aabb
    assert torch.equal(surface.aabb, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    draw = torch.Generator().manual_seed(0)
    points = low + (0.1 + 0.8 * torch.rand(500, 3, generator=draw)) * (high - low)
    step, normal = 1e-3, surface.normal(points)
    assert torch.allclose(normal.norm(dim=-1), torch.ones(500), atol=1e-4)
    along = (surface.sdf(points + step * normal) - surface.sdf(points - step * normal)) / (2 * step)
    assert along.median() == pytest.approx(1, abs=0.25)  # a unit of distance per unit along the normal
    outside = (points - MIDDLE).norm(dim=-1) > 1.4 * RADIUS
    assert (surface.sdf(points)[outside] > 0).float().mean() > 0.95


def test_the_mesh_of_a_smoke_run_is_the_sphere_with_its_colours(trained: RunFiles, cut_out: DatasetFiles):
    from methods.runner.mesh import make_mesh

    make_mesh(trained, cut_out, {"mesh": {"resolution": 48, "min_component": 0.5}, "device": "cpu", "torch_threads": 1})
    for path in (trained.mesh, trained.mesh_glb, trained.mesh_obj):
        mesh: Any = trimesh.load(path, force="mesh", process=False)
        away = mesh.vertices - CENTRE
        assert np.abs(np.linalg.norm(away, axis=1) - RADIUS).mean() < 0.03
        colours = np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
        clear, front = np.abs(away[:, 0]) > 0.1, away[:, 0] > 0
        assert ((colours[:, 0] > colours[:, 2]) == front)[clear].mean() > 0.97
        assert mesh.volume > 0  # faces turn outward


def test_a_ray_through_the_middle_gives_every_output(model: Any):
    toward = torch.tensor([[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    with torch.no_grad():
        made = model(_bundle(MIDDLE - 3 * toward, toward))
    assert torch.allclose(made["accumulation"], torch.ones(2, 1), atol=0.02)
    assert torch.allclose(made["depth"], torch.full((2, 1), 3 - RADIUS), atol=0.06)
    assert ((made["normal"] * -toward).sum(dim=-1) > 0.9).all()
    assert torch.allclose(made["rgb"], torch.tensor([FRONT, BACK]), atol=0.15)
    assert torch.allclose(made["rgb_fg"], made["rgb"], atol=1e-6)
    assert "rgb_bg" not in made  # a dataset with alpha needs none


def test_a_loaded_checkpoint_stands_at_its_step(model: Any):
    assert model.field.step == 299


def test_rays_that_miss_everything_see_the_background_and_have_no_normal(model: Any):
    with torch.no_grad():
        made = model(_bundle(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[0.0, 0.0, 1.0]])))
    assert torch.equal(made["rgb"], torch.ones(1, 3))
    assert not made["accumulation"].any()
    assert not made["normal"].any()
    assert torch.isfinite(made["depth"]).all()


@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("how", ["all rays miss", "nothing is occupied"])
def test_a_batch_without_samples_has_losses_of_zero_and_steps_on(
    how: str, alpha: bool, cut_out: DatasetFiles, full: DatasetFiles, tmp_path: Path
):
    every = {f"pipeline.model.{n}_loss_mult": 0.1 for n in ("opaque", "sparsity", "distortion", "eikonal")}
    trainer = _built(cut_out if alpha else full, tmp_path, **every)
    model = trainer.pipeline.model
    away = torch.tensor([[0.0, 0.0, 1.0]]).expand(7, 3)
    origins = away * (5 if how == "all rays miss" else -5)
    for grid in (model.occupancy, getattr(model.background, "occupancy", None)):
        if grid is not None and (how == "nothing is occupied" or grid is not model.occupancy):
            grid.occupied.zero_()
    outputs = model(_bundle(origins, away))
    assert int(outputs["num_samples"]) == 0
    batch = {"image": torch.rand(7, 4 if alpha else 3)}
    losses = model.get_loss_dict(outputs, batch)
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
        if name not in ("mask_loss", "opaque_loss"):  # what should be there and is not is a fault, and stays one
            assert loss.item() == 0, name
    sum(losses.values()).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_without_alpha_a_second_field_learns_what_lies_behind(full: DatasetFiles, tmp_path: Path):
    trainer = _built(full, tmp_path)
    model = trainer.pipeline.model
    assert model.background is not None
    for step in range(150):
        trainer.iteration(step)
    model = trainer.pipeline.eval().model
    toward = torch.tensor([[-1.0, 0.0, 0.0]])
    with torch.no_grad():
        made = model(
            _bundle(MIDDLE + torch.tensor([[3.0, 0.0, 0.0], [3.0, 0.0, 0.8]]), toward.expand(2, 3).contiguous())
        )
    assert torch.allclose(made["rgb"][1], torch.full((3,), 0.5), atol=0.1)
    assert made["rgb"][0, 0] > made["rgb"][0, 2] + 0.2
    assert float(made["accumulation"][0]) > 0.9
    assert made["depth"][1] > made["depth"][0]


def test_gradients_reach_every_parameter(full: DatasetFiles, tmp_path: Path):
    trainer = _built(full, tmp_path, **{"pipeline.model.distortion_loss_mult": 0.1})
    for step in range(2):
        trainer.iteration(step)
    model = trainer.pipeline.model
    _, losses, _ = trainer.pipeline.get_train_loss_dict(2)
    sum(losses.values()).backward()
    lacking = [
        n for n, p in model.named_parameters() if "device_indicator" not in n and (p.grad is None or not p.grad.any())
    ]
    assert not lacking


def test_the_pictures_say_which_background_there_is(cut_out: DatasetFiles, full: DatasetFiles, tmp_path: Path):
    off = {"pipeline.model.learned_background": False, "pipeline.model.background": "white"}
    assert _built(cut_out, tmp_path / "a").pipeline.model.background is None
    assert _built(full, tmp_path / "b").pipeline.model.background is not None
    assert _built(full, tmp_path / "c", **off).pipeline.model.background is None


def test_the_published_sizes_build_with_a_background_of_their_own(full: DatasetFiles, tmp_path: Path):
    trainer = _built(full, tmp_path, paper=True)
    model = trainer.pipeline.model
    assert model.background.occupancy.occupied.shape[-1] == 256
    assert model.field.encoding.grid.resolutions[-1] == 2048
    assert trainer.pipeline.target == 256 * (1024 + 64)
    groups = {name: made.param_groups[0] for name, made in trainer.optimizers.optimizers.items()}
    assert {name: group["weight_decay"] for name, group in groups.items()} == dict.fromkeys(groups, 0.01)
    assert {name: group["initial_lr"] for name, group in groups.items()} == {
        "grids": 0.01,
        "fields": 0.01,
        "variance": 1e-3,
    }


MISTAKES = {
    "eikonal_loss_mult": (-5.0, "a weight is 0 and more"),
    "mask_loss_mult": ((500, 0.0, 0.1, 100), "start before end"),
    "curvature_loss_mult": (0.1, "set pipeline.model.gradient to numerical"),
    "level_every": (0, "above 0"),
    "start_levels": (-1, "from 1 to num_levels"),
    "radius": (0.0, "above 0"),
    "march_steps": (0, "above 0"),
    "geo_feat_dim": (0, "above 0"),
    "training_depth": (-1.0, "0 and more"),
    "cos_anneal_end": (-5, "0 and more"),
    "init_variance": (200.0, "from -1.38 to 1.38"),
    "occupancy_fraction": (1.5, "at most 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_number_that_no_training_can_use_is_refused_before_anything_is_computed(name: str):
    from methods.runner.setup import check_method

    value, words = MISTAKES[name]
    with pytest.raises(UserError, match=f"{name}.*{words}"):
        check_method({**_spec(**{f"pipeline.model.{name}": value}), "device": "cpu"})


@pytest.mark.parametrize(
    ("name", "value"), [("max_rays", 0), ("first_rays", 0), ("target_samples", 0), ("max_stride", 0.5)]
)
def test_a_batch_that_cannot_be_is_refused(name: str, value: float):
    from methods.runner.setup import check_method

    with pytest.raises(UserError, match=f"{name} is {value}; allowed: 1 and more"):
        check_method({**_spec(**{f"pipeline.{name}": value}), "device": "cpu"})


def test_longer_steps_keep_the_rays_of_a_batch_up(cut_out: DatasetFiles, tmp_path: Path):
    trainer = _built(cut_out, tmp_path, **{"pipeline.min_rays": 400, "pipeline.target_samples": 4096})
    for step in range(6):
        trainer.iteration(step)
    assert trainer.pipeline.rays >= 400
    assert trainer.pipeline.model.stride > 1
    published = _built(cut_out, tmp_path / "p", **{"pipeline.min_rays": 0, "pipeline.target_samples": 4096})
    for step in range(6):
        published.iteration(step)
    assert published.pipeline.rays < 256
    assert published.pipeline.model.stride == 1


def test_training_rays_end_inside_and_lose_no_light_by_it(cut_out: DatasetFiles, tmp_path: Path):
    from methods.kernels.compositing import composite_alpha

    trainer = _built(cut_out, tmp_path, **{"pipeline.model.training_depth": 8.0})
    model = trainer.pipeline.model
    with torch.no_grad():
        model.field.variance.fill_(0.5)  # sharp enough to have a far side
    draw = torch.Generator().manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(200, 3, generator=draw), dim=-1) * 3
    directions = torch.nn.functional.normalize(0.5 * torch.randn(200, 3, generator=draw) - origins, dim=-1)
    origins = model.to_own(origins)
    bounds = model.ray_bounds(origins, directions)

    def shown(depth: float):
        model.config.training_depth = depth
        torch.manual_seed(3)
        samples = model._training_samples(origins, directions, *bounds, model.field.network)
        with torch.no_grad():
            surface = model.field.surface(
                origins[samples.ray_index] + directions[samples.ray_index] * samples.midpoints[:, None]
            )
            normals = torch.nn.functional.normalize(surface.gradient, dim=-1)
            alpha = model._alpha(surface, normals, directions, samples.ray_index, samples.t_end - samples.t_start)
        ends = (samples.t_start, samples.t_end)
        return composite_alpha(alpha, normals, *ends, samples.offsets, early_stop=0.0), len(samples)

    (cut, fewer), (whole, all_of_them) = shown(8.0), shown(0.0)
    assert fewer < 0.8 * all_of_them
    assert (cut.opacity - whole.opacity).abs().max() < 1e-3
    assert (cut.rgb - whole.rgb).abs().max() < 1e-3


def test_masks_become_alpha_and_rays_are_drawn_everywhere(full: DatasetFiles, tmp_path: Path):
    dataset = _with_masks(full, tmp_path, 32)
    trainer = _built(dataset, tmp_path)
    model = trainer.pipeline.model
    assert model.background is None
    assert torch.equal(model.render_background(), torch.ones(3))
    _, batch = trainer.pipeline.datamanager.next_train(0)
    assert batch["image"].shape[-1] == 4
    alpha = batch["image"][:, 3]
    assert set(np.unique(np.round(alpha.numpy() * 255))) == {0.0, 128.0, 255.0}  # soft ones stay soft


def test_a_mask_of_another_size_is_named(full: DatasetFiles, tmp_path: Path):
    with pytest.raises(UserError, match=r"mask_train_000\.png is 30x30, its picture 32x32"):
        _built(_with_masks(full, tmp_path, 30), tmp_path)


def _with_masks(dataset: DatasetFiles, folder: Path, size: int) -> DatasetFiles:
    meta = json.loads(dataset.transforms.read_text())
    mask = np.zeros((size, size), np.uint8)
    mask[8:24, 8:24], mask[8:24, 7] = 255, 128
    root = folder / "masked"
    root.mkdir()
    for frame in meta["frames"]:
        name = frame["file_path"]
        (root / name).symlink_to(dataset.root / name)
        frame["mask_path"] = f"mask_{name}"
        Image.fromarray(mask).save(root / frame["mask_path"])
    (root / "scene.json").symlink_to(dataset.root / "scene.json")
    (root / "transforms.json").write_text(json.dumps(meta))
    return DatasetFiles(root)


def test_the_box_is_the_captures_own_or_reaches_towards_the_nearest_camera():
    from methods.neus_hash.box import object_box

    scene = torch.tensor([[-9.0, -9, -9], [9, 9, 9]])
    poses = torch.eye(4)[:3].repeat(3, 1, 1)
    poses[:, :, 3] = torch.tensor([[0.0, 0, 1], [0, 0.5, 0], [2, 0, 0]])
    given = torch.tensor([[0.0, 0, 0], [2, 1, 1]])
    assert object_box(scene, {"object_box": given, "capture_poses": poses}, 0.6)[1] == 1.0
    assert torch.equal(object_box(scene, {"object_box": given}, 0.6)[0], torch.tensor([1.0, 0.5, 0.5]))
    centre, half = object_box(scene, {"capture_poses": poses}, 0.6)
    assert not centre.any()
    assert half == pytest.approx(0.3)
    assert object_box(scene, {}, 0.6)[1] == 9.0
    poses[0, :, 3] = 0
    with pytest.raises(UserError, match="point of interest"):
        object_box(scene, {"capture_poses": poses}, 0.6)


def test_one_box_size_fits_every_scene(cut_out: DatasetFiles, tmp_path: Path):
    """The same scene in other units gives the same model: same samples, same numbers."""
    small = tmp_path / "small"
    small.mkdir()
    meta = json.loads(cut_out.transforms.read_text())
    for frame in meta["frames"]:
        (small / frame["file_path"]).symlink_to(cut_out.root / frame["file_path"])
        for row in frame["transform_matrix"][:3]:
            row[3] *= 0.25
    scene = json.loads((cut_out.root / "scene.json").read_text())
    scene = {**scene, "near": scene["near"] / 4, "far": scene["far"] / 4, "bounds": [[-0.25] * 3, [0.25] * 3]}
    (small / "scene.json").write_text(json.dumps(scene))
    (small / "transforms.json").write_text(json.dumps(meta))
    losses = []
    for name, dataset in (("big", cut_out), ("little", DatasetFiles(small))):
        trainer = _built(dataset, tmp_path / name)
        for step in range(3):
            trainer.iteration(step)
        _, made, _ = trainer.pipeline.get_train_loss_dict(3)
        losses.append({k: float(v.detach()) for k, v in made.items()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
