"""Scoring: of a run, of any two folders of pictures, and of a nerfstudio run of any origin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from fieldbook.commands.common import load_spec
from fieldbook.config import check_keys
from fieldbook.errors import UserError
from fieldbook.gpus import take_gpu
from fieldbook.layout import DatasetFiles, PathFiles, RunFiles
from fieldbook.stage import run_stage
from fieldbook.status import Status
from fieldbook.study import scores_with_lpips

EVERYTHING = json.dumps({"metrics": ["psnr", "ssim", "lpips_alex", "lpips_vgg"], "weights": "none"})

Scored = Annotated[Positional[Path], arg(help="Folder of a run; with TRUTH, of rendered pictures.", metavar="FOLDER")]
True_ = Annotated[Positional[Path | None], arg(help="Folder of true pictures of the same names.", metavar="[TRUTH]")]
Keys = Annotated[str, arg(help="What to compute, as JSON or @FILE: metrics, weights, device.", metavar="JSON")]
Paths = Annotated[tuple[Path, ...], arg(help="The study's novel-view paths that the run has rendered.")]
Out = Annotated[Path | None, arg(help="Folder for images.csv and what is rendered; the first folder by default.")]
Trust = Annotated[bool, arg(help="RUN is any nerfstudio run: read its config.yml and checkpoint, which can run code.")]
Data = Annotated[Path | None, arg(help="Dataset of a trusted run, where it is not where its config says.")]


def score(
    run: Scored,
    truth: True_ = None,
    spec: Keys = EVERYTHING,
    paths: Paths = (),
    out: Out = None,
    trust_pickles: Trust = False,
    data: Data = None,
) -> Status:
    """Score rendered pictures, one row per picture, into images.csv.

    Example: fieldbook score RUN --spec '{"metrics": ["psnr", "ssim"], "weights": "none"}'
             fieldbook score RENDERED TRUE --out scores
             fieldbook score outputs/poster/nerfacto/2024-05-01_120000 --trust-pickles
    """
    keys = load_spec(spec)
    check_keys(keys, "study")
    if not run.is_dir():
        raise UserError(f"no such folder: {run}")
    if scores_with_lpips(keys) or trust_pickles:
        take_gpu(keys.get("device", "auto"))
    if truth is not None:
        _refuse_others("two folders of pictures", {"--paths": paths, "--trust-pickles": trust_pickles, "--data": data})
        return _score_pairs(run, truth, out or run, keys)
    if trust_pickles:
        _refuse_others("a trusted run", {"--paths": paths})
        return _score_foreign(RunFiles(run), RunFiles(out or run), data, keys)
    _refuse_others("a run of Fieldbook's", {"--out": out, "--data": data})
    return _score_run(RunFiles(run), paths, keys)


def _refuse_others(scored: str, options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(f"{', '.join(given)} cannot be given with {scored}; see `fieldbook score --help`")


def _score_run(run: RunFiles, paths: tuple[Path, ...], keys: dict[str, Any]) -> Status:
    from eval.protocol import score as work

    if run.config.is_file() and not run.run.is_file():
        text = f"{run.root} is a nerfstudio run that Fieldbook did not train; reading its config.yml and checkpoint can"
        raise UserError(f"{text} run any code in them: if you trust their maker, add --trust-pickles")
    data, truths = DatasetFiles(run.root.parent.parent), {p.name: PathFiles(p).truth for p in paths}
    return run_stage("score", run.root, lambda: work(run, data, truths, keys), [run.status("render")])


def _score_pairs(rendered: Path, true: Path, out: Path, keys: dict[str, Any]) -> Status:
    from eval.pair import find_pairs, score_pairs

    pairs, table = find_pairs(rendered, true), RunFiles(out).images_csv
    return _told(run_stage("score", out, lambda: score_pairs(pairs, table, keys)), table)


def _score_foreign(run: RunFiles, out: RunFiles, data: Path | None, keys: dict[str, Any]) -> Status:
    if not run.config.is_file():
        raise UserError(f"{run.root} is no nerfstudio run: it has no {run.config.name}")
    if run.run.is_file() and out.root.absolute() == run.root.absolute():
        raise UserError(f"{run.root} is a run of Fieldbook's: score it without --trust-pickles, or give --out")
    from eval.foreign import score_foreign

    status = run_stage("score", out.root, lambda: score_foreign(run, out, data, keys))
    return _told(status, out.images_csv)


def _told(status: Status, table: Path) -> Status:
    """Print what a person wants to know; a run of a study has its report instead."""
    if status.ok:
        numbers = status.numbers
        print(f"One row per picture, {numbers['views']} in all, in {table}; their means:")
        print("\n".join(f"  {name:18} {value}" for name, value in _means(numbers).items()))
        if numbers["lpips"] not in ("available", "not asked for"):
            print(f"LPIPS is not computed: {numbers['lpips']}")
    return status


def _means(numbers: dict[str, Any]) -> dict[str, str]:
    from eval.protocol import MASKED_COLUMNS, METRIC_COLUMNS

    return {name: f"{float(numbers[name]):.4f}" for name in (*METRIC_COLUMNS, *MASKED_COLUMNS) if name in numbers}
