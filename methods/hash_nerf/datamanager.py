"""hash-nerf's pictures: with their alpha channel, whichever of nerfstudio's parsers found them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager
from nerfstudio.data.datasets.base_dataset import InputDataset

from data.pictures import has_alpha

SHOWN_BEFORE = (1.0, 1.0, 1.0)  # what a cut-out object stands before where its parser does not say, as in NeRF's scenes


class HashNerfDataManager(VanillaDataManager[InputDataset]):
    """nerfstudio's data manager, without its blending of pictures that have an alpha channel."""

    def create_train_dataset(self) -> InputDataset:
        """Training pictures, ``metadata["background"]`` set where they have an alpha channel."""
        return keep_alpha(super().create_train_dataset())

    def create_eval_dataset(self) -> InputDataset:
        """The same of the held-out pictures."""
        return keep_alpha(super().create_eval_dataset())


def keep_alpha(dataset: Any) -> Any:
    """Leave a dataset's alpha channel in its pictures, and say in its metadata what they are to be seen before.

    A model that draws a random colour behind each ray needs the alpha itself: blended pictures have only one colour.

    Args:
        dataset: nerfstudio's, changed in place and returned. ``metadata["background"]`` becomes the parser's
            ``alpha_color``, or white, float32 ``[3]`` in [0, 1], if any picture has an alpha channel.
    """
    outputs = dataset._dataparser_outputs
    if "background" not in dataset.metadata and any(map(has_alpha, outputs.image_filenames)):
        colour = SHOWN_BEFORE if outputs.alpha_color is None else outputs.alpha_color
        dataset.metadata["background"] = torch.as_tensor(colour, dtype=torch.float32).expand(3).clone()
        dataset._dataparser_outputs = replace(outputs, alpha_color=None)
    return dataset
