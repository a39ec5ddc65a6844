"""The tiny analytic scene of the runner's tests: a patterned ball before a gradient, seen from twelve sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from data.poses import Camera, look_at
from fieldbook.layout import DatasetFiles, RunFiles

RADIUS, POI = 0.4, np.zeros(3)
NEAR, FAR = 0.3, 2.5
SPEC: dict[str, Any] = {"method": "nerfacto", "preset": "smoke", "seed": 3, "device": "cpu", "torch_threads": 1}


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


def poses_around(count: int) -> list[np.ndarray]:
    turns = np.arange(count) * 2 * np.pi / count
    heights = 0.5 + 0.3 * np.sin(2 * turns)
    ring = np.sqrt(1 - heights**2)
    eyes = np.stack([ring * np.cos(turns), ring * np.sin(turns), heights], -1)
    return [look_at(eye, POI, np.array([0.0, 0.0, 1.0])) for eye in eyes]


def write_dataset(root: Path, height: int = 24) -> DatasetFiles:
    size = height / 24
    camera = Camera(round(32 * size), height, 28.0 * size, 28.0 * size, 16.0 * size, 12.0 * size)
    (root / "images").mkdir()
    frames = []
    for k, pose in enumerate(poses_around(12)):
        name = f"images/frame_{k:05d}.png"
        Image.fromarray((_picture(camera, pose) * 255).round().astype(np.uint8)).save(root / name)
        lens = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy, "w": camera.width}
        lens["h"] = height
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


def run_files(folder: Path, method: str = "nerfacto", name: str = "run") -> RunFiles:
    return RunFiles(folder / "study" / method / name)


def read_picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float64) / 255


def forbid_downloads(patch: pytest.MonkeyPatch) -> None:
    import torch.hub

    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError(f"download of {args[0]}")

    patch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    patch.setattr(torch.hub, "download_url_to_file", refuse)
    patch.setattr("urllib.request.urlopen", refuse)
