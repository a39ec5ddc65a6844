"""Metric cells of one rendered view: both conventions, whole picture and masked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.images import read_mask, read_rgb, read_truth
from eval.metrics import psnr, ssim
from fieldbook.errors import UserError

if TYPE_CHECKING:  # torch is only imported where LPIPS is asked for
    from eval.lpips import Lpips

Row = dict[str, Any]
Pictures = Mapping[str, np.ndarray]
"""By convention, each ``[h, w, 3]`` in [0, 1]."""


@dataclass(frozen=True)
class Render:
    """A rendered view's files.

    Attributes:
        eight: With 8 bits per channel, as a reader of the published picture sees it.
        sixteen: With 16 bits; ``None`` where nobody kept more than 8, so that the ``float`` convention has nothing to
            compare.
    """

    eight: Path
    sixteen: Path | None = None

    @classmethod
    def of_run(cls, folder: Path, view: str) -> Render:
        """The files that a run's rendering leaves."""
        return cls(folder / f"{view}.png", folder / f"{view}.rgb16.png")

    def read(self) -> dict[str, np.ndarray]:
        """What each convention compares.

        Raises:
            UserError: A picture is missing, or of another depth, size or channel count.
        """
        eight = read_rgb(self.eight)
        if self.sixteen is None:
            return {"uint8": eight}
        sixteen = read_rgb(self.sixteen, 16)
        _check_size(self.eight, eight, self.sixteen, sixteen)
        return {"float": sixteen, "uint8": eight}


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

    def compare(self, render: Render, truth: Truth) -> Row:
        """Metric cells of one view.

        Raises:
            UserError: A picture is missing, or render, truth and mask differ in size.
        """
        predictions = render.read()
        if truth.image is None:
            return {}
        seen, rounded = read_truth(truth.image, truth.background)
        images, mask = {"float": seen, "uint8": rounded}, None
        _check_size(render.eight, predictions["uint8"], truth.image, images["uint8"])
        if truth.mask is not None:
            mask = read_mask(truth.mask)
            _check_size(truth.mask, mask, truth.image, images["uint8"])
        return self.cells(predictions, images, mask)

    def cells(self, predictions: Pictures, images: Pictures, mask: np.ndarray | None) -> Row:
        """Metric cells of pictures at hand.

        Args:
            predictions: Rendered, by the conventions there are.
            images: True, by convention.
            mask: ``[h, w]`` bool, where masked metrics look.
        """
        cells: Row = {} if mask is None else {"mask_fraction": float(mask.mean())}
        cells |= self._signal_cells(predictions, images, mask)
        return cells | self._lpips_cells(predictions, images, mask)

    def _signal_cells(self, predictions: Pictures, images: Pictures, mask: np.ndarray | None) -> Row:
        cells: Row = {}
        for name, metric in (("psnr", psnr), ("ssim", ssim)):
            for convention, prediction in predictions.items():
                if name in self.metrics:
                    cells[f"{name}_{convention}"] = metric(prediction, images[convention])
                if name in self.metrics and mask is not None:
                    cells[f"masked_{name}_{convention}"] = metric(prediction, images[convention], mask)
        return cells

    def _lpips_cells(self, predictions: Pictures, images: Pictures, mask: np.ndarray | None) -> Row:
        cells: Row = {}
        for net, network in self.networks.items():
            if images["float"] is images["uint8"]:  # as is usual: its features are then computed once
                scores = network.compare(list(predictions.values()), images["uint8"], mask)
            else:
                scores = [network.compare([p], images[name], mask)[0] for name, p in predictions.items()]
            for convention, score in zip(predictions, scores, strict=True):
                cells[f"lpips_{net}_{convention}"] = score.value
                cells[f"masked_lpips_{net}_{convention}"] = score.masked
        return cells


def _check_size(path: Path, image: np.ndarray, other_path: Path, other: np.ndarray) -> None:
    if image.shape[:2] != other.shape[:2]:
        (h, w), (other_h, other_w) = image.shape[:2], other.shape[:2]
        raise UserError(f"{path} is {w}x{h} pixels, {other_path} is {other_w}x{other_h}; they must agree")
