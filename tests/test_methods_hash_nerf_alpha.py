"""Pictures with an alpha channel that one of nerfstudio's own parsers found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from PIL import Image

from methods.hash_nerf.config import hash_nerf_config

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.cuda.amp:FutureWarning"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),  # nerfstudio asks for four
]


@pytest.fixture
def build(write_blender, tmp_path: Path):
    """Build hash-nerf's pipeline on the Blender ball with nerfstudio's parser, in the pictures' mode asked for."""

    def made(mode: str = "RGBA", alpha_color: str | None = "white") -> Any:
        folder = write_blender(tmp_path / "ball", {"train": 2, "test": 1, "val": 1}, mode=mode)
        config: Any = hash_nerf_config().pipeline
        config.datamanager.dataparser = BlenderDataParserConfig(data=folder, alpha_color=alpha_color)
        config.model.log2_hashmap_size, config.model.occupancy_res = 10, 16
        return config.setup(device="cpu", test_mode="val")

    return made


def _picture(pipeline: Any) -> tuple[np.ndarray, torch.Tensor]:
    dataset = pipeline.datamanager.train_dataset
    stored = np.asarray(Image.open(dataset.image_filenames[0]), dtype=np.float32) / 255
    return stored, dataset.get_image_float32(0)


def test_the_model_is_bounded_and_shows_the_parsers_colour(build):
    model = build(alpha_color="black").model
    assert model.march.cascades == 1
    assert torch.equal(model.render_background(), torch.zeros(3))


def test_where_the_parser_names_no_colour_it_is_white(build):
    assert torch.equal(build(alpha_color=None).model.render_background(), torch.ones(3))


def test_training_and_held_out_pictures_keep_their_alpha(build):
    pipeline = build()
    stored, shown = _picture(pipeline)
    assert np.array_equal(shown.numpy(), stored)
    assert 0 < stored[..., 3].mean() < 1
    assert pipeline.datamanager.eval_dataset.get_image_float32(0).shape[-1] == 4


def test_pictures_without_alpha_are_as_nerfstudio_gives_them_and_unbounded(build):
    pipeline = build(mode="RGB")
    stored, shown = _picture(pipeline)
    assert np.array_equal(shown.numpy(), stored)
    assert shown.shape[-1] == 3
    assert pipeline.model.march.cascades > 1


def test_the_truth_of_a_held_out_picture_is_seen_before_the_parsers_colour(build):
    pipeline = build()
    camera, batch = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
    outputs = pipeline.eval().model.get_outputs_for_camera(camera)
    _, pictures = pipeline.model.get_image_metrics_and_images(outputs, batch)
    truth = pictures["img"][:, : batch["image"].shape[1]]
    assert torch.equal(truth[0, 0], torch.ones(3))  # the corner is empty
    assert truth.shape[-1] == 3
