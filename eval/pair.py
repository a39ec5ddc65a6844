"""Any two folders of pictures, rendered and true, scored like a run: one row per pair of one name."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.readers import IMAGE_SUFFIXES
from eval.protocol import TEST, make_scorer, view_cells, write_rows
from eval.scorer import Render, Truth
from fieldbook.errors import UserError

log = logging.getLogger(__name__)

ASIDE = (".rgb16", ".opacity")
"""Ends of the names of pictures that Fieldbook writes beside a rendered one."""


@dataclass(frozen=True)
class Pair:
    """Pictures of one name.

    Attributes:
        view: The name, without its suffix.
        render: Rendered; with 16 bits too where ``<view>.rgb16.png`` lies beside it, as in a run's folders.
        truth: True.
    """

    view: str
    render: Render
    truth: Path


def find_pairs(rendered: Path, true: Path) -> list[Pair]:
    """Pair the pictures of two folders by their names, whatever their suffixes; say which have no partner.

    Raises:
        UserError: A folder is missing, is empty or has two pictures of one name, or no name is in both.
    """
    renders, truths = _pictures(rendered), _pictures(true)
    pairs = []
    for name in sorted(renders.keys() & truths.keys()):
        sixteen = renders[name].with_name(f"{name}.rgb16.png")
        pairs.append(Pair(name, Render(renders[name], sixteen if sixteen.is_file() else None), truths[name]))
    if not pairs:
        examples = f"{min(renders)} in the first, {min(truths)} in the second"
        raise UserError(f"no picture of {rendered} has the name of one in {true} ({examples}); rename one folder's")
    for folder, names, others in ((rendered, renders, truths), (true, truths, renders)):
        alone = sorted(names.keys() - others.keys())
        if alone:
            log.warning("not scored: %d pictures of %s without a partner, the first %s", len(alone), folder, alone[0])
    return pairs


def _pictures(folder: Path) -> dict[str, Path]:
    """Pictures of a folder by name, without those that only stand beside another."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give one of rendered pictures, then one of true ones")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()):
        if path.stem in found:
            raise UserError(f"{folder} has {found[path.stem].name} and {path.name}; names must differ, so remove one")
        found[path.stem] = path
    if not found:
        raise UserError(f"{folder} holds no picture ({', '.join(IMAGE_SUFFIXES)})")
    return {name: path for name, path in found.items() if not _stands_aside(name, found)}


def _stands_aside(name: str, names: dict[str, Path]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in names for end in ASIDE)


def score_pairs(pairs: list[Pair], table: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Score pairs and write their rows.

    Args:
        pairs: See ``find_pairs``.
        table: The ``images.csv`` to write.
        spec: As ``eval.protocol.score`` takes it.

    Returns:
        As ``eval.protocol.score``.

    Raises:
        UserError: Unknown metric, or two pictures differ in size, or one is not 8-bit RGB; names the files.
    """
    scorer, lpips = make_scorer(spec)
    rows = [{"split": TEST, "view": pair.view} | view_cells(pair.render, Truth(pair.truth), scorer) for pair in pairs]
    return write_rows(table, rows) | lpips
