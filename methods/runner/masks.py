"""Soft masks for nerfstudio, which takes every value but 0 for yes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nerfstudio.data.datasets import base_dataset
from PIL import Image

KEEP = 128
"""From this value on a pixel is kept, as the masked metrics have it."""


def read_mask(filepath: Path, scale_factor: float = 1.0) -> torch.Tensor:
    """What nerfstudio's ``get_image_mask_tensor_from_path`` reads, but for values between 0 and 255.

    Args:
        filepath: One channel of 8 bits; of one that knows 0 and 1 only, 1 is kept.
        scale_factor: The mask is resized by it.

    Returns:
        Bool ``[h, w, 1]``.
    """
    with Image.open(filepath) as image:
        size = [int(side * scale_factor) for side in image.size]
        values = np.array(image if scale_factor == 1.0 else image.resize(size, Image.Resampling.NEAREST))
    if values.ndim != 2:
        raise ValueError("The mask image should have 1 channel")
    return torch.from_numpy(values >= (KEEP if values.max(initial=0) > 1 else 1))[..., None]


def take_halves() -> None:
    """Let nerfstudio's datasets read masks so; it has no setting for it."""
    base_dataset.get_image_mask_tensor_from_path = read_mask
