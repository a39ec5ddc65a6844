"""The stage ``score``: one row per rendered image, in one protocol for every method.

``float`` columns compare the 16-bit render with the true picture, ``uint8`` columns the 8-bit render (the
picture as published). A true picture with an alpha channel is blended over the dataset's background, in float for
``float``, rounded to 8 bits for ``uint8``. Masked columns repeat them inside the dataset's mask of that frame. An
empty cell means that the value does not exist or could not be had (no truth, no mask, picture too small, no LPIPS
weights).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.metrics import CONVENTIONS, METRICS
from eval.novelty import novelty
from eval.scorer import Render, Row, Scorer, Truth
from eval.statistics import run_means
from fieldbook.documents import RENDERS, read_document
from fieldbook.errors import UserError, nearest
from fieldbook.files import sha256_file, write_text
from fieldbook.layout import DatasetFiles, RunFiles
from methods.runner.transforms import read_transforms

if TYPE_CHECKING:  # torch is only needed, and only imported, where LPIPS is asked for
    from eval.lpips import Lpips

TEST = "test"
METRIC_COLUMNS = tuple(f"{metric}_{convention}" for metric in METRICS for convention in CONVENTIONS)
MASKED_COLUMNS = tuple(f"masked_{column}" for column in METRIC_COLUMNS)
IMAGE_COLUMNS = (
    *("split", "view", "step", "has_truth"),
    *METRIC_COLUMNS,
    *MASKED_COLUMNS,
    *("mask_fraction", "prediction_sha256", "truth_sha256"),
    *("nearest_frame", "nearest_angle_deg", "nearest_distance", "rays", "seconds"),
)


@dataclass(frozen=True)
class Dataset:
    """What scoring needs of a dataset.

    Attributes:
        test: Truth of each test view, by view name (the frame's name without suffix).
        training: Names of the training frames.
        training_poses: ``[t, 4, 4]`` ``scene_from_camera`` of the training frames.
    """

    test: dict[str, Truth]
    training: list[str]
    training_poses: np.ndarray


def score(run: RunFiles, dataset: DatasetFiles, truths: dict[str, Path], spec: dict[str, Any]) -> dict[str, Any]:
    """Score a run's rendered views and write its ``images.csv``.

    Args:
        run: Holds ``test/`` and ``cones/<path>/``, each with ``renders.json`` and the views' pictures.
        dataset: Its pictures and masks are the truth of the test views, its training poses the origin of
            novelty.
        truths: The study's novel-view paths by name, each with the folder of its true pictures
            ``<view>.png``; the folder or single pictures may be missing. Other renders lying about in the
            run's folder are not scored.
        spec: ``metrics`` lists the families to compute, of ``METRICS``; ``weights`` says where LPIPS's
            backbones are, see ``eval.lpips.load_lpips``; ``device`` (``auto``) where LPIPS runs.

    Returns:
        Means over the test views (where every one has the value; ``inf`` as a string, for JSON), counts, and
        what became of LPIPS.

    Raises:
        UserError: Unknown metric; a render, a frame or a truth is missing or has the wrong size; names the
            file.
    """
    scorer, lpips = make_scorer(spec)
    known = _read_dataset(dataset)
    rows = list(_score_folder(run.test, TEST, known.test, scorer, known))
    for name, folder in sorted(truths.items()):
        rows += _score_folder(run.path(name), name, folder, scorer, known)
    return write_rows(run.images_csv, rows) | lpips


def make_scorer(spec: dict[str, Any]) -> tuple[Scorer, dict[str, Any]]:
    """The metrics that a spec asks for, and what became of LPIPS, for the status.

    Args:
        spec: As ``score`` takes it.

    Raises:
        UserError: Unknown metric.
    """
    metrics = _checked(spec["metrics"])
    networks, lpips = _load_networks(metrics, spec.get("weights"), spec.get("device", "auto"))
    return Scorer(metrics, networks), lpips


def write_rows(path: Path, rows: list[Row]) -> dict[str, Any]:
    """Write ``images.csv``; the means over the test views and the counts, for the status."""
    write_text(path, format_rows(rows))
    return _numbers(rows)


def format_rows(rows: Iterable[Row]) -> str:
    """CSV text with ``IMAGE_COLUMNS``; ``None`` and absent keys give empty cells, infinite values ``inf``."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, IMAGE_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value


def _checked(metrics: list[str]) -> tuple[str, ...]:
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}; {nearest(metric, METRICS)}")
    return tuple(metrics)


def _load_networks(
    metrics: tuple[str, ...], weights: str | None, device: str
) -> tuple[dict[str, Lpips], dict[str, Any]]:
    """The networks that could be had, and ``lpips`` and ``lpips_weights_sha256`` for the status."""
    nets = [metric.removeprefix("lpips_") for metric in metrics if metric.startswith("lpips_")]
    if not nets:
        return {}, {"lpips": "not asked for"}
    if weights is None or weights == "none":
        return {}, {"lpips": "no backbone weights: the config says weights: none", "lpips_weights_sha256": {}}
    import torch

    from eval.lpips import load_lpips

    device = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    loaded = {net: load_lpips(net, weights, device) for net in nets}
    reasons = [network for network in loaded.values() if isinstance(network, str)]
    networks = {net: network for net, network in loaded.items() if not isinstance(network, str)}
    state = "; ".join(dict.fromkeys(reasons)) or "available"
    hashes = {net: network.weights_sha256 for net, network in networks.items()}
    return networks, {"lpips": state, "lpips_weights_sha256": hashes}


def _read_dataset(files: DatasetFiles) -> Dataset:
    document = read_transforms(files.transforms)
    try:
        frames = {frame["file_path"]: frame for frame in document["frames"]}
        background = document.get("background")
        test = {Path(name).stem: _truth_of(files.root, frames[name], background) for name in document["test_filenames"]}
        training = [frames[name] for name in document["train_filenames"]]
    except KeyError as error:
        raise UserError(f"{files.transforms} lacks {error}; make the dataset again") from None
    poses = np.array([frame["transform_matrix"] for frame in training], dtype=np.float64).reshape(-1, 4, 4)
    return Dataset(test, [Path(frame["file_path"]).name for frame in training], poses)


def _truth_of(root: Path, frame: dict[str, Any], background: str | None) -> Truth:
    mask = frame.get("mask_path")
    return Truth(root / frame["file_path"], None if mask is None else root / mask, background)


def _score_folder(
    folder: Path, split: str, truth: dict[str, Truth] | Path, scorer: Scorer, known: Dataset
) -> Iterator[Row]:
    """Rows of one folder of renders; ``truth`` per view, or a folder of true pictures that may lack some."""
    index = folder / "renders.json"
    renders = read_document(index, RENDERS)
    views = {view["name"]: view for view in renders["views"]}
    if isinstance(truth, dict) and truth.keys() != views.keys():
        odd = sorted(truth.keys() ^ views.keys())
        raise UserError(f"{index} and the dataset's test list differ in {', '.join(odd)}; render again")
    for name, cells in zip(views, _novelty_cells(list(views.values()), known), strict=True):
        fixed = {"split": split, "view": name, "step": renders["step"]}
        costs = {key: views[name][key] for key in ("rays", "seconds")}
        yield fixed | view_cells(Render.of_run(folder, name), _truth_for(name, truth), scorer) | cells | costs


def _truth_for(name: str, truth: dict[str, Truth] | Path) -> Truth:
    if isinstance(truth, dict):
        return truth[name]
    path = truth / f"{name}.png"
    return Truth(path if path.is_file() else None)


def view_cells(render: Render, truth: Truth, scorer: Scorer) -> Row:
    """Metric cells and hashes of one view.

    Raises:
        UserError: As ``Scorer.compare``.
    """
    return scorer.compare(render, truth) | {
        "has_truth": int(truth.image is not None),
        "prediction_sha256": sha256_file(render.eight),
        "truth_sha256": None if truth.image is None else sha256_file(truth.image),
    }


def _novelty_cells(views: list[dict[str, Any]], known: Dataset) -> list[Row]:
    poses = np.array([view["pose"] for view in views], dtype=np.float64).reshape(-1, 4, 4)
    found = novelty(poses, known.training_poses)
    frames = [known.training[i] for i in found.index]
    columns = ("nearest_frame", "nearest_angle_deg", "nearest_distance")
    cells = zip(frames, found.angle_deg.tolist(), found.distance.tolist(), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in cells]


def _numbers(rows: list[Row]) -> dict[str, Any]:
    filled = [{**dict.fromkeys(IMAGE_COLUMNS), **row} for row in rows]
    means = run_means(filled, (*METRIC_COLUMNS, *MASKED_COLUMNS)).get(TEST, {})
    present = {name: cell.mean for name, cell in means.items() if cell.mean is not None and cell.complete}
    counts = {"test_views": sum(row["split"] == TEST for row in rows), "views": len(rows)}
    return counts | {name: mean if math.isfinite(mean) else str(mean) for name, mean in present.items()}
