"""Near and far: what the methods sample of the object, in training and from novel views."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.poses import Camera, look_at
from fieldbook.files import read_json, write_json
from fieldbook.layout import DatasetFiles, RunFiles

from .runner_ball import FAR, NEAR, POI, RADIUS, SPEC, forbid_downloads, poses_around, run_files, write_dataset

BUILT_INS = ("nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "instant-ngp", "instant-ngp-bounded", "depth-nerfacto")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


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

    forbid_downloads(monkeypatch)
    monkeypatch.setattr(setup, "check_needs", lambda *_: None)
    config = setup.build_config(run_files(tmp_path, method), dataset, {**SPEC, "method": method})
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

    origins = torch.from_numpy(np.stack(poses_around(4))[:, :3, 3]).float()
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
    from methods.runner.checkpoint import save_checkpoint, write_manifest
    from methods.runner.offline import quiet, without_downloads
    from methods.runner.setup import build_config, plain_config

    small = {"pipeline.model.log2_hashmap_size": 10, "pipeline.model.grid_resolution": 8}
    overrides = small if method == "instant-ngp" else {}
    spec = {**SPEC, "method": method, "overrides": overrides}
    config = build_config(run, dataset, spec)
    with without_downloads(), quiet():
        pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    run.root.mkdir(parents=True)
    write_json(run.run, {"spec": spec, "config": plain_config(config)})
    save_checkpoint(run, 0, {"pipeline": pipeline.state_dict()}, None)
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
    with quiet():
        model = render.LoadedModel(_untrained(run_files(tmp_path, method), dataset, method), dataset, "cpu")
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

    def planes_at(pose: np.ndarray) -> tuple[float, float]:
        with pytest.raises(_SeenError):
            model.picture(View("v", Camera(1, 1, 400.0, 400.0, 0.5, 0.5), pose))
        return seen[-1]

    def planes(distance: float) -> tuple[float, float]:
        return planes_at(look_at(np.array([distance, 0, 0]), POI, np.array([0.0, 0.0, 1.0])))

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
    for frame in read_json(dataset.transforms)["frames"]:  # held out or not: their own distances gave near and far
        assert planes_at(np.array(frame["transform_matrix"])) == pytest.approx((NEAR, FAR))


def test_the_planes_of_the_captures_own_cameras_stay_however_far_they_stood():
    import torch

    from methods.runner.planes import Planes

    collider = SimpleNamespace(near_plane=NEAR, far_plane=FAR)
    poses = torch.from_numpy(2 * np.stack(poses_around(3))[:, :3]).float()  # at distance 2
    planes = Planes(SimpleNamespace(collider=collider, config=None), poses[1:])
    seen = []
    for pose in poses:
        with planes.follow(pose[None]):
            seen.append((collider.near_plane, collider.far_plane))
    assert seen == [(NEAR, FAR + 1), (NEAR, FAR), (NEAR, FAR)]
    assert (collider.near_plane, collider.far_plane) == (NEAR, FAR)
