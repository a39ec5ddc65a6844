"""Datasets with alpha: blended by nerfstudio or handed to the model as they are, before one background either way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldbook.errors import UserError
from fieldbook.layout import DatasetFiles, RunFiles

SPEC: dict[str, Any] = {"method": "nerfacto", "preset": "smoke", "seed": 3, "device": "cpu", "torch_threads": 1}
COLOURS = {"white": [1.0, 1.0, 1.0], "black": [0.0, 0.0, 0.0]}
NAMES = ("train_0.png", "train_1.png", "test_0.png")


def _pixels(index: int, channels: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (12, 16, channels), np.uint8)


def _dataset(root: Path, background: str | None = "white", channels: int = 4) -> DatasetFiles:
    root.mkdir()
    frames = []
    for index, name in enumerate(NAMES):
        Image.fromarray(_pixels(index, channels)).save(root / name)
        lens = {"fl_x": 14.0, "fl_y": 14.0, "cx": 8.0, "cy": 6.0, "w": 16, "h": 12}
        pose = np.eye(4)
        pose[2, 3] = 1.0
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), **lens})
    scene = {"near": 0.4, "far": 1.6, "poi": [0, 0, 0], "bounds": [[-0.4] * 3, [0.4] * 3]}
    (root / "scene.json").write_text(json.dumps(scene))
    lists = {"train_filenames": NAMES[:2], "val_filenames": NAMES[2:], "test_filenames": NAMES[2:]}
    meta = {"frames": frames, **lists, "scene_json": "scene.json"}
    (root / "transforms.json").write_text(json.dumps(meta | ({"background": background} if background else {})))
    return DatasetFiles(root)


def _outputs(dataset: DatasetFiles, **options: Any) -> Any:
    from methods.runner.config import FieldbookDataParserConfig

    return FieldbookDataParserConfig(data=dataset.transforms, **options).setup().get_dataparser_outputs("train")


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("keep_alpha", [False, True])
def test_nerfstudio_blends_over_the_background_unless_alpha_is_kept(tmp_path: Path, background: str, keep_alpha: bool):
    import torch
    from nerfstudio.data.datasets.base_dataset import InputDataset

    outputs = _outputs(_dataset(tmp_path / "d", background), keep_alpha=keep_alpha)
    behind = outputs.metadata["background"]
    assert (behind.dtype, behind.tolist()) == (torch.float32, COLOURS[background])
    assert (outputs.alpha_color is None) == keep_alpha
    dataset = InputDataset(outputs)
    assert torch.equal(dataset.metadata["background"], behind)  # what a model is given
    image, straight = dataset.get_image_float32(0).numpy(), _pixels(0, 4) / 255
    if keep_alpha:
        np.testing.assert_allclose(image, straight, atol=1e-6)
        return
    alpha = straight[..., 3:]
    np.testing.assert_allclose(image, alpha * straight[..., :3] + (1 - alpha) * COLOURS[background], atol=1e-6)


def test_pictures_without_alpha_have_neither_background_nor_alpha_colour(tmp_path: Path):
    outputs = _outputs(_dataset(tmp_path / "d", None, channels=3))
    assert "background" not in outputs.metadata
    assert outputs.alpha_color is None


def test_an_unknown_background_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no background 'green'; allowed: black, white"):
        _outputs(_dataset(tmp_path / "d", "green"))


def _run(folder: Path, method: str) -> RunFiles:
    return RunFiles(folder / "study" / method / "run")


METHODS = ("nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "instant-ngp", "splatfacto", "neus")


@pytest.mark.parametrize("method", METHODS)
def test_every_built_in_method_shows_the_datasets_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
):
    from methods.presets import method_entry
    from methods.runner import setup

    monkeypatch.setattr(setup, "check_needs", lambda *_: None)
    white, black, plain = (_dataset(tmp_path / str(b), b) for b in ("white", "black", None))
    default = setup.method_config(method).pipeline.model.background_color  # pyright: ignore
    for preset in method_entry(method).presets:
        spec = {**SPEC, "method": method, "preset": preset}
        for dataset, expected in ((white, "white"), (black, "black"), (plain, default)):
            config: Any = setup.build_config(_run(tmp_path, method), dataset, spec)
            assert config.pipeline.model.background_color == expected
    chosen = {**spec, "overrides": {"pipeline.model.background_color": "random"}}
    config = setup.build_config(_run(tmp_path, method), white, chosen)
    assert config.pipeline.model.background_color == "random"


def test_a_model_without_a_background_is_left_alone():
    from types import SimpleNamespace

    from methods.runner.setup import apply_background

    config = SimpleNamespace(pipeline=SimpleNamespace(model=SimpleNamespace(near_plane=1)))
    apply_background(config, "white")
    assert vars(config.pipeline.model) == {"near_plane": 1}


@pytest.mark.parametrize("method", ["nerfacto", "vanilla-nerf", "tensorf"])
def test_an_empty_scene_renders_as_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str):
    import torch
    from nerfstudio.cameras.rays import RayBundle

    from methods.runner import setup
    from methods.runner.offline import quiet, without_downloads

    dataset = _dataset(tmp_path / "d", "white")
    small = {"pipeline.model.log2_hashmap_size": 10} if method == "nerfacto" else {}
    config: Any = setup.build_config(_run(tmp_path, method), dataset, {**SPEC, "method": method, "overrides": small})
    outputs = _outputs(dataset)
    with without_downloads(), quiet():
        model = config.pipeline.model.setup(
            scene_box=outputs.scene_box, num_train_data=2, metadata=outputs.metadata, device="cpu", grad_scaler=None
        ).eval()
    for field in (getattr(model, name, None) for name in ("field", "field_coarse", "field_fine")):
        if field is not None:
            nothing = lambda samples, real=field.get_density: tuple([0 * real(samples)[0], real(samples)[1]])  # noqa: E731
            monkeypatch.setattr(field, "get_density", nothing)
    if method == "tensorf":
        monkeypatch.setattr(model.field, "get_density", lambda samples: torch.zeros(*samples.frustums.shape, 1))
    rays = RayBundle(
        origins=torch.tensor([[0.0, 0.0, 1.0]]),
        directions=torch.tensor([[0.0, 0.0, -1.0]]),
        pixel_area=torch.full((1, 1), 1e-3),
        camera_indices=torch.zeros((1, 1), dtype=torch.long),
    )
    with torch.no_grad():
        found = model(rays)
    rgb = found["rgb"] if "rgb" in found else found["rgb_fine"]
    assert torch.allclose(rgb, torch.ones_like(rgb), atol=1e-5)


def test_a_method_says_itself_whether_it_keeps_alpha_and_a_study_may_override_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from nerfstudio.configs.method_configs import all_methods

    from methods.runner import setup
    from methods.runner.config import FieldbookDataParserConfig

    dataset = _dataset(tmp_path / "d")
    own = setup.method_config("nerfacto")
    own.pipeline.datamanager.dataparser = FieldbookDataParserConfig(keep_alpha=True)  # pyright: ignore
    monkeypatch.setitem(all_methods, "plugin", own)
    key = "pipeline.datamanager.dataparser.keep_alpha"
    for method, overrides, kept in (
        ("plugin", {}, True),
        ("plugin", {key: False}, False),
        ("nerfacto", {}, False),
        ("nerfacto", {key: True}, True),
    ):
        spec = {**SPEC, "method": method, "preset": "paper", "overrides": overrides}
        setup.check_method(spec)
        config: Any = setup.build_config(_run(tmp_path, method), dataset, spec)
        parser = config.pipeline.datamanager.dataparser
        assert parser == replace(FieldbookDataParserConfig(), data=dataset.transforms, keep_alpha=kept)
    assert own.pipeline.datamanager.dataparser.data == Path()  # pyright: ignore - the registry's is left alone
