"""Metric cells of one rendered view: both conventions, whole picture and masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.images import read_mask, read_rgb, read_truth
from eval.metrics import CONVENTIONS, psnr, ssim
from fieldbook.errors import UserError

if TYPE_CHECKING:  # torch is only imported where LPIPS is asked for
    from eval.lpips import Lpips

Row = dict[str, Any]
Pictures = Sequence[np.ndarray]
"""One per convention, each ``[h, w, 3]`` in [0, 1]."""


@dataclass(frozen=True)
class Truth:
    """What a rendered view is compared with.

    Attributes:
        image: ``None`` for a view nobody photographed.
        mask: Where masked metrics look.
        background: What a picture with alpha is seen before.
    """

    image: Path | None
    mask: Path | None = None
    background: str | None = None


@dataclass(frozen=True)
class Scorer:
    """The metrics of one study: which families, and the LPIPS networks that could be had."""

    metrics: tuple[str, ...]
    networks: dict[str, Lpips]

    def compare(self, folder: Path, view: str, truth: Truth) -> Row:
        """Metric cells of one view.

        Raises:
            UserError: A picture is missing, or render, truth and mask differ in size.
        """
        paths = (folder / f"{view}.rgb16.png", folder / f"{view}.png")
        predictions = [read_rgb(path, bits) for path, bits in zip(paths, (16, 8), strict=True)]
        _check_size(paths[1], predictions[1], paths[0], predictions[0])
        if truth.image is None:
            return {}
        images = read_truth(truth.image, truth.background)
        _check_size(paths[1], predictions[1], truth.image, images[1])
        cells, mask = {}, None
        if truth.mask is not None:
            mask = read_mask(truth.mask)
            _check_size(truth.mask, mask, truth.image, images[1])
            cells = {"mask_fraction": float(mask.mean())}
        cells |= self._signal_cells(predictions, images, mask)
        return cells | self._lpips_cells(predictions, images, mask)

    def _signal_cells(self, predictions: Pictures, images: Pictures, mask: np.ndarray | None) -> Row:
        cells: Row = {}
        for name, metric in (("psnr", psnr), ("ssim", ssim)):
            for convention, prediction, image in zip(CONVENTIONS, predictions, images, strict=True):
                if name in self.metrics:
                    cells[f"{name}_{convention}"] = metric(prediction, image)
                if name in self.metrics and mask is not None:
                    cells[f"masked_{name}_{convention}"] = metric(prediction, image, mask)
        return cells

    def _lpips_cells(self, predictions: Pictures, images: Pictures, mask: np.ndarray | None) -> Row:
        cells: Row = {}
        for net, network in self.networks.items():
            if images[0] is images[1]:  # as is usual: its features are then computed once
                scores = network.compare(predictions, images[0], mask)
            else:
                pairs = zip(predictions, images, strict=True)
                scores = [network.compare([prediction], image, mask)[0] for prediction, image in pairs]
            for convention, score in zip(CONVENTIONS, scores, strict=True):
                cells[f"lpips_{net}_{convention}"] = score.value
                cells[f"masked_lpips_{net}_{convention}"] = score.masked
        return cells


def _check_size(path: Path, image: np.ndarray, other_path: Path, other: np.ndarray) -> None:
    if image.shape[:2] != other.shape[:2]:
        (h, w), (other_h, other_w) = image.shape[:2], other.shape[:2]
        raise UserError(f"{path} is {w}x{h} pixels, {other_path} is {other_w}x{other_h}; they must agree")
