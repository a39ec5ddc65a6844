"""``fieldbook score RUN --trust-pickles``: a nerfstudio run of any origin, and what is read of it only when trusted."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eval.metrics import psnr
from fieldbook.cli import main
from fieldbook.files import read_json, sha256_file
from fieldbook.layout import RunFiles

from .runner_ball import read_picture, write_dataset

# nerfstudio's parser opens the first picture for its size and does not close it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)

TEST = ("frame_00004", "frame_00009")
CPU = json.dumps({"metrics": ["psnr"], "device": "cpu"})
SMALL: dict[str, Any] = {
    "implementation": "torch",
    "num_levels": 2,
    "max_res": 32,
    "log2_hashmap_size": 8,
    "hidden_dim": 8,
    "hidden_dim_color": 8,
    "num_nerf_samples_per_ray": 4,
    "num_proposal_samples_per_ray": (8,),
    "num_proposal_iterations": 1,
    "proposal_net_args_list": [{"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 32}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where ``ns-train`` was started: ``ball`` with nerfstudio's own parser, ``outputs/e/nerfacto/t``."""
    import torch
    import yaml
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    from methods.runner.offline import quiet, without_downloads
    from methods.runner.registry import method_config

    root = tmp_path_factory.mktemp("theirs")
    (root / "ball").mkdir()
    write_dataset(root / "ball")
    config: Any = method_config("nerfacto")
    config.output_dir, config.experiment_name, config.timestamp = Path("outputs"), "e", "t"
    for name, value in SMALL.items():
        setattr(config.pipeline.model, name, value)
    config.pipeline.datamanager.dataparser = NerfstudioDataParserConfig(load_3D_points=False)
    config.pipeline.datamanager.data = Path("ball")
    run = RunFiles(root / config.get_base_dir())
    run.checkpoints.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, without_downloads(), quiet():
        patch.chdir(root)
        run.config.write_text(yaml.dump(config))
        pipeline = config.pipeline.setup(device="cpu", test_mode="inference")
    tensors = pipeline.state_dict() | {"_model.lpips.net.lin0.model.1.weight": torch.zeros(1)}
    rate = {"fields": {"_last_lr": [np.float64(1e-2)]}}  # what nerfstudio's schedules leave, and torch 2.6 refuses
    torch.save({"step": 7, "pipeline": tensors, "schedulers": rate}, run.checkpoints / "step-000000007.ckpt")
    return root


@pytest.fixture
def theirs(made: Path, tmp_path: Path) -> RunFiles:
    """The same for one test to spoil, seen from another folder."""
    shutil.copytree(made, tmp_path / "theirs")
    return RunFiles(tmp_path / "theirs" / "outputs" / "e" / "nerfacto" / "t")


def _rows(run: RunFiles) -> dict[str, dict[str, str]]:
    with open(run.images_csv, newline="", encoding="utf-8") as stream:
        return {row["view"]: row for row in csv.DictReader(stream)}


def test_its_held_out_views_become_rows_of_what_its_own_evaluation_compares(theirs: RunFiles, capsys):
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 0
    rows, data = _rows(theirs), theirs.root.parents[3] / "ball" / "images"
    assert tuple(rows) == TEST
    for name, row in rows.items():
        ours, truth = read_picture(theirs.test / f"{name}.png"), read_picture(data / f"{name}.png")
        assert ours.shape == (24, 32, 3)
        assert float(row["psnr_uint8"]) == pytest.approx(psnr(ours, truth), abs=1e-6)
        assert abs(float(row["psnr_float"]) - float(row["psnr_uint8"])) < 0.05
        assert (row["step"], row["split"], row["has_truth"], row["rays"]) == ("7", "test", "1", "768")
        assert row["prediction_sha256"] == sha256_file(theirs.test / f"{name}.png")
        assert row["truth_sha256"] == sha256_file(data / f"{name}.png")
    assert "psnr_float" in capsys.readouterr().out
    assert read_json(theirs.status("score"))["numbers"]["views"] == 2


def test_the_model_is_the_checkpoints(theirs: RunFiles):
    """Another table of the hash grid, other pictures: what is rendered is not what was initialised."""
    import torch

    path = theirs.checkpoints / "step-000000007.ckpt"
    state = torch.load(path, weights_only=False)
    black = {k: v - 50 if k.endswith("mlp_head.layers.2.bias") else v for k, v in state["pipeline"].items()}
    assert any(not torch.equal(black[k], v) for k, v in state["pipeline"].items())
    torch.save(state | {"step": 10, "pipeline": black}, path.with_name("step-000000010.ckpt"))  # the newest counts
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 0
    assert read_picture(theirs.test / f"{TEST[0]}.png").max() < 0.01
    assert {row["step"] for row in _rows(theirs).values()} == {"10"}


def test_without_the_flag_nothing_unsafe_is_read(theirs: RunFiles, tmp_path: Path, capsys):
    done = tmp_path / "done"
    theirs.config.write_text(f"!!python/object/apply:os.mkdir [{done}]\n")
    before = sorted(p.name for p in theirs.root.iterdir())
    assert main(["score", str(theirs.root)]) == 2
    error = capsys.readouterr().err
    assert "is a nerfstudio run that Fieldbook did not train" in error
    assert "add --trust-pickles" in error
    assert error.count("\n") == 1
    assert not done.exists()
    assert sorted(p.name for p in theirs.root.iterdir()) == before
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 2  # it is indeed a file that runs code
    assert done.exists()


def test_every_unsafe_file_is_named_before_it_is_read(
    theirs: RunFiles, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    import torch
    import yaml

    read, load = yaml.load, torch.load
    seen: list[tuple[str, list[str]]] = []

    def said(kind: str) -> None:
        seen.append((kind, [r.getMessage() for r in caplog.records if "can run any code" in r.getMessage()]))

    def read_config(*args: Any, **more: Any) -> Any:
        said("config")
        return read(*args, **more)

    def read_checkpoint(*args: Any, weights_only: bool, **more: Any) -> Any:
        said("plain" if weights_only else "pickle")
        return load(*args, weights_only=weights_only, **more)

    monkeypatch.setattr(yaml, "load", read_config)
    monkeypatch.setattr(torch, "load", read_checkpoint)
    with caplog.at_level(logging.WARNING):
        assert main(["score", str(theirs.root), "--trust-pickles"]) == 0
    config, checkpoint = (
        f"warning: reading {p}, which can run any code that its maker put there"
        for p in (theirs.config, theirs.checkpoints / "step-000000007.ckpt")
    )
    assert seen == [("config", [config]), ("plain", [config]), ("pickle", [config, checkpoint])]


def test_a_checkpoint_of_plain_tensors_is_not_warned_of(theirs: RunFiles, caplog: pytest.LogCaptureFixture):
    import torch

    path = theirs.checkpoints / "step-000000007.ckpt"
    state = torch.load(path, weights_only=False)
    torch.save({k: state[k] for k in ("step", "pipeline")}, path)
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 0
    assert "config.yml" in caplog.text
    assert ".ckpt" not in caplog.text


def test_data_that_have_moved_are_given(theirs: RunFiles, tmp_path: Path, capsys):
    data = theirs.root.parents[3] / "ball"
    data.rename(tmp_path / "moved")
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 2
    assert f"are not at ball nor at {data}; give --data" in capsys.readouterr().err
    arguments = ["--trust-pickles", "--data", str(tmp_path / "moved"), "--out", str(tmp_path / "scores")]
    assert main(["score", str(theirs.root), *arguments]) == 0
    assert tuple(_rows(RunFiles(tmp_path / "scores"))) == TEST
    assert not theirs.images_csv.exists()
    assert not theirs.test.exists()


def test_masks_of_the_data_give_masked_columns(theirs: RunFiles):
    from PIL import Image

    data = theirs.root.parents[3] / "ball"
    meta = read_json(data / "transforms.json")
    kept = np.zeros((24, 32), np.uint8)
    kept[6:20, 8:24] = 255
    Image.fromarray(kept).save(data / "mask.png")
    frames = [frame | {"mask_path": "mask.png"} for frame in meta["frames"]]
    (data / "transforms.json").write_text(json.dumps(meta | {"frames": frames}))
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 0
    for name, row in _rows(theirs).items():
        ours, truth = read_picture(theirs.test / f"{name}.png"), read_picture(data / "images" / f"{name}.png")
        assert float(row["mask_fraction"]) == pytest.approx(14 * 16 / 768, abs=1e-6)
        assert float(row["masked_psnr_uint8"]) == pytest.approx(psnr(ours, truth, kept > 0), abs=1e-6)


def _change_config(run: RunFiles, change: Callable[[Any], None]) -> None:
    import yaml

    config = yaml.load(run.config.read_text(), Loader=yaml.Loader)
    change(config)
    run.config.write_text(yaml.dump(config))


def test_whole_picture_data_managers_give_the_same_rows(theirs: RunFiles, tmp_path: Path):
    """splatfacto's, which holds pictures in bytes and undistorts them; here below a model that runs on a CPU."""
    from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig

    def change(config: Any) -> None:
        was = config.pipeline.datamanager
        config.pipeline.datamanager = FullImageDatamanagerConfig(
            dataparser=was.dataparser, data=was.data, cache_images_type="uint8"
        )

    assert main(["score", str(theirs.root), "--trust-pickles", "--out", str(tmp_path / "rays")]) == 0
    _change_config(theirs, change)
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 0
    rays = {name: row | {"seconds": ""} for name, row in _rows(RunFiles(tmp_path / "rays")).items()}
    assert {name: row | {"seconds": ""} for name, row in _rows(theirs).items()} == rays


def test_what_the_machine_cannot_do_is_infeasible(theirs: RunFiles, capsys):
    _change_config(theirs, lambda config: setattr(config, "method_name", "splatfacto"))
    assert main(["score", str(theirs.root), "--trust-pickles", "--spec", CPU]) == 0
    assert "infeasible (score): splatfacto needs a CUDA GPU" in capsys.readouterr().err
    assert not theirs.images_csv.exists()


def _no_config(run: RunFiles) -> None:
    run.config.unlink()


def _no_checkpoint(run: RunFiles) -> None:
    shutil.rmtree(run.checkpoints)


def _damaged_checkpoint(run: RunFiles) -> None:
    (run.checkpoints / "step-000000007.ckpt").write_bytes(b"no checkpoint")


def _not_a_config(run: RunFiles) -> None:
    run.config.write_text("method_name: nerfacto\n")


def _unknown_package(run: RunFiles) -> None:
    run.config.write_text("!!python/object:no_such_package.Config {}\n")


def _other_model(run: RunFiles) -> None:
    import torch

    path = run.checkpoints / "step-000000007.ckpt"
    state = torch.load(path, weights_only=False)
    tensors = {k: v for k, v in state["pipeline"].items() if "mlp_head" not in k}
    torch.save(state | {"pipeline": tensors}, path)


def _other_shapes(run: RunFiles) -> None:
    import torch

    path = run.checkpoints / "step-000000007.ckpt"
    state = torch.load(path, weights_only=False)
    tensors = {k: v[:1] if k.endswith("hash_table") else v for k, v in state["pipeline"].items()}
    torch.save(state | {"pipeline": tensors}, path)


def _nothing_held_out(run: RunFiles) -> None:
    path = run.root.parents[3] / "ball" / "transforms.json"
    path.write_text(json.dumps(read_json(path) | {"test_filenames": []}))


def _a_run_of_ours(run: RunFiles) -> None:
    run.run.write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_no_config, "is no nerfstudio run: it has no config.yml"),
        (_no_checkpoint, "no checkpoint in"),
        (_damaged_checkpoint, "is no checkpoint that can be read here"),
        (_not_a_config, "holds no nerfstudio training config but dict"),
        (_unknown_package, "cannot be read here"),
        (_other_model, "of the model, the first field.mlp_head"),
        (_other_shapes, "does not fit the model of"),
        (_nothing_held_out, "holds no picture out of training"),
        (_a_run_of_ours, "is a run of Fieldbook's: score it without --trust-pickles"),
    ],
)
def test_a_mistake_is_one_line_and_no_table(theirs: RunFiles, spoil, words: str, capsys):
    spoil(theirs)
    assert main(["score", str(theirs.root), "--trust-pickles"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not theirs.images_csv.exists()
    assert not theirs.test.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trust-pickles", "--paths", "p"], "--paths cannot be given with a trusted run"),
        (["--out", "o"], "--out cannot be given with a run of Fieldbook's"),
        (["--data", "d"], "--data cannot be given with a run of Fieldbook's"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(theirs: RunFiles, options, words: str, capsys):
    assert main(["score", str(theirs.root), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_true_picture_with_alpha_is_blended_as_the_model_says():
    import torch

    from fieldbook.errors import UserError
    from methods.runner.foreign import true_picture

    rgba = torch.tensor([[[0.2, 0.4, 0.6, 0.5]]])
    on_white = pytest.approx([0.6, 0.7, 0.8])
    grey = SimpleNamespace(renderer_rgb=SimpleNamespace(blend_background=lambda image: image[..., :3] * 0 + 0.5))
    ours = SimpleNamespace(render_background=lambda: torch.ones(3))
    assert true_picture(grey, rgba, {}, Path("a.png"))[0, 0] == pytest.approx([0.5] * 3)
    assert true_picture(ours, rgba, {}, Path("a.png"))[0, 0] == on_white
    assert true_picture(SimpleNamespace(), rgba, {"background": torch.ones(3)}, Path("a.png"))[0, 0] == on_white
    bytes_ = torch.tensor([[[51, 102, 255]]], dtype=torch.uint8)
    assert true_picture(SimpleNamespace(), bytes_, {}, Path("a.png"))[0, 0] == pytest.approx([0.2, 0.4, 1.0])
    with pytest.raises(UserError, match=r"a\.png has an alpha channel"):
        true_picture(SimpleNamespace(), rgba, {}, Path("a.png"))


def test_a_blended_truth_keeps_its_precision_in_the_float_convention_only():
    from eval.foreign import conventions

    eight = np.round(np.random.default_rng(0).random((4, 5, 3)) * 255)
    plain = conventions((eight / 255).astype(np.float32))
    assert plain["float"] is plain["uint8"]
    np.testing.assert_array_equal(plain["uint8"], eight / 255)
    blended = conventions(((eight + 0.3) / 256).astype(np.float32))
    np.testing.assert_allclose(blended["float"], (eight + 0.3) / 256, atol=1e-6)
    np.testing.assert_array_equal(blended["uint8"], np.round(blended["float"] * 255) / 255)


def test_pictures_of_one_name_are_told_apart_by_their_folders():
    from methods.runner.foreign import unique_names

    assert unique_names([Path("d/a.png"), Path("d/b.jpg")]) == ["a", "b"]
    assert unique_names([Path("d/left/a.png"), Path("d/right/a.png")]) == ["left-a", "right-a"]
