"""Truth, prediction and error side by side, small enough to live inside one HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from plotly.colors import hex_to_rgb, sequential

from data.alpha import read_shown
from fieldbook.layout import StudyFiles, part
from methods.runner.transforms import read_transforms
from reports.records import RunRecord, read_csv

# Base64 text of all pictures of a report together.
MAX_TOTAL_CHARS = 12_000_000
# A difference of 1/4 of the full range is brightest: a bad view still shows its shape, a good one is dark.
ERROR_GAIN = 4.0
_JPEG_QUALITY = 85
_COLOURS = np.array([hex_to_rgb(c) for c in sequential.Inferno], dtype=float)
ERROR_CSS = f"linear-gradient(to right, {', '.join(sequential.Inferno)})"


@dataclass(frozen=True)
class View:
    """Where one rendered view and its truth lie.

    Attributes:
        split: ``test`` or the name of a novel-view path.
        truth: None where no true image exists.
        background: What a truth with an alpha channel is shown before.
    """

    split: str
    name: str
    prediction: Path
    truth: Path | None
    background: str | None = None


@dataclass(frozen=True)
class Picture:
    """One picture as a data URL, with the words for those who cannot see it."""

    caption: str
    source: str
    alt: str


def chosen_views(run: RunRecord, study: StudyFiles) -> list[View]:
    """The middle test view, and the middle view of the first novel-view path, that the run rendered.

    The choice looks at names only, so every cell of a scene shows the same views.
    """
    rows = read_csv(run.files.images_csv, ("split", "view"))
    splits = list(dict.fromkeys(r["split"] for r in rows))
    chosen = [s for s in splits if s == "test"][:1] + [s for s in splits if s != "test"][:1]
    views = []
    for split in chosen:
        names = sorted({r["view"] for r in rows if r["split"] == split})
        views.append(_view(run, study, split, names[len(names) // 2]))
    return [v for v in views if v.prediction.exists()]


def _view(run: RunRecord, study: StudyFiles, split: str, name: str) -> View:
    if split == "test":
        dataset = read_transforms(run.dataset.transforms) if run.dataset.transforms.exists() else {}
        truth = _test_truth(run, dataset, name)
        return View(split, name, run.files.test / part(f"{name}.png"), truth, dataset.get("background"))
    truth = study.path(run.entry["scene"], split).truth / part(f"{name}.png")
    return View(split, name, run.files.path(split) / part(f"{name}.png"), truth if truth.exists() else None)


def _test_truth(run: RunRecord, dataset: dict[str, Any], name: str) -> Path | None:
    """The dataset's own picture of a test frame: what the scores were computed against."""
    frames = dataset.get("frames", [])
    paths = (run.dataset.root / f["file_path"] for f in frames if Path(f["file_path"]).stem == name)
    return next((p for p in paths if p.exists()), None)


def pictures(view: View, long_side: int) -> list[Picture]:
    """Truth, prediction and error of a view; only the prediction where there is no truth.

    Args:
        view: The view; its prediction must exist.
        long_side: Pictures are shrunk to this many pixels on their longer side, never enlarged.
    """
    prediction = read_shown(view.prediction, None)
    what = f"view {view.name} of {view.split}"
    drawn = [Picture("prediction", _data_url(prediction, long_side), f"Prediction of {what}")]
    if view.truth is None:
        return drawn
    truth = read_shown(view.truth, view.background)
    if truth.shape != prediction.shape:
        size = (prediction.shape[1], prediction.shape[0])
        truth = np.asarray(Image.fromarray(truth).resize(size, Image.Resampling.LANCZOS))
    error = error_colours(truth, prediction)
    return [
        Picture("truth", _data_url(truth, long_side), f"Truth of {what}"),
        *drawn,
        Picture("error", _data_url(error, long_side), f"Error of {what}, dark is small"),
    ]


def error_colours(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Mean absolute difference over the channels, times ``ERROR_GAIN``, in the Inferno colours.

    Args:
        truth: ``[h, w, 3]`` uint8.
        prediction: ``[h, w, 3]`` uint8.

    Returns:
        ``[h, w, 3]`` uint8; from ``1 / ERROR_GAIN`` of the range on, all differences are brightest.
    """
    difference = np.abs(truth.astype(float) - prediction.astype(float)).mean(axis=-1) / 255
    level = np.clip(difference * ERROR_GAIN, 0, 1) * (len(_COLOURS) - 1)
    stops = np.arange(len(_COLOURS))
    channels = [np.interp(level, stops, _COLOURS[:, c]) for c in range(3)]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def long_side_for(count: int) -> int:
    """Pixels on the longer side of each picture when ``count`` of them share one page."""
    return 400 if count <= 60 else 280 if count <= 240 else 200


def total_chars(drawn: Iterable[Picture]) -> int:
    """What the pictures add to the page."""
    return sum(len(p.source) for p in drawn)


def _data_url(pixels: np.ndarray, long_side: int) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
