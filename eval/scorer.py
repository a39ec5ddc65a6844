"""Metric cells of one rendered view: both conventions, whole picture and masked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.images import read_mask, read_rgb
from eval.metrics import CONVENTIONS, psnr, ssim
from fieldbook.errors import UserError

if TYPE_CHECKING:  # torch is only imported where LPIPS is asked for
    from eval.lpips import Lpips

Row = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """What a rendered view is compared with; ``image`` is ``None`` for a view nobody photographed."""

    image: Path | None
    mask: Path | None = None


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
        image = read_rgb(truth.image)
        _check_size(paths[1], predictions[1], truth.image, image)
        cells, mask = {}, None
        if truth.mask is not None:
            mask = read_mask(truth.mask)
            _check_size(truth.mask, mask, truth.image, image)
            cells = {"mask_fraction": float(mask.mean())}
        cells |= self._signal_cells(predictions, image, mask)
        return cells | self._lpips_cells(predictions, image, mask)

    def _signal_cells(self, predictions: list[np.ndarray], image: np.ndarray, mask: np.ndarray | None) -> Row:
        cells: Row = {}
        for name, metric in (("psnr", psnr), ("ssim", ssim)):
            for convention, prediction in zip(CONVENTIONS, predictions, strict=True):
                if name in self.metrics:
                    cells[f"{name}_{convention}"] = metric(prediction, image)
                if name in self.metrics and mask is not None:
                    cells[f"masked_{name}_{convention}"] = metric(prediction, image, mask)
        return cells

    def _lpips_cells(self, predictions: list[np.ndarray], image: np.ndarray, mask: np.ndarray | None) -> Row:
        cells: Row = {}
        for net, network in self.networks.items():
            scores = network.compare(predictions, image, mask)
            for convention, score in zip(CONVENTIONS, scores, strict=True):
                cells[f"lpips_{net}_{convention}"] = score.value
                cells[f"masked_lpips_{net}_{convention}"] = score.masked
        return cells


def _check_size(path: Path, image: np.ndarray, other_path: Path, other: np.ndarray) -> None:
    if image.shape[:2] != other.shape[:2]:
        (h, w), (other_h, other_w) = image.shape[:2], other.shape[:2]
        raise UserError(f"{path} is {w}x{h} pixels, {other_path} is {other_w}x{other_h}; they must agree")
