"""`nerfbaselines:<id>`: the commands, and the stages against a stand-in for its command line, or the real one."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from fieldbook.cli import main
from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import RunFiles
from fieldbook.status import OK, Status, write_status
from methods.external.entry import external_commands, resolved_commands
from methods.external.template import Commands

from .runner_ball import read_picture, write_dataset

# Takes what nerfbaselines 1.2.12 takes, and refuses what that refuses. Its pictures are numbered, their colour too.
STUB = """#!{python}
import argparse, json, sys
from pathlib import Path
from PIL import Image
top = argparse.ArgumentParser()
commands = top.add_subparsers(dest="command", required=True)
train = commands.add_parser("train")
train.add_argument("--method", required=True, choices=["nerf", "zipnerf"])
train.add_argument("--data", required=True)
train.add_argument("--output", default=".")
train.add_argument("--logger", choices=["none", "wandb", "tensorboard", "wandb,tensorboard"], default="tensorboard")
train.add_argument("--eval-few-iters", type=int, nargs=1)
train.add_argument("--eval-all-iters", type=int, nargs=1)
train.add_argument("--disable-output-artifact", action="store_true")
train.add_argument("--set", action="append", default=[])
render = commands.add_parser("render-trajectory")
render.add_argument("--checkpoint", required=True)
render.add_argument("--trajectory", required=True)
render.add_argument("--output", required=True)
given = top.parse_args()
if given.command == "train":
    data = Path(given.data)
    assert data.is_absolute() and json.loads((data / "nb-info.json").read_text())["loader"] == "colmap"
    assert all((data / "images" / name).is_file() for name in (data / "train_list.txt").read_text().split())
    for step in (900, 1000):
        (Path(given.output) / f"checkpoint-{{step}}").mkdir()
        (Path(given.output) / f"checkpoint-{{step}}" / "nb-info.json").write_text(json.dumps(vars(given)))
else:
    assert Path(given.checkpoint, "nb-info.json").is_file() and given.checkpoint.endswith("checkpoint-1000")
    if Path(given.output).exists():
        sys.exit("Output path already exists")
    Path(given.output).mkdir()
    document = json.loads(Path(given.trajectory).read_text())
    assert document["format"] == "nerfbaselines-v1"
    for k, frame in enumerate(document["frames"]):
        Image.new("RGB", document["image_size"], (k, k, k)).save(Path(given.output) / f"{{k:05d}}.png")
"""
# A method of nerfbaselines' own kind, small enough for its `python` backend: the picture of the nearest training pose.
METHOD = """
import os
import numpy as np
from nerfbaselines import Method

class NearestPicture(Method):
    def __init__(self, *, checkpoint=None, train_dataset=None, config_overrides=None):
        self.checkpoint, self.hparams = checkpoint, dict(config_overrides or {})
        if checkpoint:
            self.data = dict(np.load(os.path.join(checkpoint, "data.npz")))
        else:
            assert len(train_dataset["images"]) == 10 and len(train_dataset["points3D_xyz"]) == 3
            self.data = {"images": np.stack(train_dataset["images"]), "poses": train_dataset["cameras"].poses}

    @classmethod
    def get_method_info(cls):
        features = frozenset(("color", "points3D_xyz"))
        return {"method_id": "nearest", "required_features": features,
                "supported_camera_models": frozenset(("pinhole",)), "supported_outputs": ("color",)}

    def get_info(self):
        return {**self.get_method_info(), "num_iterations": int(self.hparams.get("steps", 3)), "hparams": self.hparams,
                "loaded_step": 3 if self.checkpoint else None, "loaded_checkpoint": self.checkpoint}

    def train_iteration(self, step):
        return {"loss": 0.0}

    def save(self, path):
        np.savez(os.path.join(path, "data.npz"), **self.data)

    def render(self, camera, *, options=None):
        apart = np.linalg.norm((self.data["poses"] - camera.poses).reshape(10, -1), axis=1)
        assert apart.min() < 1.2  # neighbours on the ring are 30 degrees apart; with other axes it would be 2 and more
        return {"color": self.data["images"][apart.argmin()]}

    def get_train_embedding(self, *args, **kwargs):
        return None

    def optimize_embedding(self, *args, **kwargs):
        raise NotImplementedError
"""
SPEC = """
from nerfbaselines import register

register({"id": "nearest", "method_class": "nearest:NearestPicture", "metadata": {}})
"""


def commands(method: str = "nerfbaselines:nerf", **entry: Any) -> Commands:
    return external_commands({"method": method, "overrides": {}, **entry})


def test_the_name_is_one_that_a_folder_can_have():
    assert commands("nerfbaselines:gaussian-splatting").method == "nerfbaselines-gaussian-splatting"
    for wrong in ("nerfbaselines:", "nerfbaselines:a b", "nerfbaselines:a/b", "nerfbaselines:{x}"):
        with pytest.raises(UserError, match=r"cannot be a method's id; .*nerfbaselines:gaussian-splatting"):
            commands(wrong)


def test_overrides_become_settings_of_the_method_and_may_be_the_seed():
    made = commands(overrides={"iterations": 7000, "white": True, "seed": "{seed}", "name": "a b"})
    words = made.words("train", {"dataset": "/d", "model": "/m", "seed": 5})
    assert words[:8] == shlex.split("nerfbaselines train --method nerf --data /d --output /m")
    settings = [words[k + 1] for k, word in enumerate(words) if word == "--set"]
    assert settings == ["iterations=7000", "white=true", "seed=5", "name=a b"]


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    root = tmp_path / "study"
    root.mkdir()
    write_status(write_dataset(root).status(), Status(OK, "dataset"))
    return RunFiles(root / "nerfbaselines-nerf" / "run")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "nerfbaselines"
    program.parent.mkdir()
    program.write_text(STUB.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def stages(run: RunFiles, made: Commands) -> list[int]:
    spec = {"method": made.method, "preset": "external", "resolved": resolved_commands(made)}
    text = json.dumps({**spec, "seed": 0, "device": "cpu", "torch_threads": 1})
    check = run.root.parent.parent / "check"
    calls = (["method", str(check)], ["train", str(run.root)], ["render", str(run.root)])
    return [main([*call, "--spec", text]) for call in calls]


def test_it_is_trained_and_rendered_on_its_command_line(run: RunFiles, stub: None):
    assert stages(run, commands(overrides={"iterations": 1000})) == [0, 0, 0]
    given = read_json(run.external.model / "checkpoint-1000" / "nb-info.json")
    assert (given["method"], given["logger"], given["set"]) == ("nerf", "none", ["iterations=1000"])
    assert given["eval_few_iters"] == given["eval_all_iters"] == [0]
    assert given["disable_output_artifact"]
    for number, name in enumerate(("frame_00004", "frame_00009")):  # in the order of the trajectory
        assert (read_picture(run.test / f"{name}.png") * 255 == number).all()


def test_an_id_that_it_does_not_know_is_one_line_with_its_own_words(run: RunFiles, stub: None, capsys):
    assert stages(run, commands("nerfbaselines:nrf")) == [0, 2, 2]
    line = next(text for text in capsys.readouterr().err.splitlines() if text.startswith("fieldbook: "))
    assert "the train command of nerfbaselines-nrf ended with exit code 2" in line
    assert "invalid choice: 'nrf'" in line


def test_without_nerfbaselines_the_early_check_says_so(run: RunFiles, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert stages(run, commands())[0] == 2
    assert "train: there is no program 'nerfbaselines' on PATH" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nerfbaselines") is None, reason="nerfbaselines is not on PATH")
def test_the_real_nerfbaselines_takes_these_commands(run: RunFiles, tmp_path: Path, monkeypatch):
    (tmp_path / "nearest.py").write_text(METHOD)
    (tmp_path / "spec.py").write_text(SPEC)
    monkeypatch.setenv("NERFBASELINES_REGISTER", str(tmp_path / "spec.py"))
    monkeypatch.setenv("NERFBASELINES_NO_UPDATE_CHECK", "1")
    monkeypatch.setenv("NERFBASELINES_BACKEND", "python")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = commands("nerfbaselines:nearest", overrides={"steps": 2})
    assert stages(RunFiles(run.root.parent.parent / made.method / "run"), made) == [0, 0, 0]
    study = run.root.parent.parent
    folder = study / made.method / "run"
    assert (folder / "external/model/checkpoint-2/data.npz").is_file()
    for frame, nearest in ((4, (3, 5)), (9, (8, 10))):
        ours = read_picture(folder / "test" / f"frame_{frame:05d}.png")
        neighbours = [read_picture(study / f"images/frame_{k:05d}.png") for k in nearest]
        assert any((ours == picture).all() for picture in neighbours)
