"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.poses import look_at

REPOSITORY = Path(__file__).parent.parent
os.environ.pop("MLFLOW_TRACKING_URI", None)  # no test logs to whoever runs it


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def captures() -> Path:
    """Folder with real captures, beside the checkout or named by FIELDBOOK_CAPTURES."""
    folder = Path(os.environ.get("FIELDBOOK_CAPTURES", REPOSITORY.parent / "shared" / "captures"))
    if not folder.is_dir():
        pytest.skip(f"no real captures at {folder}; set FIELDBOOK_CAPTURES to a folder with fox.mp4")
    return folder


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """A device with compiled kernels: without them a test of a kernel would compare its twin with itself."""
    from methods.kernels.library import load

    load(request.param)
    return request.param


@pytest.fixture(scope="session")
def compiled_kernels() -> None:
    """Without a compiler the tests that take no device would compare the twins with themselves."""
    from methods.kernels.library import load

    load("cpu")


@pytest.fixture
def with_threads():
    """Call a function with a number of torch threads: (number, function) -> its result."""
    import torch

    before = torch.get_num_threads()

    def call(number: int, function):
        torch.set_num_threads(number)
        return function()

    yield call
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_scene():
    """Run a scene's stages up to its frame, as the workflow would: (results folder, name, scene keys) -> files."""
    from fieldbook.cli import main
    from fieldbook.config import validate
    from fieldbook.layout import Results, SceneFiles
    from fieldbook.scenes import stage_spec

    def make(root: Path, name: str, keys: dict) -> SceneFiles:
        study = {"study": "s", "scenes": {name: keys}, "counts": ["all"], "methods": [{"method": "nerfacto"}]}
        scene, files = validate(study)["scenes"][name], Results(root).scene(name)
        for stage in ("capture", "frames", "reference", "scene_frame"):
            spec = json.dumps(stage_spec(scene, stage))
            assert main([stage.replace("_", "-"), str(files.root), "--spec", spec]) == 0
        return files

    return make


@pytest.fixture(scope="session")
def write_blender():
    """Write a tiny folder in Blender format: a ball of radius 1 with a half transparent rim, 4 from the cameras."""

    def write(folder: Path, counts: dict | None = None, size: int = 16, mode: str = "RGBA") -> Path:
        for split, count in (counts or {"train": 3, "test": 2, "val": 1}).items():
            (folder / split).mkdir(parents=True)
            poses = [_hemisphere_pose(k, split) for k in range(count)]
            frames = []
            for k, pose in enumerate(poses):
                Image.fromarray(_ball(pose, size)).convert(mode).save(folder / split / f"r_{k}.png")
                frames.append({"file_path": f"./{split}/r_{k}", "transform_matrix": pose.tolist()})
            document = {"camera_angle_x": BLENDER_ANGLE, "frames": frames}
            (folder / f"transforms_{split}.json").write_text(json.dumps(document))
        return folder

    return write


BLENDER_ANGLE = 0.7


def _hemisphere_pose(index: int, split: str) -> np.ndarray:
    """Evenly turned cameras of the upper hemisphere, 4 from the origin; the splits' do not coincide."""
    azimuth, height = 2.4 * index + len(split), 0.3 + 0.15 * (index % 4)
    level = np.sqrt(1 - height**2)
    eye = 4 * np.array([level * np.cos(azimuth), level * np.sin(azimuth), height])
    return look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))


def _ball(pose: np.ndarray, size: int) -> np.ndarray:
    """uint8 ``[size, size, 4]``, straight alpha: opaque within radius 1, half to 1.2, else nothing, hidden black."""
    focal = size / 2 / np.tan(BLENDER_ANGLE / 2)
    x = (np.arange(size) + 0.5 - size / 2) / focal
    rays = np.stack(np.broadcast_arrays(x[None], -x[:, None], -np.ones(())), -1) @ pose[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    nearest = pose[:3, 3] - (rays @ pose[:3, 3])[..., None] * rays  # of each ray to the ball's centre
    offset = np.linalg.norm(nearest, axis=-1)
    alpha = np.select([offset < 1.0, offset < 1.2], [255, 128], 0)
    colour = np.where((alpha > 0)[..., None], 40 + 100 * (1 + nearest / 1.2), 0)
    return np.dstack([colour, alpha]).round().astype(np.uint8)
