"""nerfstudio's own tools open our runs, offline, from any folder, and show the pictures that we show.

Offline: processes are refused every connection that leaves the machine. ``TORCH_HOME`` holds an AlexNet of random
weights under the name that torchvision looks for, and ``ffmpeg`` is imageio-ffmpeg's, as on a machine that has both.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from camera_paths.formats import CameraPath, write_camera_path
from data.poses import Camera, look_at
from eval.metrics import psnr
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, RunFiles

from .runner_ball import FAR, POI, SPEC, poses_around, read_picture, write_dataset

METHODS = ("nerfacto", "hash-nerf")
TEST = ("frame_00004", "frame_00009")
DISTANCES = (1.0, 2.5, 0.5, 1.3)  # of novel views: near and far move with them
LIMIT_S = 300
OFFLINE = """
import socket
connect = socket.socket.connect
def connect_here(self, address):
    if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
        return connect(self, address)
    raise OSError(f"offline, but asked to connect to {address}")
socket.socket.connect = connect_here
"""


def _novel_views(camera: Camera) -> CameraPath:
    eyes = [pose[:3, 3] * distance for pose, distance in zip(poses_around(4), DISTANCES, strict=True)]
    poses = np.stack([look_at(eye, POI, np.array([0.0, 0.0, 1.0])) for eye in eyes])
    return CameraPath.uniform(poses, camera, 4.0)


def _run(study: Path, method: str) -> RunFiles:
    return RunFiles(study / "study" / "ball" / method / "run")


def _train(study: Path, method: str, height: int, overrides: dict[str, Any]) -> RunFiles:
    """Train and render with paths relative to the study, as the workflow does."""
    from methods.runner.render import render
    from methods.runner.train import train

    spec = {**SPEC, "method": method, "overrides": overrides}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(study)
        run, dataset = _run(Path(), method), DatasetFiles(Path("study/ball"))
        train(run, dataset, spec)
        size = height / 24
        lens = (28 * size, 28 * size, 16 * size, 12 * size)
        write_camera_path(Path("ring.json"), _novel_views(Camera(round(32 * size), height, *lens)))
        render(run, dataset, {"ring": Path("ring.json")}, spec)
    return _run(study, method)


def _assert_equal(theirs: Path, ours: Path) -> None:
    """8-bit equality, but for rounding.

    Both round the model's float picture to 8 bits, and the float picture hangs by its last bits on the number of
    threads, which the tools choose themselves: a value between two grey values may go either way.
    """
    off = np.abs(read_picture(theirs) - read_picture(ours)) * 255
    assert off.max() <= 1.001
    assert (off > 0.5).mean() < 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_run_opens_from_another_folder_and_renders_the_same(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    """What ns-render does, in this process: test views, and novel ones at other distances than the capture's."""
    import torch
    from nerfstudio.cameras.camera_paths import get_path_from_json
    from nerfstudio.utils.eval_utils import eval_setup

    from methods.runner.offline import quiet, without_downloads

    (tmp_path / "study" / "ball").mkdir(parents=True)
    write_dataset(tmp_path / "study" / "ball")
    run = _train(tmp_path, method, 24, {"max_num_iterations": 80})  # enough for planes to matter
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the run was rendered on the CPU
    with without_downloads(), quiet():
        _, pipeline, _, _ = eval_setup(run.config, test_mode="inference")
        ring = get_path_from_json(read_json(tmp_path / "ring.json"))
        held_out: Any = pipeline.datamanager.eval_dataset
        jobs = [(held_out.cameras[k : k + 1], run.test / f"{name}.png") for k, name in enumerate(TEST)]
        jobs += [(ring[k : k + 1], run.path("ring") / f"view_{k:03d}.png") for k in range(len(DISTANCES))]
        for cameras, ours in jobs:
            with torch.no_grad():
                rgb = pipeline.model.get_outputs_for_camera(cameras)["rgb"].numpy()
            theirs = Image.fromarray((rgb.clip(0, 1) * 255 + 0.5).astype(np.uint8))  # as mediapy writes it
            theirs.save("theirs.png")
            _assert_equal(Path("theirs.png"), ours)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``offline/``, ``torch/``, ``bin/ffmpeg``, and ``elsewhere/``, where the tools are started."""
    import imageio_ffmpeg
    import torch
    from torchvision.models import AlexNet_Weights, alexnet

    root = tmp_path_factory.mktemp("place")
    for name in ("bin", "offline", "elsewhere", "torch/hub/checkpoints"):
        (root / name).mkdir(parents=True)
    (root / "bin" / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    (root / "offline" / "sitecustomize.py").write_text(OFFLINE)
    weights = alexnet(weights=None).state_dict()
    name = AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    # The classifier is not used: one number stands for each of its tensors, and the file stays small.
    small = {k: v[(0,) * v.dim()].clone().expand(v.shape) if "classifier" in k else v for k, v in weights.items()}
    torch.save(small, root / "torch" / "hub" / "checkpoints" / name)
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both methods, trained on pictures that LPIPS' AlexNet is large enough for."""
    root = tmp_path_factory.mktemp("root")
    (root / "study" / "ball").mkdir(parents=True)
    write_dataset(root / "study" / "ball", height=36)
    for method in METHODS:
        _train(root, method, 36, {})
    return root


def _environment(place: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "TORCH_HOME"}}
    own = {"PYTHONPATH": str(place / "offline"), "TORCH_HOME": str(place / "torch"), "CUDA_VISIBLE_DEVICES": ""}
    return {**kept, **own, "PATH": path, **more}


def _tool(place: Path, *command: str | Path, **more: str) -> str:
    """Run a console script to its end; what it said."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=place / "elsewhere",
        env=_environment(place, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_the_tools_here_cannot_reach_the_network(place: Path):
    code = "import urllib.request as u\ntry: u.urlopen('http://192.0.2.1', timeout=1)\nexcept OSError as e: print(e)"
    assert "offline, but asked to connect" in _tool(place, sys.executable, "-c", code, no_proxy="*")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ns_eval_sees_our_pictures(place: Path, study: Path, method: str, tmp_path: Path):
    run, truths = _run(study, method), study / "study" / "ball" / "images"
    output = ["--output-path", tmp_path / "eval.json", "--render-output-path", tmp_path / "pictures"]
    _tool(place, "ns-eval", "--load-config", run.config, *output)
    results = read_json(tmp_path / "eval.json")["results"]
    ours = [psnr(read_picture(run.test / f"{n}.png"), read_picture(truths / f"{n}.png")) for n in TEST]
    assert results["psnr"] == pytest.approx(np.mean([float(str(v)) for v in ours]), abs=0.02)  # theirs before rounding
    assert ("lpips" in results) == (method == "nerfacto")  # AlexNet was there, and no download was tried
    for k, name in enumerate(TEST):
        both = np.asarray(Image.open(tmp_path / "pictures" / f"eval_img_{k:04d}.png"))
        assert both.shape == (36, 96, 3)  # truth and render, side by side
        Image.fromarray(both[:, 48:]).save(tmp_path / "render.png")
        _assert_equal(tmp_path / "render.png", run.test / f"{name}.png")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ns_render_dataset_makes_our_pictures(place: Path, study: Path, method: str, tmp_path: Path):
    run = _run(study, method)
    output = ["--output-path", tmp_path, "--rendered-output-names", "rgb", "--image-format", "png"]
    _tool(place, "ns-render", "dataset", "--load-config", run.config, *output)
    for name in TEST:
        _assert_equal(tmp_path / "test" / "rgb" / f"{name}.png", run.test / f"{name}.png")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ns_render_camera_path_makes_our_pictures(place: Path, study: Path, method: str, tmp_path: Path):
    run = _run(study, method)
    given = ["--load-config", run.config, "--camera-path-filename", study / "ring.json"]
    output = ["--output-path", tmp_path / "ring.mp4", "--output-format", "images", "--image-format", "png"]
    _tool(place, "ns-render", "camera-path", *given, *output)
    for k in range(len(DISTANCES)):
        _assert_equal(tmp_path / "ring" / f"{k:05d}.png", run.path("ring") / f"view_{k:03d}.png")


@pytest.mark.slow
def test_ns_render_camera_path_makes_a_film_of_a_run_of_ours(place: Path, study: Path, tmp_path: Path):
    import imageio.v3 as iio

    run, film = _run(study, "hash-nerf"), tmp_path / "ring.mp4"
    given = ["--load-config", run.config, "--camera-path-filename", study / "ring.json"]
    _tool(place, "ns-render", "camera-path", *given, "--output-path", film)
    frames = iio.imread(film, plugin="pyav")
    assert frames.shape == (len(DISTANCES), 36, 48, 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ns_export_writes_the_points_that_a_run_of_ours_sees(place: Path, study: Path, method: str, tmp_path: Path):
    try:
        import open3d  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"ns-export needs open3d, which needs libraries of the system: {error}")
    import trimesh

    options = ["--num-points", "2000", "--num-rays-per-batch", "512", "--normal-method", "open3d"]
    _tool(
        place,
        "ns-export",
        "pointcloud",
        "--load-config",
        _run(study, method).config,
        "--output-dir",
        tmp_path,
        *options,
    )
    cloud: Any = trimesh.load(tmp_path / "point_cloud.ply")
    assert len(cloud.vertices) > 1000
    eyes = np.stack([frame["transform_matrix"] for frame in read_json(study / "study/ball/transforms.json")["frames"]])
    nearest = np.linalg.norm(cloud.vertices[:, None] - eyes[None, :, :3, 3], axis=-1).min(axis=1)
    assert nearest.max() <= FAR * 1.01
    colours = np.asarray(cloud.colors)[:, :3] / 255
    assert colours.std(axis=0).max() > 0.02


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _server(place: Path, *command: str | Path) -> Iterator[subprocess.Popen[str]]:
    log = place / "server.log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=place / "elsewhere",
            env=_environment(place),
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: nerfacto's data manager has started processes of its own
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ns_viewer_serves_a_run_of_ours(place: Path, study: Path, method: str):
    port = _free_port()
    address = ["--viewer.websocket-host", "127.0.0.1", "--viewer.websocket-port", str(port)]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with _server(place, "ns-viewer", "--load-config", _run(study, method).config, *address) as process:
        until, page = time.monotonic() + 120, ""
        while not page and time.monotonic() < until:
            assert process.poll() is None, (place / "server.log").read_text()[-3000:]
            try:
                page = opener.open(f"http://127.0.0.1:{port}/", timeout=5).read().decode()
            except OSError:
                time.sleep(0.5)
        assert "<html" in page
        time.sleep(3)  # the page is there before the scene is
        assert process.poll() is None, (place / "server.log").read_text()[-3000:]


SHORT = {"vis": "tensorboard", "machine.device-type": "cpu", "output-dir": "outputs", "timestamp": "t"}


def _ns_train(place: Path, method: str, data: Path, **options: Any) -> RunFiles:
    """``ns-train`` with nerfstudio's own parser; where it left the run."""
    given = {**SHORT, "experiment-name": "e", "data": data, **{k.replace("_", "-"): v for k, v in options.items()}}
    flags = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    _tool(place, "ns-train", method, *flags, "nerfstudio-data")
    return RunFiles(place / "elsewhere" / "outputs" / "e" / method / "t")


@pytest.mark.slow
def test_ns_train_trains_our_method_on_nerfstudios_data_and_the_tools_open_what_it_leaves(
    place: Path, study: Path, tmp_path: Path
):
    sizes = {"pipeline.target_samples": 4096, "pipeline.model.log2_hashmap_size": 12, "max_num_iterations": 41}
    looks = {"steps_per_eval_image": 20, "steps_per_eval_all_images": 40}  # nerfstudio's evaluation while it trains
    run = _ns_train(place, "hash-nerf", study / "study" / "ball", **sizes, **looks)
    assert [p.name for p in run.checkpoints.iterdir()] == ["step-000000040.ckpt"]
    # From where it was started: nerfstudio's own config holds the paths that it was given.
    _tool(place, "ns-eval", "--load-config", run.config, "--output-path", tmp_path / "eval.json")
    assert read_json(tmp_path / "eval.json")["results"]["psnr"] > 5


@pytest.mark.slow
def test_a_third_partys_run_is_scored_as_nerfstudio_itself_would(place: Path, study: Path, tmp_path: Path):
    """nerfacto by ns-train, whose checkpoint only loads where torch is told to load anything."""
    small = {"implementation": "torch", "num_levels": 4, "max_res": 64, "log2_hashmap_size": 12}
    few = {"max_num_iterations": 4, "pipeline.datamanager.train_num_rays_per_batch": 128, "steps_per_eval_image": 0}
    sizes = {f"pipeline.model.{name}": value for name, value in small.items()}
    run = _ns_train(place, "nerfacto", study / "study" / "ball", **few, **sizes)
    said = _tool(place, "fieldbook", "score", run.root, "--trust-pickles", "--out", tmp_path)
    checkpoint = next(run.checkpoints.iterdir())
    for path in (run.config, checkpoint):
        assert f"warning: reading {path}, which can run any code" in said
    output = ["--output-path", tmp_path / "eval.json"]
    _tool(place, "ns-eval", "--load-config", run.config, *output, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    theirs = read_json(tmp_path / "eval.json")["results"]
    ours = json.loads((tmp_path / "score.status.json").read_text())["numbers"]
    assert ours["views"] == 2
    assert ours["psnr_float"] == pytest.approx(theirs["psnr"], abs=1e-3)
