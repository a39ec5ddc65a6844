"""A sphere, red before its middle and blue behind, as a dataset with alpha: the scene of the surface methods' tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.poses import look_at
from fieldbook.layout import DatasetFiles

RADIUS, DISTANCE, ANGLE = 0.35, 3.0, 0.5
CENTRE = np.array([0.12, -0.08, 0.1])  # neither where neus-hash starts, nor as large
FRONT, BACK = (0.9, 0.15, 0.1), (0.1, 0.2, 0.9)


def eyes(count: int, turn: float = 0.0) -> np.ndarray:
    """Camera places ``[count, 3]``, evenly over a sphere round the origin."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * np.pi * (3 - np.sqrt(5)) + turn
    ring = np.sqrt(1 - z**2)
    return DISTANCE * np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


def picture(pose: np.ndarray, size: int, alpha: bool = True) -> np.ndarray:
    """``[size, size, 4]`` (or over grey, ``[size, size, 3]``) uint8, each pixel the mean of 16 rays."""
    fine = 4 * size
    lens = fine / 2 / np.tan(ANGLE / 2)
    at = (np.arange(fine) + 0.5 - fine / 2) / lens
    rays = np.stack(np.broadcast_arrays(at[None], -at[:, None], -np.ones(())), -1) @ pose[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    eye = pose[:3, 3] - CENTRE
    along = rays @ eye
    root = along**2 - (eye @ eye - RADIUS**2)
    hit = root > 0
    point = eye + (-along - np.sqrt(np.maximum(root, 0)))[..., None] * rays
    colour = np.where(point[..., :1] > 0, FRONT, BACK) * hit[..., None]
    premultiplied = np.concatenate([colour, hit[..., None]], -1).reshape(size, 4, size, 4, 4).mean(axis=(1, 3))
    opacity = premultiplied[..., 3:]
    if not alpha:
        return np.round(255 * (premultiplied[..., :3] + (1 - opacity) * 0.5)).astype(np.uint8)
    straight = premultiplied[..., :3] / np.maximum(opacity, 1e-6)
    return np.round(255 * np.concatenate([straight, opacity], -1)).astype(np.uint8)


def write_sphere(root: Path, train: int = 12, test: int = 2, size: int = 32, alpha: bool = True) -> DatasetFiles:
    """The sphere's dataset, in units in which its box is ``[-1, 1]^3``."""
    lens = size / 2 / np.tan(ANGLE / 2)
    camera = {"fl_x": lens, "fl_y": lens, "cx": size / 2, "cy": size / 2, "w": size, "h": size}
    names: dict[str, list[str]] = {"train": [], "test": []}
    frames = []
    for split, places in (("train", eyes(train)), ("test", eyes(test, turn=1.0))):
        for k, eye in enumerate(places):
            up = np.array([0.0, 0.0, 1.0]) if abs(eye[2]) < 2.9 else np.array([0.0, 1.0, 0.0])
            pose = look_at(eye, np.zeros(3), up)
            name = f"{split}_{k:03d}.png"
            Image.fromarray(picture(pose, size, alpha)).save(root / name)
            names[split].append(name)
            frames.append({"file_path": name, "transform_matrix": pose.tolist(), **camera})
    scene = {"near": 1.2, "far": 4.8, "poi": [0, 0, 0], "bounds": [[-1.0] * 3, [1.0] * 3], "bounds_source": "box"}
    (root / "scene.json").write_text(json.dumps(scene))
    lists = {"train_filenames": names["train"], "val_filenames": names["test"], "test_filenames": names["test"]}
    meta = {"frames": frames, **lists, "scene_json": "scene.json", **({"background": "white"} if alpha else {})}
    (root / "transforms.json").write_text(json.dumps(meta))
    return DatasetFiles(root)
