"""neus-hash's mesh: the learnt sphere in the scene frame, its colours on the right sides, from files alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from data.meshes import read_mesh
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles

from .two_colour_sphere import BACK, FRONT, RADIUS, write_sphere

SPEC: dict[str, Any] = {"method": "neus-hash", "preset": "smoke", "seed": 1, "device": "cpu", "torch_threads": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFiles, DatasetFiles]:
    from methods.runner.train import train

    dataset = write_sphere(tmp_path_factory.mktemp("dataset"))
    run = RunFiles(tmp_path_factory.mktemp("run") / "study" / "neus-hash" / "run")
    train(run, dataset, {**SPEC, "overrides": {}})
    return run, dataset


@torch.no_grad()
def test_distances_normals_and_box_are_in_scene_units(trained):
    from methods.runner.render import LoadedModel

    model = LoadedModel(*trained, "cpu").model
    surface = model.surface()
    draw = torch.Generator().manual_seed(0)
    low, high = surface.aabb
    points = low + torch.rand(500, 3, generator=draw) * (high - low) * 0.8 + 0.1 * (high - low)
    step, normal = 1e-3, surface.normal(points)
    assert torch.allclose(normal.norm(dim=-1), torch.ones(500), atol=1e-4)
    along = (surface.sdf(points + step * normal) - surface.sdf(points - step * normal)) / (2 * step)
    assert along.median() == pytest.approx(1, abs=0.25), "a distance rises by a unit per unit along its normal"
    outside = points.norm(dim=-1) > 1.3 * RADIUS
    assert (surface.sdf(points)[outside] > 0).float().mean() > 0.95


def test_the_mesh_is_the_sphere_with_its_two_colours(trained):
    from methods.runner.mesh import make_mesh

    run, dataset = trained
    numbers = make_mesh(run, dataset, {"mesh": {"resolution": 64, "min_component": 0.1}, "device": "cpu"})
    mesh = read_mesh(run.mesh)
    assert numbers["space"] == "scene"
    distance = np.linalg.norm(mesh.vertices, axis=1)
    assert np.median(distance) == pytest.approx(RADIUS, rel=0.05)
    assert np.quantile(np.abs(distance - RADIUS), 0.9) < 0.1 * RADIUS
    loaded: Any = trimesh.load(run.mesh, process=False)
    assert loaded.volume > 0
    colours = loaded.visual.vertex_colors[:, :3] / 255
    for axis, colour in ((1, FRONT), (-1, BACK)):
        side = axis * mesh.vertices[:, 0] > 0.5 * RADIUS
        assert np.abs(np.median(colours[side], axis=0) - np.array(colour)).max() < 0.2
    assert read_json(run.mesh_info)["aabb_scene"][1][0] > RADIUS
