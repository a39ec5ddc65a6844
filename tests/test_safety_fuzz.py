"""Seeded random damage to every format: a reader takes the input, or refuses it in one line; it does nothing else."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
import yaml

from data.colmap_capture import read_colmap
from data.colmap_model import read_given_model, read_model
from data.meshes import Mesh, read_mesh, write_mesh
from data.neus import read_neus
from data.points import read_points, write_points
from fieldbook.scenes import load_study

from .posed_folders import write_colmap_folder, write_neus_folder
from .safety_harness import contents, read_or_refused
from .safety_project import Project
from .test_safety_binaries import tiny_model
from .test_safety_documents import FILES

FEW, MANY = 1, pytest.param(30, marks=pytest.mark.slow)  # times the damages of a default run
ODD: list[Any] = [0, -1, 1, 2**31, 2**63, 10**30, 0.5, -1e-300, 1e308, True, None, "", "x", "../x", "\0", [], [[]], {}]
ODD += [{"x": 1}, [1, 2, 3], [0] * 16, "é" * 300, "/etc/passwd", "1e3", -0.0]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled, cut off, or overwritten with what numbers look like."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randrange(len(out) or 1), rng.choice((1, 1, 4, 8, 40))
        match rng.randrange(6):
            case 0 if out:
                out[at % len(out)] ^= 1 << rng.randrange(8)
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = out[at : at + size]
            case 3:
                del out[at:]
            case 4:
                out[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"9")) * size
            case _:
                out[at : at + size] = rng.randbytes(size)
    return bytes(out)


def changed(document: Any, rng: random.Random) -> Any:
    """A copy with one value replaced, removed or moved, anywhere in it."""
    document = copy.deepcopy(document)
    node = document
    while True:
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not places:
            return document
        place = rng.choice(places)
        if isinstance(node[place], dict | list) and node[place] and rng.random() < 0.8:
            node = node[place]
            continue
        if rng.random() < 0.2:
            del node[place]
        else:
            node[place] = rng.choice([*ODD, node[rng.choice(places)]])
        return document


@pytest.mark.parametrize("times", [FEW, MANY])
def test_documents(tmp_path: Path, times: int):
    project, rng = Project(tmp_path / "project").make(), random.Random(times)
    originals = {pattern: next(project.root.glob(pattern)) for pattern in FILES}
    whole = {pattern: path.read_bytes() for pattern, path in originals.items()}
    taken = []
    for pattern, stage in FILES.items():
        path = originals[pattern]
        for round_ in range(14 * times):
            value = changed(json.loads(whole[pattern]), rng)
            path.write_bytes(damaged(whole[pattern], rng) if round_ % 3 == 0 else json.dumps(value).encode())
            before = contents(project.root)
            taken.append(read_or_refused(project.stages[stage], path.read_bytes()))
            assert taken[-1] or contents(project.root) == before
        for name, content in whole.items():  # a stage that took it has written others anew
            originals[name].write_bytes(content)
    assert {True, False} == set(taken)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path, times: int):
    monkeypatch.chdir(tmp_path)
    rng, path = random.Random(times), tmp_path / "config.yaml"
    text = (repository / "config.yaml").read_bytes()
    short = yaml.safe_load(text) | {"methods": [{"method": "nerfacto"}]}
    taken = []
    for round_ in range(40 * times):
        value = changed(short, rng)
        path.write_bytes(damaged(text, rng) if round_ % 4 == 0 else json.dumps(value).encode())
        taken.append(read_or_refused(lambda: load_study(path), path.read_bytes()))
        assert [p.name for p in tmp_path.iterdir()] == ["config.yaml"]
    assert {True, False} == set(taken)


def all_read(read: Callable[[Path], Any], path: Path, whole: bytes, count: int, seed: int) -> list[bool]:
    rng, taken = random.Random(seed), []
    for _ in range(count):
        path.write_bytes(damaged(whole, rng))
        taken.append(read_or_refused(lambda: read(path), path.read_bytes()))
    path.write_bytes(whole)
    return taken


@pytest.mark.parametrize("times", [FEW, MANY])
def test_points(tmp_path: Path, times: int):
    path, points = tmp_path / "points.ply", np.random.default_rng(0).normal(size=(9, 3))
    write_points(path, points, np.full((9, 3), 7, np.uint8))
    binary = path.read_bytes()
    rows = "\n".join(f"{x} {y} {z} 1 2 3 4" for x, y, z in points)
    header, _, _ = binary.partition(b"end_header\n")
    text = header.replace(b"binary_little_endian", b"ascii") + b"end_header\n" + rows.encode()
    for whole in (binary, text):
        assert {True, False} == set(all_read(read_points, path, whole, 150 * times, times))


@pytest.mark.parametrize("times", [FEW, MANY])
def test_colmap_models(tmp_path: Path, times: int):
    tiny_model().write(str(tmp_path))
    taken = []
    for name in ("cameras.bin", "images.bin", "points3D.bin", "rigs.bin", "frames.bin"):
        path = tmp_path / name
        taken += all_read(
            lambda path: list(read_model(path.parent).points3D), path, path.read_bytes(), 60 * times, times
        )
    assert {True, False} == set(taken)


@pytest.mark.parametrize("times", [FEW, MANY])
@pytest.mark.parametrize("text", [False, True])
def test_colmap_captures(tmp_path: Path, times: int, text: bool):
    folder = write_colmap_folder(tmp_path / "ball", n=3, points=30, text=text)
    read = lambda path: (read_colmap(folder), read_given_model(path.parent))  # noqa: E731
    taken = []
    for name in ("cameras", "images", "points3D"):
        path = folder / "sparse" / "0" / f"{name}.{'txt' if text else 'bin'}"
        taken += all_read(read, path, path.read_bytes(), 60 * times, times)
    assert {True, False} == set(taken)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_neus_captures(tmp_path: Path, times: int):
    path = write_neus_folder(tmp_path / "ball", n=3) / "cameras_sphere.npz"
    assert {True, False} == set(all_read(lambda p: read_neus(p.parent), path, path.read_bytes(), 150 * times, times))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_videos(tmp_path: Path, seed: int):
    from data.video import extract, ingest
    from fieldbook.layout import SceneFiles

    from .test_safety_media import film, spec

    rng, path = random.Random(seed), tmp_path / f"film.{('mp4', 'mkv', 'avi', 'ts')[seed % 4]}"
    whole = film(path).read_bytes()
    for _ in range(10):
        path.write_bytes(damaged(whole, rng))
        files = SceneFiles(tmp_path / "scene")
        files.root.mkdir()
        read_or_refused(lambda: [stage(files, spec("video", path)) for stage in (ingest, extract)], path.read_bytes())  # noqa: B023
        shutil.rmtree(files.root)


@pytest.mark.parametrize("times", [FEW, MANY])
def test_meshes(tmp_path: Path, times: int):
    path, corners = tmp_path / "mesh.ply", np.random.default_rng(0).normal(size=(9, 3))
    faces = np.arange(9).reshape(3, 3)
    write_mesh(path, Mesh(corners, faces, None, np.full((9, 3), 7, np.uint8)))
    binary = path.read_bytes()
    text = trimesh.Trimesh(corners, faces, process=False).export(file_type="ply", encoding="ascii")
    for whole in (binary, text if isinstance(text, bytes) else text.encode()):
        assert {True, False} == set(all_read(read_mesh, path, whole, 150 * times, times))
