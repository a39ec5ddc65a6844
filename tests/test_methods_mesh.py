"""The stage mesh: from a trained run to coloured triangles in three formats, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from data.meshes import KINDS, Mesh, read_mesh, write_mesh
from data.poses import Sim3
from fieldbook.cli import main
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.status import OK, Status, read_status, write_status
from methods.runner.mesh import MeshOptions, keep_components, mesh_of
from methods.runner.surface import Surface

from .runner_ball import RADIUS, write_dataset

PLY = b"ply\nformat ascii 1.0\nelement vertex %s\nproperty float x\nproperty float y\nproperty float z\n"
RUN = "r-seed0-rep0"
SPEC: dict[str, Any] = {"method": "surface-ball", "preset": "paper", "overrides": {}, "seed": 0, "device": "cpu"}


def analytic(**changes: Any) -> Surface:
    """A ball of 0.4 about (0.1, 0, 0), coloured by its normals."""
    centre = torch.tensor([0.1, 0.0, 0.0])
    surface = Surface(
        torch.tensor([[-1.0] * 3, [1.0] * 3]),
        lambda x: (x - centre).norm(dim=-1) - 0.4,
        lambda x: torch.nn.functional.normalize(x - centre, dim=-1),
        lambda x, normal: (normal + 1) / 2,
    )
    return replace(surface, **changes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    files = write_dataset(tmp_path_factory.mktemp("dataset"), height=96)
    write_status(files.status(), Status(OK, "dataset"))
    return files


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    """The analytic method, as if a package had registered it."""
    from nerfstudio.configs.method_configs import all_methods

    from .surface_ball import NAME, specification

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(all_methods, NAME, specification.config)
        yield


def train(dataset: DatasetFiles, name: str, **changes: Any) -> RunFiles:
    run = dataset.run(SPEC["method"], name)
    assert main(["train", str(run.root), "--spec", json.dumps(SPEC | changes)]) == 0
    return run


@pytest.fixture(scope="module")
def meshed(dataset: DatasetFiles, registered: None) -> RunFiles:
    run = train(dataset, RUN)
    assert main(["render", str(run.root), "--spec", json.dumps(SPEC)]) == 0
    assert main(["mesh", str(run.root), "--resolution", "80"]) == 0
    return run


def test_a_mesh_has_the_models_normals_and_colours():
    mesh, facts = mesh_of(analytic(), MeshOptions(64))
    assert mesh.normals is not None
    assert mesh.colours is not None
    outward = mesh.vertices - [0.1, 0, 0]
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    np.testing.assert_allclose(mesh.normals, outward, atol=1e-5)
    np.testing.assert_allclose(mesh.colours, 255 * (outward + 1) / 2, atol=0.6)
    assert (facts["components"], facts["watertight"], facts["level"]) == (1, True, 0.0)
    assert max(facts["samples"]) == 64


@pytest.mark.parametrize("broken", ["sdf", "normal", "colour"])
def test_what_is_not_a_number_is_a_result(broken):
    nothing = {
        "sdf": lambda x: x[:, 0] * np.nan,
        "normal": lambda x: x * np.nan,
        "colour": lambda x, n: x * np.nan,
    }
    with pytest.raises(Infeasible, match=r"not (a finite number|numbers)"):
        mesh_of(analytic(**{broken: nothing[broken]}), MeshOptions(32))


def test_colours_beyond_white_are_white():
    mesh, _ = mesh_of(analytic(colour=lambda x, n: x * 0 + 3), MeshOptions(32))
    assert mesh.colours is not None
    assert (mesh.colours == 255).all()


@pytest.mark.parametrize(("share", "kept"), [(0.0, 3), (0.02, 3), (0.3, 2), (1.0, 1)])
def test_small_parts_are_dropped_by_their_share_of_the_largest(share, kept):
    balls = [trimesh.creation.icosphere(k) for k in (3, 1, 2)]  # 1280, 80 and 320 faces
    whole = trimesh.util.concatenate([b.apply_translation([3 * i, 0, 0]) for i, b in enumerate(balls)])
    if share == 0.3:
        share = 0.25
    vertices, faces, parts = keep_components(np.array(whole.vertices), np.array(whole.faces), share)
    left = trimesh.Trimesh(vertices, faces, process=False)
    assert len(left.split()) == kept == (parts > 0).sum()
    assert left.is_watertight
    assert len(parts) == 3
    assert len(faces) == parts[parts > 0].sum()
    np.testing.assert_allclose(left.bounds[0], [-1, -1, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_comes_back_with_its_triangles_and_colours(kind, tmp_path):
    mesh, _ = mesh_of(analytic(), MeshOptions(24))
    write_mesh(tmp_path / f"mesh{kind}", mesh)
    loaded: Any = trimesh.load(tmp_path / f"mesh{kind}", process=False)
    again = next(iter(loaded.geometry.values())) if isinstance(loaded, trimesh.Scene) else loaded
    np.testing.assert_allclose(again.vertices, mesh.vertices, atol=1e-6)
    np.testing.assert_array_equal(again.faces, mesh.faces)
    assert again.visual.kind == "vertex"
    np.testing.assert_array_equal(again.visual.vertex_colors[:, :3], mesh.colours)


def test_a_mesh_moves_with_its_normals():
    mesh, _ = mesh_of(analytic(), MeshOptions(24))
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    sim = Sim3(10.0, turn, np.array([1.0, 2, 3]))
    there = mesh.moved(sim)
    np.testing.assert_allclose(there.vertices, sim.points(mesh.vertices))
    assert there.normals is not None
    assert mesh.normals is not None
    np.testing.assert_allclose(there.normals, mesh.normals @ turn.T)
    back = there.moved(sim.inverse())
    np.testing.assert_allclose(back.vertices, mesh.vertices, atol=1e-12)


def test_the_stage_writes_a_mesh_that_maps_back_to_the_scene(meshed):
    info, status = read_json(meshed.mesh_info), read_status(meshed.status("mesh"))
    mesh = read_mesh(meshed.mesh).moved(Sim3.from_json(info["world_from_scene"]).inverse())
    assert np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS).max() < 1e-3
    assert status.numbers["vertices"] == info["vertices"] == len(mesh.vertices)
    assert (info["watertight"], info["components"], info["resolution"], info["step"]) == (True, 1, 80, 2)
    assert info["space"] == "scene", "the dataset was copied out, without its scene"
    for path in (meshed.mesh_glb, meshed.mesh_obj):
        assert path.stat().st_size > 0
    assert not list(meshed.root.glob(".*.tmp*"))


def test_a_mesh_that_is_there_is_kept_and_one_of_another_resolution_is_not(meshed, caplog):
    before = meshed.mesh.stat().st_mtime_ns
    assert main(["mesh", str(meshed.root), "--resolution", "80"]) == 0
    assert meshed.mesh.stat().st_mtime_ns == before
    assert main(["mesh", str(meshed.root), "--spec", '{"mesh": {"resolution": 20}}', "--resolution", "80"]) == 0
    assert meshed.mesh.stat().st_mtime_ns == before, "what is typed stands above the spec"
    meshed.mesh.write_bytes(b"ply\n")
    assert main(["mesh", str(meshed.root), "--resolution", "80"]) == 0
    assert len(read_mesh(meshed.mesh).faces) > 1000, "a damaged one is made again"


def test_no_true_surface_is_said_not_failed(meshed):
    assert main(["geometry", str(meshed.root)]) == 0
    status = read_status(meshed.status("geometry"))
    assert status.ok
    assert "no true surface" in status.numbers["geometry"]


def test_a_true_surface_of_the_users_is_compared_with(meshed, tmp_path):
    made = trimesh.creation.icosphere(5, radius=RADIUS + 0.05)
    truth = tmp_path / "truth.ply"
    write_mesh(truth, Mesh(np.array(made.vertices), np.array(made.faces)))
    surface = {"path": str(truth), "space": "scene", "region": {"sphere": [0, 0, 0, 1]}}
    spec = {"surface": surface, "geometry": {"points": 2000, "thresholds": [0.06, 0.04], "threshold_unit": "scene"}}
    assert main(["geometry", str(meshed.root), "--spec", json.dumps(spec)]) == 0
    numbers = read_json(meshed.geometry)
    assert numbers["geometry"] == "available"
    assert numbers["chamfer_scene"] == pytest.approx(0.05, abs=1e-3)
    assert "chamfer_world" not in numbers, "nobody knows this dataset's world"
    assert (numbers["fscore"], numbers["fscore:0.04"]) == (1.0, 0.0)
    assert numbers["normal_cosine"] == pytest.approx(1, abs=1e-2)
    assert numbers["settings"]["surface"] == surface | {"part": "all"}
    assert numbers["settings"]["geometry"]["distance"] == "surface", "defaults are recorded, too"


def test_surfaces_are_rendered_with_normals_and_in_a_row(meshed):
    from PIL import Image

    view = "frame_00004"
    normal = np.asarray(Image.open(meshed.test / f"{view}.normal.png")) / 255 * 2 - 1
    opaque = np.asarray(Image.open(meshed.test / f"{view}.opacity.png")) == 255
    np.testing.assert_allclose(np.linalg.norm(normal[opaque], axis=1), 1, atol=0.02)
    assert np.abs(normal[~opaque]).max() < 0.01
    pose = np.array(next(v for v in read_json(meshed.test / "renders.json")["views"] if v["name"] == view)["pose"])
    assert normal[opaque].mean(axis=0) @ pose[:3, 2] > 0.5, "what is seen faces the camera"
    foreground, background = (
        np.asarray(Image.open(meshed.test / f"{view}.{k}.png")) for k in ("foreground", "background")
    )
    picture = np.asarray(Image.open(meshed.test / f"{view}.png"))
    np.testing.assert_array_equal(picture, np.where(opaque[..., None], foreground, background))
    with Image.open(meshed.test / f"{view}.row.jpg") as row:
        assert row.size == (7 * (128 + 4) - 4, 96 + 18)


def test_no_surface_is_a_result_and_leaves_no_files(dataset, registered):
    run = train(dataset, "hidden-seed0-rep0", overrides={"pipeline.model.hidden": True})
    run.mesh.write_bytes(b"of an earlier training")
    assert main(["mesh", str(run.root), "--resolution", "32"]) == 0
    status = read_status(run.status("mesh"))
    assert (status.state, "outside everywhere" in status.reason) == ("infeasible", True)
    assert not any(path.exists() for path in (run.mesh, run.mesh_glb, run.mesh_obj, run.mesh_info))
    assert main(["geometry", str(run.root)]) == 0
    assert read_status(run.status("geometry")) == replace(status, spec={})


def refused(capsys: pytest.CaptureFixture[str], run: Path, *words: str) -> str:
    assert main(["mesh", str(run), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fieldbook: ")
    assert not (run / "mesh.status.json").exists()
    return error


def test_a_method_without_a_surface_is_refused(dataset, registered, capsys, monkeypatch):
    from .surface_ball import BallModel

    run = train(dataset, "flat-seed0-rep0")
    monkeypatch.delattr(BallModel, "surface")
    capsys.readouterr()
    assert "surface-ball offers no surface" in refused(capsys, run.root)


def test_runs_of_others_are_refused(tmp_path, capsys):
    foreign = tmp_path / "a" / "b" / "foreign"
    foreign.mkdir(parents=True)
    assert "'train' has to run first" in refused(capsys, foreign)
    (foreign / "config.yml").write_text("!!python/object/apply:os.system ['touch /tmp/never']")
    assert "Fieldbook did not train" in refused(capsys, foreign)
    external = tmp_path / "a" / "b" / "external"
    write_json(external / "run.json", {"spec": {"preset": "external", "method": "mine"}})
    assert "external method" in refused(capsys, external)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resolution", "2"], "mesh.resolution: 2 is less than the minimum of 16"),
        (["--min-component", "2"], "mesh.min_component: 2"),
        (["--spec", '{"mesh": {"resolutoin": 2}}'], "did you mean 'resolution'"),
        (["--spec", '{"mesh": 3}'], "mesh: 3 is not of type 'object'"),
    ],
)
def test_mistyped_options_are_refused(tmp_path, capsys, arguments, words):
    run = tmp_path / "a" / "b" / "run"
    run.mkdir(parents=True)
    assert words in refused(capsys, run, *arguments)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"solid",
        PLY % b"99999999" + b"end_header\n",
        PLY % b"1" + b"end_header\nnan 0 0\n",
        PLY % b"1" + b"element face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n3 0 1 2\n",
    ],
)
def test_a_file_that_is_no_surface_is_one_line(tmp_path, content):
    path = tmp_path / "x.ply"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.ply is not a PLY file of triangles or points"):
        read_mesh(path)
    with pytest.raises(UserError, match="no such surface"):
        read_mesh(tmp_path / "none.ply")
