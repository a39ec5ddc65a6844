"""Every JSON file and table that a stage reads, damaged: one line that names it, and nothing written."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fieldbook.files import remove

from .safety_harness import read_or_refused, refused
from .safety_project import Project

# Which stage reads which file of the project.
FILES = {
    "capture/transforms_train.json": "capture",
    "capture/transforms_test.json": "frames",
    "results/scenes/card/capture.json": "path",
    "results/scenes/card/raw.json": "reference",
    "results/scenes/card/frames.json": "images",
    "results/scenes/card/reference/poses.json": "scene_frame",
    "results/scenes/card/scene.json": "dataset",
    "results/scenes/card/splits.json": "poses",
    "results/scenes/card/nall-d0/*/poses.json": "dataset",
    "results/scenes/card/frames.status.json": "status",
    "results/s/card/nall-d0/*/*/transforms.json": "views",
    "results/s/card/nall-d0/*/*/m/*/test/renders.json": "score",
    "results/s/card/nall-d0/*/*/m/*/mesh.json": "geometry",
    "results/s/card/nall-d0/*/*/m/*/train.ledger.json": "tables",
    "results/s/card/nall-d0/*/*/m/*/checkpoint.json": "tables",
    "results/s/card/nall-d0/*/*/m/*/run.json": "tables",
    "results/s/card/paths/ring/camera_path.json": "camera path",
    "results/s/card/paths/ring/trajectory.json": "trajectory",
    "results/s/study.json": "tables",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project")).make()


@pytest.fixture
def damaged(project: Project) -> Iterator[Callable[[str], Path]]:
    """The file of a pattern, which is what it was when the test has ended."""
    kept: dict[Path, bytes] = {}

    def give(pattern: str) -> Path:
        (path,) = project.root.glob(pattern)
        kept[path] = path.read_bytes()
        return path

    yield give
    for path, content in kept.items():
        remove(path)
        path.write_bytes(content)


CONTENTS: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "cut in half": lambda text: text[: len(text) // 2],
    "last byte gone": lambda text: text.rstrip()[:-1],
    "something after it": lambda text: text + "{}",
    "null": lambda text: "null",
    "a list": lambda text: f"[{text}]",
    "a text": lambda text: json.dumps(text),
    "nan": lambda text: '{"x": NaN, ' + text[1:],
    "infinity": lambda text: '{"x": -Infinity, ' + text[1:],
    "beyond a float": lambda text: '{"x": 1e999, ' + text[1:],
    "5000 digits": lambda text: '{"x": ' + "9" * 5000 + ", " + text[1:],
    "nested 100000 deep": lambda text: '{"x": ' + "[" * 100_000 + "]" * 100_000 + ", " + text[1:],
    "random bytes": lambda text: random.Random(0).randbytes(len(text)),
    "utf-16": lambda text: text.encode("utf-16"),
    "latin-1": lambda text: ('{"x": "\xe9", ' + text[1:]).encode("latin-1"),
}
PLACES: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
MAY_BE_MISSING = ("checkpoint.json", "run.json", "train.ledger.json")  # to the tables, a run that is not there yet


@pytest.mark.parametrize("damage", CONTENTS)
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_named_and_nothing_is_written(project: Project, damaged, pattern: str, damage: str):
    path = damaged(pattern)
    content = CONTENTS[damage](path.read_text(encoding="utf-8"))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert path.name in refused(project.stages[FILES[pattern]], project.root)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("pattern", FILES)
def test_what_is_no_file_is_named_and_not_waited_for(project: Project, damaged, pattern: str, place: str):
    path = damaged(pattern)
    path.unlink()
    PLACES[place](path)
    if not path.exists() and path.name in MAY_BE_MISSING:
        assert read_or_refused(project.stages[FILES[pattern]])
    else:
        assert path.name in refused(project.stages[FILES[pattern]], project.root)


MATRIX = "transform_matrix"
EYE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
NO_POSES = {
    "scaled": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]],
    "mirrored": [[-1, 0, 0, 0], *EYE[1:]],
    "zeros": [[0] * 4] * 4,
    "three rows": EYE[:3],
    "ragged": [[1, 0, 0], *EYE[1:]],
    "flat": [v for row in EYE for v in row],
    "texts": [["1", 0, 0, 0], *EYE[1:]],
    "booleans": [[True, False, False, False], *EYE[1:]],
    "nulls": [[None] * 4, *EYE[1:]],
    "last row": [*EYE[:3], [0, 0, 1, 1]],
    "beyond all distances": [[1, 0, 0, 1e300], *EYE[1:]],
    "integer beyond a float": [[1, 0, 0, 10**400], *EYE[1:]],
    "mapping": {},
    "text": "identity",
}
OUTSIDE = ["/etc/passwd", "../../../../../../../etc/passwd", "../../../../../../x.png", "", "a\0b", 5, None, ["a"]]
NO_NAMES = ["../x.png", "/tmp/x.png", "a/b.png", ".hidden.png", "..", "", "a\n.png", "x" * 300, 7, None]
NO_SIZES = [0, -3, 1 << 30, 2.5, "8", True, None]
NO_LENGTHS = [0, -1.0, "9", None, 1e300, [9]]

CAPTURE, DATASET = "capture/transforms_train.json", "results/s/card/nall-d0/*/*/transforms.json"
FRAMES, RAW = "results/scenes/card/frames.json", "results/scenes/card/raw.json"
REFERENCE, SCENE = "results/scenes/card/reference/poses.json", "results/scenes/card/scene.json"
SPLITS, RENDERS = "results/scenes/card/splits.json", "results/s/card/nall-d0/*/*/m/*/test/renders.json"
PATH, TRAJECTORY = "results/s/card/paths/ring/camera_path.json", "results/s/card/paths/ring/trajectory.json"
STUDY, STATUS = "results/s/study.json", "results/scenes/card/frames.status.json"
WORLD = {"scale": 1.0, "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 1]], "translation": [0, 0, 0]}
LENS = {"model": "PINHOLE", "width": 8, "height": 6, "params": [9.0, 9.0, 4.0, 3.0]}
# File, where in it, and values that cannot stand there.
VALUES: list[tuple[str, str, list[Any]]] = [
    (CAPTURE, "camera_angle_x", [0, -0.5, 3.2, 1e-300, "0.8", None, True]),
    (CAPTURE, "frames", [[], {}, None, "all"]),
    (CAPTURE, "frames.0", [None, [], "r_0", {}]),
    (CAPTURE, f"frames.0.{MATRIX}", [*NO_POSES.values()]),
    (CAPTURE, "frames.0.file_path", [*OUTSIDE, "./train/none", "./train/r_2"]),
    (DATASET, "frames", [None, {}, "all", [None]]),
    (DATASET, f"frames.0.{MATRIX}", [*NO_POSES.values()]),
    (DATASET, "frames.0.fl_x", NO_LENGTHS),
    (DATASET, "frames.0.w", NO_SIZES),
    (DATASET, "frames.0.cx", ["4", None, [], 1e300]),
    (DATASET, "frames.0.file_path", OUTSIDE),
    (DATASET, "frames.0.mask_path", OUTSIDE),
    (DATASET, "ply_file_path", OUTSIDE),
    (DATASET, "scene_json", OUTSIDE),
    (DATASET, "train_filenames", [[], "all", {}, [1]]),
    (DATASET, "test_filenames", ["all", {}, [1], ["none.png"]]),
    (DATASET, "background", [["white"], 5]),
    (RAW, "frames.0.name", NO_NAMES),
    (RAW, f"frames.0.{MATRIX}", [*NO_POSES.values()]),
    (RAW, "camera.fx", NO_LENGTHS),
    (RAW, "box", [None, [], [[0, 0, 0]], [[0, 0], [1, 1]], [["a", 0, 0], [1, 1, 1]]]),
    (RAW, "world", [None, [], {}, {"scale": 1.0}, {**WORLD, "scale": 0.0}, {**WORLD, "rotation": [[2, 0, 0]] * 3}]),
    (RAW, "frames.0.lens", [None, [], {}, {**LENS, "params": []}, {**LENS, "width": 0}, {**LENS, "params": ["8"]}]),
    (FRAMES, "frames.0.name", [*NO_NAMES, "frame_00001.png", "none.png"]),
    (FRAMES, "frames", [None, {}, "all", [5]]),
    (FRAMES, "width", NO_SIZES),
    (REFERENCE, "poses", [[], "all", {"../x.png": EYE}, {"a/b": EYE}, {"x.png": NO_POSES["scaled"]}]),
    (REFERENCE, "camera", [None, [], {}, {"width": 8}, {"fx": 1, "pinhole": True}]),
    (REFERENCE, "camera.width", NO_SIZES),
    (REFERENCE, "space", [5, ["capture"]]),
    (SCENE, "scene_from_colmap", [None, {}, [], {"scale": 1}]),
    (SCENE, "scene_from_colmap.scale", NO_LENGTHS),
    (SCENE, "scene_from_colmap.rotation", [[[2, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0], [0, 1]], None, "x"]),
    (SCENE, "scene_from_colmap.translation", [[0, 0], ["a", 0, 0], 5]),
    (SCENE, "camera", [None, {}, {"width": 8}]),
    (SPLITS, "test", ["all", [1], ["../x.png"]]),
    (SPLITS, "pool", [None, [None], ["../x.png"]]),
    (SPLITS, "nested", ["yes", 1]),
    (RENDERS, "views", [None, {}, [5], [{}]]),
    (RENDERS, "views.0.name", [*NO_NAMES, "none"]),
    (RENDERS, "views.0.pose", [*NO_POSES.values()]),
    (RENDERS, "views.0.rays", [-1, 1.5, "48", None]),
    (RENDERS, "step", ["3", -1, 2.5]),
    (PATH, "camera_path", [[], None, {}, [5], [{}]]),
    (PATH, "camera_path.0.camera_to_world", [[1] * 16, EYE[:3], *NO_POSES["scaled"], "x", None]),
    (PATH, "camera_path.0.fov", [0, 180, -30, 270, "50", None]),
    (PATH, "render_width", NO_SIZES),
    (PATH, "seconds", NO_LENGTHS),
    (PATH, "camera_type", ["fisheye", 5, None, ["perspective"]]),
    (TRAJECTORY, "frames", [[], None, [5], [{}]]),
    (TRAJECTORY, "frames.0.pose", [[1] * 12, [1] * 11, EYE, None]),
    (TRAJECTORY, "frames.0.intrinsics", [[9, 9, 4], [-9, 9, 4, 3], [0, 9, 4, 3], "x", ["9", 9, 4, 3]]),
    (TRAJECTORY, "image_size", [[8], [8, 0], 8, [8, 6, 3]]),
    (TRAJECTORY, "fps", NO_LENGTHS),
    (TRAJECTORY, "format", ["x", None, 1]),
    (STUDY, "runs", [None, {}, [5], [{}]]),
    (STUDY, "runs.0.dir", ["../../../etc", "/etc", "", 5, None]),
    (STUDY, "runs.0.poses_dir", ["../..", "/", None]),
    (STUDY, "runs.0.scene", ["../x", "", 5]),
    (STATUS, "state", ["done", "", None, 5]),
    (STATUS, "numbers", [[], "x", None]),
    (STATUS, "extra", [1]),
]


def replace(document: Any, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        document = document[int(parent) if isinstance(document, list) else parent]
    document[int(last) if isinstance(document, list) else last] = value


@pytest.mark.parametrize(("file", "key", "values"), VALUES, ids=[f"{Path(f).stem}-{k}" for f, k, _ in VALUES])
def test_a_value_that_cannot_stand_there_is_refused(project: Project, damaged, file: str, key: str, values: list[Any]):
    path = damaged(file)
    text = path.read_text(encoding="utf-8")
    for value in values:
        document = json.loads(text)
        replace(document, key, value)
        path.write_text(json.dumps(document), encoding="utf-8")
        refused(project.stages[FILES[file]], project.root, note=f"{key}: {value!r}")


KEYS = [(CAPTURE, "frames"), (DATASET, "frames"), (DATASET, "test_filenames"), (RAW, "frames"), (FRAMES, "width")]
KEYS += [(REFERENCE, "poses"), (REFERENCE, "camera"), (SCENE, "camera"), (SPLITS, "pool"), (SPLITS, "nested")]
KEYS += [(RENDERS, "views"), (RENDERS, "step"), (PATH, "seconds"), (TRAJECTORY, "fps"), (STUDY, "runs")]
KEYS += [(STATUS, "state"), ("results/scenes/card/capture.json", "truth"), (SCENE, "scene_from_colmap")]


@pytest.mark.parametrize(("file", "key"), KEYS)
def test_a_missing_key_is_named(project: Project, damaged, file: str, key: str):
    path = damaged(file)
    document = json.loads(path.read_text(encoding="utf-8"))
    del document[key]
    path.write_text(json.dumps(document), encoding="utf-8")
    refused(project.stages[FILES[file]], project.root)


TABLES = {
    "random bytes": random.Random(1).randbytes(300),
    "a cell too many": b"split,view,step,has_truth\ntest,a,3,1,9\n",
    "a cell too few": b"split,view,step,has_truth\ntest,a\n",
    "no such column": b"split,view\ntest,a\n",
    "text for a number": b"split,view,step,has_truth\ntest,a,many,1\n",
    "open quotes": b'split,view,step,has_truth\n"test,a,3,1\n',
    "cell of a megabyte": b"split,view,step,has_truth\ntest," + b"a" * (1 << 20) + b",3,1\n",
}


@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_a_damaged_table_is_refused(project: Project, damaged, content: bytes):
    damaged("results/s/card/nall-d0/*/*/m/*/images.csv").write_bytes(content)
    refused(project.stages["tables"], project.root)


def test_a_key_that_nobody_knows_is_left_alone(project: Project, damaged):
    for pattern in FILES:
        path = damaged(pattern)
        document = json.loads(path.read_text(encoding="utf-8"))
        if path.name != "frames.status.json":
            path.write_text(json.dumps(document | {"of a later version": [1, {"x": None}]}), encoding="utf-8")
    for stage in project.stages.values():
        stage()
