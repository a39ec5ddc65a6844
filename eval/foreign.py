"""A nerfstudio run of any origin, scored like one of our own: its held-out views rendered, one row each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from eval.protocol import TEST, make_scorer, write_rows
from eval.scorer import Render, Row, Scorer
from fieldbook.errors import UserError
from fieldbook.files import atomic_dir, sha256_file, write_json
from fieldbook.layout import RunFiles
from methods.runner.foreign import ForeignRun, HeldOut
from methods.runner.offline import quiet
from methods.runner.progress import Progress
from methods.runner.renders import write_colours
from methods.runner.setup import out_of_memory_is_infeasible

log = logging.getLogger(__name__)

EXACT = 1e-3  # grey values; a picture that is off by less than this from 8 bits was read from 8 bits


def score_foreign(run: RunFiles, out: RunFiles, data: Path | None, spec: dict[str, Any]) -> dict[str, Any]:
    """Render a foreign run's held-out views into ``test/`` and write their ``images.csv``.

    Reads pickles: see ``methods.runner.foreign``.

    Args:
        run: The foreign run.
        out: Where pictures and rows go.
        data: Where its dataset is; ``None`` for where its config says.
        spec: As ``eval.protocol.score`` takes it.

    Returns:
        As ``eval.protocol.score``.

    Raises:
        UserError: Unknown metric; the run cannot be opened here, or holds nothing out.
        Infeasible: The machine lacks what the method needs, or memory.
    """
    scorer, lpips = make_scorer(spec)
    with out_of_memory_is_infeasible(lambda: ("while rendering", {})):
        opened = ForeignRun(run, spec.get("device", "auto"), data)
        if not opened.count():
            raise UserError(f"{run.root} holds no picture out of training; score pictures of your own choice instead")
        with atomic_dir(out.test) as folder, quiet(), Progress("render", opened.count(), "view") as progress:
            rows: list[Row] = []
            for view in opened.views():
                rows.append(_row(view, folder, scorer) | {"step": opened.step})
                progress.update(len(rows))
            views = [{"name": r["view"], "rays": r["rays"], "seconds": r["seconds"]} for r in rows]
            write_json(folder / "renders.json", {"views": views, "step": opened.step})
    return write_rows(out.images_csv, rows) | lpips


def _row(view: HeldOut, folder: Path, scorer: Scorer) -> Row:
    write_colours(folder, view.name, view.rgb)
    render = Render.of_run(folder, view.name)
    cells = scorer.cells(render.read(), conventions(view.truth), view.mask)
    return cells | {
        "split": TEST,
        "view": view.name,
        "has_truth": 1,
        "prediction_sha256": sha256_file(render.eight),
        "truth_sha256": sha256_file(view.source),
        "rays": view.rgb.shape[0] * view.rgb.shape[1],
        "seconds": round(view.seconds, 6),
    }


def conventions(truth: np.ndarray) -> dict[str, np.ndarray]:
    """A true picture as each convention compares with it; one and the same array where it has 8 bits."""
    grey = truth.astype(np.float64) * 255
    eight = np.round(grey)
    if np.abs(grey - eight).max() < EXACT:
        return dict.fromkeys(("float", "uint8"), eight / 255)
    return {"float": grey / 255, "uint8": eight / 255}
