"""Folders of NeuS and COLMAP from their files to a trained hash-nerf that shows the held-out views."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fieldbook.cli import main
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles, Results, SceneFiles
from fieldbook.status import read_status
from methods.runner.render import render
from methods.runner.train import train

from .posed_folders import write_colmap_folder, write_neus_folder

SPEC = {"method": "hash-nerf", "preset": "smoke", "seed": 0, "device": "cpu", "torch_threads": 1}
# The pictures' black is where there is nothing: a random background would have to be hidden behind something black.
OVERRIDES = {"pipeline.model.background": "black", "pipeline.model.unbounded": False}
SFM = {"mapper": "incremental", "preset": "default", "matching": "auto", "seed": 0, "threads": 1}
SFM |= {"max_rotation_residual_deg": 5.0, "max_centre_residual": 0.1}
STAGES = {"splits": {"split": {"test_every": 8, "file": None}, "nested": True}, "poses": {"sfm": SFM}}
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "neus": lambda path: write_neus_folder(path, n=20, varied=True),
    "colmap": lambda path: write_colmap_folder(path, n=20, models=("OPENCV", "SIMPLE_RADIAL")),
}


def make_dataset(files: SceneFiles, root: Path, mask: str) -> DatasetFiles:
    """What is left of the way from a scene's frame to a dataset of all its training frames, 48 pixels wide."""
    scene, poses = str(files.root), files.poses("all", "reference", "incremental", "none", 0, 0).root
    dataset = Results(root).study("toy").dataset("ball", "all", 0, poses.name, mask)
    commands = [
        ["splits", scene, "--spec", json.dumps(STAGES["splits"])],
        ["images", scene, "--long-side", "48"],
        ["poses", scene, "--count", "all", "--spec", json.dumps(STAGES["poses"])],
    ]
    if mask != "none":
        commands.append(["mask", scene, mask, "--spec", json.dumps({"mask": {"kind": "given"}})])
        commands.append(["scaled-mask", scene, mask, "--long-side", "48"])
    out = ["dataset", str(dataset.root), "--scene", scene, "--poses", str(poses), "--long-side", "48", "--mask", mask]
    for command in [*commands, out]:
        assert main(command) == 0
    return dataset


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) / 255


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_becomes_a_dataset_that_trains_and_shows_held_out_views(make_scene, tmp_path, kind):
    folder = FOLDERS[kind](tmp_path / "folder")
    files = make_scene(tmp_path, "ball", {"capture": {"kind": kind, "path": str(folder)}})
    dataset = make_dataset(files, tmp_path, "none")
    meta = read_json(dataset.transforms)
    assert (len(meta["train_filenames"]), len(meta["test_filenames"])) == (18, 2)
    assert ("ply_file_path" in meta) == (kind == "colmap")
    assert dataset.points.exists() == (kind == "colmap")
    assert len({(f["fl_x"], f["fl_y"], f["cx"], f["cy"], f["w"], f["h"]) for f in meta["frames"]}) == 1
    run = dataset.run("hash-nerf", "smoke")
    spec = SPEC | {"overrides": OVERRIDES}
    assert train(run, dataset, spec)["steps"] == 300
    render(run, dataset, {}, spec)
    for name in meta["test_filenames"]:
        error = np.mean((picture(run.test / Path(name).name) - picture(dataset.root / name)) ** 2)
        assert -10 * np.log10(error) > 23  # black alone has 14.5 dB; these 300 steps give 27 to 29


def test_a_soft_mask_reaches_training_as_yes_from_half_on(make_scene, tmp_path):
    from nerfstudio.data.datasets.base_dataset import InputDataset

    from methods.runner.config import FieldbookDataParserConfig

    folder = write_neus_folder(tmp_path / "folder", n=10)
    files = make_scene(tmp_path, "ball", {"capture": {"kind": "neus", "path": str(folder)}})
    dataset = make_dataset(files, tmp_path, "object")
    parser = FieldbookDataParserConfig(data=dataset.transforms).setup()
    entry = InputDataset(parser.get_dataparser_outputs("train"))[0]
    mask = np.asarray(Image.open(dataset.root / read_json(dataset.transforms)["frames"][0]["mask_path"]))
    assert ((mask > 0) & (mask < 128)).any()
    np.testing.assert_array_equal(entry["mask"][..., 0].numpy(), mask >= 128)


def poses_of(files: SceneFiles, policy: str) -> tuple[dict, dict]:
    arguments = ["--count", "8", "--policy", policy, "--spec", json.dumps(STAGES["poses"])]
    assert main(["splits", str(files.root), "--spec", json.dumps(STAGES["splits"])]) == 0
    assert main(["poses", str(files.root), *arguments]) == 0
    poses = files.poses("8", policy, "incremental", "none", 0, 0)
    return read_json(poses.poses), read_status(poses.status()).numbers


@pytest.mark.slow
def test_a_reconstruction_of_our_own_given_back_makes_the_same_scene(make_scene, tmp_path):
    own = make_scene(tmp_path, "own", {"capture": {"kind": "synthetic", "frames": 24, "size": [320, 240]}})
    folder = tmp_path / "folder"
    shutil.copytree(own.raw, folder / "images")
    shutil.copytree(own.reference_sparse, folder / "sparse" / "0")
    given = make_scene(tmp_path, "given", {"capture": {"kind": "colmap", "path": str(folder)}})
    before, after = read_json(own.reference_poses), read_json(given.reference_poses)
    assert before["camera"] == after["camera"]
    for name, pose in before["poses"].items():
        np.testing.assert_allclose(after["poses"][name], pose, atol=1e-9)
        np.testing.assert_array_equal(picture(given.frames / name), picture(own.frames / name))
    for key in ("near", "far", "bounds", "axis"):
        np.testing.assert_allclose(read_json(given.scene)[key], read_json(own.scene)[key], atol=1e-6)
    for policy in ("reference", "subset"):
        (ours, counted), (theirs, counted_too) = poses_of(own, policy), poses_of(given, policy)
        for name, pose in ours["poses"].items():
            np.testing.assert_allclose(theirs["poses"][name], pose, atol=1e-6)
        # Tracks hold what a third frame had joined, so there are a few more points than where it is matched anew.
        assert 0.9 * counted["points"] <= counted_too["points"] <= 1.3 * counted["points"]


BIN = Path(sys.executable).parent


def plan(repository: Path, study: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / "snakemake"), "--snakefile", str(repository / "Snakefile"), "--cores", "8", "--dry-run"]
    command += ["--directory", str(study.parent), "--configfile", str(study)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("kind", ["neus", pytest.param("colmap", marks=pytest.mark.slow)])
def test_the_stages_are_those_of_every_other_kind(repository, tmp_path, kind):
    folder = FOLDERS[kind](tmp_path / "folder")
    scene = {"capture": {"kind": kind, "path": str(folder)}, "masks": {"object": {"kind": "given"}}}
    study = {
        "study": "toy",
        "results": str(tmp_path / "results"),
        "scenes": {"toy": scene},
        "counts": [2, "all"],
        "pose_policies": ["reference", "subset"],
        "masks": ["none", "object"],
        "methods": [{"method": "hash-nerf", "preset": "smoke"}],
        "metrics": ["psnr"],
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    done = plan(repository, path)
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split() for line in done.stdout.split("Job stats:")[1].splitlines() if len(line.split()) == 2)
    stages = ("capture", "frames", "reference", "splits", "scene_frame", "images", "mask", "scaled_mask")
    assert [jobs[stage] for stage in (*stages, "poses", "dataset", "train")] == ["1"] * 8 + ["4", "8", "8"]


def test_a_folder_that_lacks_a_picture_ends_the_plan_with_one_line(repository, tmp_path):
    folder = write_neus_folder(tmp_path / "folder", n=3)
    (folder / "image" / "000001.png").unlink()
    study = {"study": "toy", "results": str(tmp_path / "results"), "counts": ["all"]}
    scene = {"capture": {"kind": "neus", "path": str(folder)}}
    study |= {"scenes": {"toy": scene}, "methods": [{"method": "nerfacto"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    done = plan(repository, tmp_path / "study.yaml")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "Using workflow specific profile" not in line]
    assert len(lines) == 1
    assert "has no picture 000001.png for world_mat_1" in lines[0]
