"""The stage geometry on the synthetic capture, whose surfaces are known in metres."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.meshes import Mesh, read_mesh, write_mesh
from data.poses import Sim3
from data.synthetic.capture import make_capture
from data.synthetic.truth import truth_masks
from data.world import world_from_scene
from eval.geometry_stage import compare_run
from fieldbook.cli import main
from fieldbook.config import scene_keys, study_keys
from fieldbook.errors import UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import DatasetFiles, Results, RunFiles, SceneFiles
from fieldbook.status import OK, Status, read_status, write_status

TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
COLMAP_FROM_TRUTH = Sim3(7.0, TURN, np.array([4.0, 0, 1]))
SCENE_FROM_COLMAP = Sim3(0.5, TURN, np.array([0.1, 0.2, 0.3]))
SCALE = 3.5  # scene units per metre
SHIFT = 0.001
ROUND_THE_CARD = {"sphere": [0.0, 0.0, 0.0, 0.1]}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneFiles:
    files = Results(tmp_path_factory.mktemp("results")).scene("card")
    make_capture(files, {"frames": 4, "size": [64, 48]})
    made = read_json(files.truth / "scene.json")
    poses = {f"{n}.png": COLMAP_FROM_TRUTH.poses(np.array(p)) for n, p in made["truth_from_camera"].items()}
    listed = {name: pose.tolist() for name, pose in poses.items()}
    write_json(files.capture, {"truth": True})
    write_json(files.reference_poses, {"camera": made["camera"], "poses": listed})
    write_json(files.frames_index, {"width": 64, "height": 48, "frames": [{"name": n, "index": 0} for n in listed]})
    write_json(files.scene, {"scene_from_colmap": SCENE_FROM_COLMAP.to_json()})
    files.masks("card").mkdir(parents=True)
    truth_masks(files, files.masks("card"))
    return files


@pytest.fixture(scope="module")
def dataset(scene: SceneFiles) -> DatasetFiles:
    files = Results(scene.root.parent.parent).study("s").dataset("card", "all", 0, "poses-x", "none")
    reference = read_json(scene.reference_poses)
    camera = reference["camera"]
    lens = {"fl_x": camera["fx"], "fl_y": camera["fy"], "cx": camera["cx"], "cy": camera["cy"], "w": 64, "h": 48}
    frames = [
        {"file_path": name, "transform_matrix": SCENE_FROM_COLMAP.poses(np.array(pose)).tolist(), **lens}
        for name, pose in reference["poses"].items()
    ]
    lists = {"train_filenames": [f["file_path"] for f in frames]}
    relative = Path(*[".."] * 5, "scenes", "card", "scene.json").as_posix()
    write_json(files.transforms, {"frames": frames, "scene_json": relative, **lists})
    return files


def write_run(dataset: DatasetFiles, scene: SceneFiles, name: str, change=lambda mesh: mesh) -> RunFiles:
    """A run whose mesh is the truth, or what ``change`` makes of it, in metres."""
    run = dataset.run("m", name)
    run.root.mkdir(parents=True, exist_ok=True)
    write_mesh(run.mesh, change(read_mesh(scene.truth_mesh)))
    cube = {"aabb_scene": [[-1.0] * 3, [1.0] * 3], "space": "world"}
    write_json(run.mesh_info, {"world_from_scene": world_from_scene(scene).to_json(), **cube})
    write_status(run.status("mesh"), Status(OK, "mesh"))
    return run


def raised(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices + np.array([0, 0, SHIFT]), mesh.faces)


def spec(surface: dict[str, Any] | None = None, **geometry: Any) -> dict[str, Any]:
    given = {"geometry": {"points": 3000} | geometry, "surface": surface}
    return scene_keys(study_keys(given, "geometry"), "surface")


@pytest.fixture(scope="module")
def run(dataset: DatasetFiles, scene: SceneFiles) -> RunFiles:
    return write_run(dataset, scene, "raised", raised)


def test_the_truth_itself_is_perfect(dataset, scene):
    numbers = compare_run(write_run(dataset, scene, "perfect"), dataset, spec())
    assert numbers["geometry"] == "available"
    assert numbers["chamfer_world"] < 1e-6
    assert numbers["fscore"] == numbers["fscore:0.005"] == 1.0
    assert numbers["normal_cosine"] > 0.99


def test_a_desk_raised_by_a_millimetre_is_a_millimetre_off_in_both_frames(run, dataset):
    numbers = compare_run(run, dataset, spec({"region": ROUND_THE_CARD}))
    # What lay under the card is now nearer to the card; most is a millimetre above where it was.
    assert numbers["accuracy_median_world"] == pytest.approx(SHIFT, rel=1e-3)
    assert SHIFT / 2 < numbers["chamfer_world"] < SHIFT
    for name in ("chamfer", "accuracy", "completeness", "hausdorff95"):
        assert numbers[f"{name}_scene"] == pytest.approx(SCALE * numbers[f"{name}_world"], rel=1e-6)
    kept = read_json(run.geometry)["truth"]
    assert kept["in_region"] == [3000, 3000]
    assert kept["diagonal"] == pytest.approx(SCALE * 0.28, rel=0.1), "a disc of 0.1 m round the card"


@pytest.mark.parametrize("unit", ["scene", "world", "diagonal"])
def test_thresholds_may_be_given_in_any_unit(run, dataset, unit):
    surface = {"region": ROUND_THE_CARD}
    diagonal = 1.0
    if unit == "diagonal":
        compare_run(run, dataset, spec(surface))
        diagonal = read_json(run.geometry)["truth"]["diagonal"]
    size = {"scene": SCALE * SHIFT, "world": SHIFT, "diagonal": SCALE * SHIFT / diagonal}[unit]
    numbers = compare_run(run, dataset, spec(surface, thresholds=[1.05 * size, 0.5 * size], threshold_unit=unit))
    assert numbers["fscore"] > 0.99
    assert numbers[f"fscore:{0.5 * size:g}"] < 0.3


def test_the_region_may_be_given_in_the_frame_of_the_poses(run, dataset):
    centre = COLMAP_FROM_TRUTH.points(np.zeros(3)).tolist()
    here, there = (
        compare_run(run, dataset, spec(s))
        for s in ({"region": ROUND_THE_CARD}, {"space": "given", "region": {"sphere": [*centre, 0.7]}})
    )
    assert there["chamfer_world"] == pytest.approx(here["chamfer_world"], rel=0.02)


def test_masks_leave_only_what_they_show(run, dataset, scene):
    surface = {"region": {"sphere": [0, 0, 0, 0.3]}}
    compare_run(run, dataset, spec(surface, mask="card", points=20_000))
    kept = read_json(run.geometry)["truth"]
    assert 0 < kept["in_masks"][0] < 0.2 * kept["in_region"][0]
    compare_run(run, dataset, spec(surface, mask="card", mask_dilate=8, points=20_000))
    assert read_json(run.geometry)["truth"]["in_masks"][0] > 1.2 * kept["in_masks"][0]
    with pytest.raises(UserError, match=r"frame_00000\.png is missing; make the masks"):
        compare_run(run, dataset, spec(surface, mask="none_such"))


def test_what_no_training_camera_sees_is_not_missed(dataset, scene):
    """A prediction without the desk's underside and the things' backs is complete as far as anybody saw."""

    def upper(mesh: Mesh) -> Mesh:
        return Mesh(mesh.vertices, mesh.faces[mesh.vertices[mesh.faces][:, :, 2].max(axis=1) > -0.01])

    half, box = write_run(dataset, scene, "upper", upper), {"region": {"box": [[-0.7, -0.7, -0.8], [0.7, 0.7, 0.3]]}}
    everything = compare_run(half, dataset, spec(box))
    seen = compare_run(half, dataset, spec(box, visible=True))
    assert everything["completeness_world"] > 0.01
    assert seen["completeness_world"] < 0.1 * everything["completeness_world"]
    kept = read_json(half.geometry)["truth"]
    assert kept["occlusion"] is True
    assert 0 < kept["visible"] < 3000


def test_nothing_in_the_region_is_said(run, dataset):
    numbers = compare_run(run, dataset, spec({"region": {"sphere": [50, 50, 50, 1]}}))
    assert "nothing in the region" in numbers["geometry"]
    assert numbers["chamfer_world"] is None
    assert "fscore" not in numbers


def test_the_command_keeps_to_the_stages_protocol(run, dataset, scene):
    assert main(["geometry", str(run.root), "--spec", json.dumps({"geometry": {"points": 200}})]) == 0
    status = read_status(run.status("geometry"))
    assert status.ok
    assert status.numbers == {k: v for k, v in read_json(run.geometry).items() if k in status.numbers}
    again = compare_run(run, dataset, spec(points=200))
    assert again == status.numbers, "the same seed, the same points, the same numbers"


def test_without_a_spec_a_run_is_compared_as_at_the_last_time(run, capsys):
    assert main(["geometry", str(run.root), "--spec", json.dumps({"geometry": {"points": 150, "seed": 7}})]) == 0
    before = read_json(run.geometry)
    capsys.readouterr()
    assert main(["geometry", str(run.root)]) == 0
    assert read_json(run.geometry) == before
    assert str(run.geometry) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"surface": {"path": "none.ply"}}, "no such surface: none.ply"),
        ({"surface": {"region": {"sphere": [0, 0, 0, -1]}}}, "is empty"),
        ({"surface": {"region": {"box": [[0, 0, 0], [1, 1, 0]]}}}, "is empty"),
        ({"surface": {"region": "moon"}}, "Where surfaces are compared"),
        ({"surface": {"region": {"box": [[0] * 3, [1] * 3], "rotation": [[1] * 3] * 3}}}, "is not a rotation"),
        ({"geometry": {"thresholds": []}}, "geometry.thresholds"),
        ({"geometry": {"max_distance": 0}}, "DTU"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, keys, words):
    run.status("geometry").unlink(missing_ok=True)
    assert main(["geometry", str(run.root), "--spec", json.dumps(keys)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert words in error
    assert not run.status("geometry").exists()
