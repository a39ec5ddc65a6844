"""neus-hash's pictures: masks become their alpha channel."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image

from data.pictures import picture_size
from fieldbook.errors import UserError
from methods.hash_nerf.datamanager import SHOWN_BEFORE, HashNerfDataManager


class CutOutDataset(InputDataset):
    """Pictures whose masks, where there are any, are their alpha channel: soft, as they are on disk.

    A mask then says what is not there, where nerfstudio's pixel sampler would only leave it out: rays are drawn
    everywhere, and the colour behind the object is the model's to choose.

    Raises:
        UserError: A mask is not as large as its picture.
    """

    def __init__(self, dataparser_outputs: Any, scale_factor: float = 1.0):
        # The sampler would draw inside masks that it knows of.
        super().__init__(replace(dataparser_outputs, mask_filenames=None), scale_factor)
        self.masks = dataparser_outputs.mask_filenames
        if self.masks is not None:
            self._check_sizes()
            self.metadata.setdefault("background", torch.tensor(SHOWN_BEFORE))

    def _check_sizes(self) -> None:
        for mask, picture in zip(self.masks, self.image_filenames, strict=True):
            sizes = ["x".join(map(str, picture_size(path))) for path in (mask, picture)]
            if sizes[0] != sizes[1]:
                raise UserError(f"{mask} is {sizes[0]}, its picture {sizes[1]}; make the masks again")

    def get_numpy_image(self, image_idx: int) -> np.ndarray:
        """The picture, uint8 ``[h, w, 3]``, or ``[h, w, 4]`` with its mask as straight alpha."""
        image = super().get_numpy_image(image_idx)
        if self.masks is None:
            return image
        with Image.open(self.masks[image_idx]) as opened:
            mask = opened.convert("L")
        if self.scale_factor != 1.0:
            mask = mask.resize(image.shape[1::-1], resample=Image.Resampling.BILINEAR)
        alpha = np.asarray(mask)
        if image.shape[2] == 4:
            alpha = np.round(alpha * (image[..., 3] / 255.0)).astype(np.uint8)
        return np.concatenate([image[..., :3], alpha[..., None]], axis=-1)


class NeusHashDataManager(HashNerfDataManager):
    """hash-nerf's data manager with pictures cut out by their masks."""

    @cached_property
    def dataset_type(self) -> type[InputDataset]:
        """``CutOutDataset``."""
        return CutOutDataset
