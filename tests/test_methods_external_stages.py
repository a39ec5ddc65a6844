"""`fieldbook train`, `render` and `score` with a method that is a small script."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from camera_paths.formats import CameraPath, write_camera_path
from data.poses import Camera
from fieldbook.cli import main
from fieldbook.commands import run as commands
from fieldbook.documents import MANIFEST, RENDERS, RUN, read_document
from fieldbook.errors import UserError
from fieldbook.files import read_json, sha256_file, write_json
from fieldbook.layout import DatasetFiles, PathFiles
from fieldbook.status import OK, Status, read_status, write_status
from methods.external.train import is_final

from .external_script import TRAIN, external_dataset, render, run_of, script, spec_of, train
from .runner_ball import poses_around, read_picture

DRAW = """
import json, sys
from pathlib import Path
import numpy as np
from PIL import Image
cameras, output = map(Path, sys.argv[1:3])
for view in json.loads(cameras.read_text())["camera_path"]:
    name, size = output / f"{view['name']}.png", (view["h"], view["w"], 3)
"""


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetFiles:
    return external_dataset(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A novel-view path of three cameras between those of the capture."""
    folder = PathFiles(tmp_path / "paths" / "up25")
    camera = Camera(32, 24, 28.0, 28.0, 16.0, 12.0)
    write_camera_path(folder.camera_path, CameraPath.uniform(np.array(poses_around(7)[1:4]), camera, 5.0))
    write_status(folder.status(), Status(OK, "path"))
    return folder.root


def drawing(dataset: DatasetFiles, line: str) -> str:
    return script(dataset, DRAW + f"    {line}\n") + " {dataset}"


def test_a_run_has_what_every_other_run_has(dataset: DatasetFiles, path: Path):
    assert train(dataset) == 0
    assert render(dataset, path) == 0
    run = run_of(dataset)
    assert main(["score", str(run.root), "--spec", '{"metrics": ["psnr"]}', "--paths", str(path)]) == 0
    for frame, nearest in ((4, (3, 5)), (9, (8, 10))):
        name = f"frame_{frame:05d}"
        neighbours = [read_picture(dataset.root / f"images/frame_{k:05d}.png") for k in nearest]
        ours = read_picture(run.test / f"{name}.png")
        assert any(np.array_equal(ours, picture) for picture in neighbours)
        deep = cv2.imread(str(run.test / f"{name}.rgb16.png"), cv2.IMREAD_UNCHANGED)
        assert deep.dtype == np.uint16
        assert np.array_equal(deep[..., ::-1] / 65535, ours)
    for folder, views in ((run.test, 2), (run.path("up25"), 3)):
        assert len(read_json(folder / "renders.json")["views"]) == views
    assert (run.path("up25") / "path.mp4").stat().st_size > 0
    assert (run.path("up25") / "camera_path.json").read_bytes() == PathFiles(path).camera_path.read_bytes()
    rows = list(csv.DictReader(run.images_csv.read_text().splitlines()))
    assert [row["split"] for row in rows] == ["test"] * 2 + ["up25"] * 3
    assert all(float(row["psnr_float"]) > 10 for row in rows[:2])
    assert {row["seconds"] for row in rows} == {""}  # nobody knows what one view took
    assert read_status(run.status("render")).numbers["views"] == 5
    assert not list(run.external.output("test").parent.iterdir())
    for file, kind in ((run.run, RUN), (run.checkpoint_manifest, MANIFEST), (run.test / "renders.json", RENDERS)):
        read_document(file, kind)  # as tables and reports do


def test_everything_that_defines_the_run_is_recorded(dataset: DatasetFiles):
    assert train(dataset, needs=["points"]) == 0
    run, record = run_of(dataset), read_json(run_of(dataset).run)
    assert record["spec"]["resolved"]["train"] == TRAIN
    assert record["needs"] == ["points"]
    named = str(dataset.root.parent / "code" / "nearest_view.py")
    assert {len(sha256) for stage in record["files_sha256"].values() for sha256 in stage.values()} == {64}
    assert list(record["files_sha256"]["train"]) == [named]
    assert record["versions"]["python"].startswith("3.")
    numbers = read_status(run.status("train")).numbers
    assert numbers["checkpoint_bytes"] == (run.external.model / "model.npz").stat().st_size
    assert read_json(run.checkpoint_manifest)["sha256"] == numbers["checkpoint_sha256"]


def test_the_commands_get_seed_device_threads_and_no_gpu_on_a_cpu(dataset: DatasetFiles, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("MINE", "yes")
    code = "import os, sys, json; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1] + '/m', 'w'))"
    script(dataset, code, "tell.py")
    assert train(dataset, train="{python} tell.py {model} {dataset} {seed} {device} {threads}", torch_threads=2) == 0
    (folder, *rest), environment = read_json(run_of(dataset).external.model / "m")
    assert Path(folder).is_absolute()
    assert rest == ["3", "cpu", "2"]
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["OMP_NUM_THREADS"] == "2"
    assert environment["MINE"] == "yes"


def test_a_relative_results_folder_reaches_commands_that_run_elsewhere(dataset: DatasetFiles, monkeypatch):
    monkeypatch.chdir(dataset.root.parent)
    spec, run = spec_of(dataset), Path(dataset.root.name) / "mine" / "run"
    spec["resolved"]["cwd"] = "code"
    for stage in ("train", "render"):
        assert main([stage, str(run), "--spec", json.dumps(spec)]) == 0
    assert (run_of(dataset).test / "frame_00004.png").is_file()


def test_a_method_without_training_renders_from_the_dataset(dataset: DatasetFiles):
    line = "Image.fromarray(np.full(size, 77, np.uint8)).save(name)"
    keys = {"train": None, "render": drawing(dataset, line)}
    assert train(dataset, **keys) == 0
    assert render(dataset, **keys) == 0
    assert (read_picture(run_of(dataset).test / "frame_00004.png") * 255 == 77).all()


def test_a_picture_of_16_bits_keeps_them(dataset: DatasetFiles):
    line = "import cv2; cv2.imwrite(str(name), np.full(size, 12345, np.uint16))"
    keys = {"train": None, "render": drawing(dataset, line)}
    assert (train(dataset, **keys), render(dataset, **keys)) == (0, 0)
    deep = cv2.imread(str(run_of(dataset).test / "frame_00004.rgb16.png"), cv2.IMREAD_UNCHANGED)
    assert (deep == 12345).all()
    assert (read_picture(run_of(dataset).test / "frame_00004.png") * 255 == round(12345 / 257)).all()


def test_seconds_that_the_command_tells_are_the_views_own(dataset: DatasetFiles):
    code = DRAW + "    Image.fromarray(np.zeros(size, np.uint8)).save(name)\n"
    code += "(output / 'seconds.json').write_text('{\"frame_00004\": 0.5, \"frame_00009\": 1}')\n"
    keys = {"train": None, "render": script(dataset, code) + " {dataset}"}
    assert (train(dataset, **keys), render(dataset, **keys)) == (0, 0)
    views = read_json(run_of(dataset).test / "renders.json")["views"]
    assert [view["seconds"] for view in views] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pass", ["left out frame_00004.png and 1 more of 2", "it wrote nothing there"]),
        (
            "Image.new('RGB', size[1::-1]).save(output / '00000.png')",
            ["left out frame_00004.png", "it wrote 00000.png", "<name>.png"],
        ),
        (
            "'4' in name.name and Image.new('RGB', size[1::-1]).save(name)",
            ["left out frame_00009.png of 2", "it wrote frame_00004.png"],
        ),
        ("Image.new('RGB', (5, 6)).save(name)", ["frame_00004.png is 5x6 pixels; its camera has 32x24"]),
        ("Image.new('L', size[1::-1]).save(name)", ["frame_00004.png is not RGB"]),
        ("Image.new('RGBA', size[1::-1], (9, 9, 9, 9)).save(name)", ["not opaque", "no background"]),
        ("name.write_text('x')", ["frame_00004.png is not a readable image"]),
        ("Image.new('RGB', size[1::-1]).save(name); open(output / 'seconds.json', 'w')", ["seconds.json"]),
    ],
)
def test_pictures_that_are_not_as_they_have_to_be_are_one_line(dataset: DatasetFiles, capsys, line, words):
    keys = {"train": None, "render": drawing(dataset, line)}
    assert train(dataset, **keys) == 0
    capsys.readouterr()
    assert render(dataset, **keys) == 2
    said = [text for text in capsys.readouterr().err.splitlines() if text.startswith("fieldbook: ")]
    assert len(said) == 1
    assert all(word in said[0] for word in words)
    assert not run_of(dataset).status("render").exists()
    assert not run_of(dataset).test.exists()


def test_an_opaque_alpha_channel_is_no_matter(dataset: DatasetFiles):
    line = "Image.new('RGBA', size[1::-1], (9, 8, 7, 255)).save(name)"
    keys = {"train": None, "render": drawing(dataset, line)}
    assert (train(dataset, **keys), render(dataset, **keys)) == (0, 0)
    assert (read_picture(run_of(dataset).test / "frame_00004.png") * 255 == [9, 8, 7]).all()


def test_what_is_not_opaque_is_seen_before_the_scenes_background(dataset: DatasetFiles):
    meta = read_json(dataset.transforms)
    dataset.transforms.write_text(json.dumps(meta | {"background": "white"}))
    line = "Image.new('RGBA', size[1::-1], (0, 0, 0, 51)).save(name)"
    keys = {"train": None, "render": drawing(dataset, line)}
    assert (train(dataset, **keys), render(dataset, **keys)) == (0, 0)
    assert (read_picture(run_of(dataset).test / "frame_00004.png") * 255 == 255 - 51).all()


def test_a_command_that_fails_ends_the_stage_with_one_line_and_exit_code_2(dataset: DatasetFiles, capsys):
    script(dataset, "raise RuntimeError('no such layer')", "bad.py")
    assert train(dataset, train="{python} bad.py {dataset} {model}") == 2
    error = capsys.readouterr().err
    line = next(text for text in error.splitlines() if text.startswith("fieldbook: "))
    assert "the train command of mine ended with exit code 1" in line
    assert "RuntimeError: no such layer" in line
    assert str(run_of(dataset).command_log("train")) in line
    assert not run_of(dataset).status("train").exists()


def test_a_command_can_say_that_a_run_is_infeasible(dataset: DatasetFiles):
    script(dataset, "print('infeasible: it needs more frames'); exit(75)", "few.py")
    assert train(dataset, train="{python} few.py {dataset} {model}") == 0
    status = read_status(run_of(dataset).status("train"))
    assert (status.state, status.reason) == ("infeasible", "it needs more frames")
    assert read_json(run_of(dataset).checkpoint_manifest)["sha256"] is None
    assert render(dataset) == 0
    assert read_status(run_of(dataset).status("render")) == status


@pytest.mark.parametrize(
    ("need", "words"), [("masks", "masks, which this scene"), ("points", "sparse points"), ("gpu", "a CUDA GPU")]
)
def test_what_the_scene_or_the_machine_lacks_is_a_result(dataset: DatasetFiles, need: str, words: str):
    dataset.points.unlink()
    meta = {k: v for k, v in read_json(dataset.transforms).items() if k != "ply_file_path"}
    dataset.transforms.write_text(json.dumps(meta))
    assert train(dataset, needs=[need]) == 0
    status = read_status(run_of(dataset).status("train"))
    assert status.state == "infeasible"
    assert f"mine needs {words}" in status.reason
    assert train(dataset) == 0
    assert read_status(run_of(dataset).status("train")).ok


def test_a_training_that_leaves_nothing_is_refused(dataset: DatasetFiles, capsys):
    script(dataset, "", "nothing.py")
    assert train(dataset, train="{python} nothing.py {dataset} {model}") == 2
    assert "left nothing in {model}" in capsys.readouterr().err


def test_a_training_that_changes_the_scenes_pictures_is_refused(dataset: DatasetFiles, capsys):
    script(dataset, "import sys; open(sys.argv[1] + '/images/frame_00003.png', 'ab').write(b'x')", "spoil.py")
    assert train(dataset, train="{python} spoil.py {dataset} {model}") == 2
    assert "changed images/frame_00003.png of its dataset" in capsys.readouterr().err


def test_a_training_is_recognised_until_something_it_depends_on_changes(dataset: DatasetFiles, caplog):
    caplog.set_level("INFO")

    def anew(**keys: Any) -> bool:
        run_of(dataset).status("train").unlink()
        run_of(dataset).checkpoint_manifest.unlink()  # as Snakemake does before it starts a job
        caplog.clear()
        assert train(dataset, **keys) == 0
        assert run_of(dataset).checkpoint_manifest.is_file()
        return "was done before" not in caplog.text

    code = dataset.root.parent / "code"
    (code / "render.py").write_text("")
    assert train(dataset) == 0
    assert not anew()
    assert anew(seed=4)
    assert anew(train=f"{TRAIN} ".replace(" --model", "  --model"))
    assert anew()
    (code / "render.py").write_text("# another")
    assert not anew()
    with (code / "nearest_view.py").open("a") as file:
        file.write("# another\n")
    assert anew()
    picture = dataset.root / "images" / "frame_00003.png"
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(picture)
    assert anew()
    (run_of(dataset).external.model / "cache").write_text("of the render command")
    assert not anew()
    (run_of(dataset).external.model / "model.npz").write_text("damaged")
    assert anew()


def test_a_rendering_is_recognised_until_something_it_depends_on_changes(dataset: DatasetFiles, path: Path, caplog):
    caplog.set_level("INFO")

    def anew(*paths: Path) -> bool:
        run_of(dataset).status("render").unlink(missing_ok=True)
        caplog.clear()
        assert render(dataset, *paths) == 0
        return "was done before" not in caplog.text

    assert train(dataset) == 0
    assert anew()
    assert not anew()
    assert anew(path)
    assert not anew(path)
    with (dataset.root.parent / "code" / "nearest_view.py").open("a") as file:
        file.write("# another\n")
    assert anew(path)
    (run_of(dataset).test / "frame_00004.png").unlink()
    assert anew(path)


def test_names_in_the_list_of_a_finished_training_do_not_lead_out(dataset: DatasetFiles):
    assert train(dataset) == 0
    run = run_of(dataset)
    write_json(run.external.contents, {"../../run.json": sha256_file(run.run)})
    with pytest.raises(UserError, match="may not leave"):
        is_final(run, {"checkpoint_sha256": sha256_file(run.external.contents), "made_from": ""})


def test_a_stage_that_was_done_before_takes_no_gpu(dataset: DatasetFiles, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(commands, "take_gpu", asked.append)
    for stage in (train, render):
        assert (stage(dataset), stage(dataset)) == (0, 0)
    assert asked == ["cpu", "cpu"]


def test_the_early_check_names_a_program_that_is_missing(dataset: DatasetFiles, tmp_path: Path, capsys):
    spec = spec_of(dataset, train="no-such-program {dataset} {model}")
    assert main(["method", str(tmp_path / "check"), "--spec", json.dumps(spec)]) == 2
    assert "train: there is no program 'no-such-program' on PATH" in capsys.readouterr().err
    assert main(["method", str(tmp_path / "check"), "--spec", json.dumps(spec_of(dataset))]) == 0
    assert main(["method", str(tmp_path / "gpu"), "--spec", json.dumps(spec_of(dataset, needs=["gpu"]))]) == 0
    assert not read_status(tmp_path / "gpu" / "method.status.json").ok


def test_the_stages_of_an_external_method_need_no_torch():
    code = "import sys, methods.external.train, methods.external.render, fieldbook.commands.run"
    code += "\nprint([name for name in ('torch', 'nerfstudio', 'pycolmap') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
