"""Datasets as the runner reads them: poses, splits, points and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldbook.errors import UserError
from fieldbook.files import read_json
from fieldbook.layout import DatasetFiles

from .runner_ball import RADIUS, SPEC, read_picture, run_files, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DatasetFiles:
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def test_the_parser_keeps_poses_splits_and_points_as_the_files_say(dataset: DatasetFiles):
    from methods.runner.config import FieldbookDataParserConfig

    meta = read_json(dataset.transforms)
    by_name = {f["file_path"]: f for f in meta["frames"]}
    for split in ("train", "val", "test"):
        outputs = FieldbookDataParserConfig(data=dataset.transforms).setup().get_dataparser_outputs(split)
        names = [str(p.relative_to(dataset.root)) for p in outputs.image_filenames]
        assert names == meta[f"{split}_filenames"]
        expected = np.array([by_name[n]["transform_matrix"] for n in names])[:, :3]
        np.testing.assert_allclose(outputs.cameras.camera_to_worlds, expected, atol=1e-6)
        assert outputs.dataparser_scale == 1.0
        np.testing.assert_array_equal(outputs.dataparser_transform, np.eye(4)[:3])
        np.testing.assert_allclose(outputs.metadata["points3D_xyz"], np.eye(3) * RADIUS, atol=1e-6)
        assert outputs.metadata["points3D_rgb"].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scene_json": None}, "has no 'scene_json'"),
        ({"train_filenames": ["images/no.png"]}, "train_filenames names frames that are not there: images/no.png"),
        ({"mask_of_first": "m.png"}, "1 of 10 train frames have a mask; give all or none"),
    ],
)
def test_a_broken_dataset_is_named(dataset: DatasetFiles, tmp_path: Path, change: dict[str, Any], message: str):
    from methods.runner.config import FieldbookDataParserConfig

    meta = read_json(dataset.transforms)
    if "mask_of_first" in change:
        meta["frames"][0]["mask_path"] = change.pop("mask_of_first")
    meta = {k: v for k, v in {**meta, **change}.items() if v is not None}
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(meta))
    (tmp_path / "scene.json").write_bytes((dataset.root / "scene.json").read_bytes())
    with pytest.raises(UserError, match=message):
        FieldbookDataParserConfig(data=path, load_3D_points=False).setup().get_dataparser_outputs("train")


@pytest.mark.parametrize("frames", [10, 1])
def test_training_samples_only_pixels_inside_the_masks(
    dataset: DatasetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: int
):
    from nerfstudio.models.nerfacto import NerfactoModel

    from methods.runner.train import train
    from methods.runner.transforms import scene_gives

    masked = write_dataset(tmp_path)
    meta, kept = read_json(masked.transforms), {}
    for k, frame in enumerate(meta["frames"]):
        mask = np.zeros((24, 32), np.uint8)
        mask[k : k + 6, 2 * k : 2 * k + 8] = 255  # a small window of its own for every frame
        Image.fromarray(mask).save(tmp_path / f"{k}.png")
        frame["mask_path"] = f"{k}.png"
        kept[frame["file_path"]] = mask > 0
    meta["train_filenames"] = meta["train_filenames"][:frames]
    masked.transforms.write_text(json.dumps(meta))

    real, seen = NerfactoModel.get_loss_dict, []

    def spy(self: Any, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        seen.append((batch["indices"].numpy().copy(), batch["image"].numpy().copy()))
        return real(self, outputs, batch, *args, **kwargs)

    monkeypatch.setattr(NerfactoModel, "get_loss_dict", spy)
    rays = 128 if frames > 1 else 40  # a window has 48 pixels
    few = {"max_num_iterations": 3, "pipeline.datamanager.train_num_rays_per_batch": rays}
    train(run_files(tmp_path), masked, {**SPEC, "overrides": few})
    cells, colours = (np.concatenate(part) for part in zip(*seen, strict=True))
    assert len(cells) == 3 * rays
    assert set(cells[:, 0]) == set(range(frames))
    for (image, row, column), colour in zip(cells, colours, strict=True):
        name = meta["train_filenames"][image]
        assert kept[name][row, column]
        np.testing.assert_allclose(read_picture(masked.root / name)[row, column], colour, atol=1e-3)
    assert (scene_gives(dataset.transforms), scene_gives(masked.transforms)) == ({"poses"}, {"poses", "masks"})
