"""Stage ``splits`` and the subsets of a capture: test frames, the pool, and a cell's n frames of it.

Standard library only, because the study's plan needs the labels without paying for numpy.

Symbols: the pool has P frames in capture order; a *position* is 0..P-1 in the pool. Orders are made on
positions, not on frame numbers: the pool has holes where test frames were, and an order that steps around
holes need not have the gap property of ``nesting_order``.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise
from math import floor
from pathlib import Path
from typing import Any, Literal

from fieldbook.documents import FRAMES, REFERENCE, read_document
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import read_json, user_path, write_json
from fieldbook.layout import SceneFiles

MIN_REGISTERED = 0.9


def parse_count(value: int | str) -> tuple[Literal["frames", "percent"], int]:
    """Read a count as written in a config (``6``, ``"50%"``, ``"all"``) or as a label (``"50pct"``).

    Returns:
        ``("frames", n)`` with n >= 1 or ``("percent", p)`` with p in 1..100; ``all`` is 100 percent.

    Raises:
        UserError: Anything else.
    """
    text = "" if isinstance(value, bool) else str(value).strip()
    match = re.fullmatch(r"([0-9]{1,9})\s*(%|pct)?", text)
    number = 100 if text == "all" else int(match[1]) if match else 0
    unit = "percent" if text == "all" or (match and match[2]) else "frames"
    if number < 1 or (unit == "percent" and number > 100):
        raise UserError(
            f"count {value!r} is not possible; give a whole number from 1 (6), "
            "a share of the pool from 1% to 100% (50%), or all"
        )
    return unit, number


def count_label(value: int | str) -> str:
    """Name of a count in paths and tables: ``6``, ``50pct`` or ``all`` (also for 100 %).

    Raises:
        UserError: Not a count, see ``parse_count``.
    """
    unit, number = parse_count(value)
    if unit == "frames":
        return str(number)
    return "all" if number == 100 else f"{number}pct"


def resolve_count(value: int | str, pool_size: int) -> int:
    """Number of frames that a count means in a pool; shares are rounded (halves up), at least 1.

    Raises:
        Infeasible: More frames than the pool has.
    """
    unit, number = parse_count(value)
    if unit == "percent":
        return max(1, (2 * number * pool_size + 100) // 200)
    if number > pool_size:
        raise Infeasible(
            f"{number} frames asked for, but the pool has {pool_size}",
            {"requested": number, "pool": pool_size},
        )
    return number


def phase(draw: int) -> float:
    """Offset of a draw in [0, 1): the base-3 van der Corput sequence 0, 1/3, 2/3, 1/9, 4/9, ...

    The nesting halves gaps. No difference of two of these is a multiple of any power of 1/2, so the subsets
    of two draws are out of step at every n (by 1/3 of a gap or more among draws 0 to 2, by 1/9 among draws 0
    to 8).
    """
    value, unit = 0.0, 1 / 3
    while draw:
        draw, digit = divmod(draw, 3)
        value, unit = value + digit * unit, unit / 3
    return value


def nesting_order(pool_size: int, draw: int = 0) -> list[int]:
    """Order of the pool's positions whose first n entries are the subset of size n.

    Draw 0: the first, the last, then always the position farthest from all chosen ones, the lowest on a tie
    (Gonzalez 1985). On a line that is: halve the largest gap. So for n >= 3 the largest gap between sorted
    neighbours is at most twice the smallest plus one. n = 1 is the first frame.

    Draws above 0: the same on the ring of positions, started at ``phase(draw)``. First and last are not
    forced; the gap property holds around the ring and therefore also between sorted neighbours.

    Args:
        pool_size: P >= 0.
        draw: >= 0.

    Returns:
        A permutation of ``range(pool_size)``.
    """
    if draw == 0:
        return _halving_order(pool_size)
    start = floor(phase(draw) * pool_size)
    ring = _halving_order(pool_size + 1)  # position P is position 0 again
    return [(start + p) % pool_size for p in ring if p != pool_size]


def _halving_order(size: int) -> list[int]:
    order = [0, size - 1][: min(size, 2)]
    gaps = [_gap(0, size - 1)]
    while len(order) < size:
        _, middle, low, high = heapq.heappop(gaps)
        order.append(middle)
        heapq.heappush(gaps, _gap(low, middle))
        heapq.heappush(gaps, _gap(middle, high))
    return order


def _gap(low: int, high: int) -> tuple[int, int, int, int]:
    """Heap entry of the open gap (low, high): its middle is ``(high - low) // 2`` from the nearer end."""
    half = (high - low) // 2
    return -half, low + half, low, high


def even_positions(pool_size: int, count: int, draw: int = 0) -> list[int]:
    """``count`` evenly spaced positions, ascending: with first and last for draw 0 (count 1: the first).

    Draws above 0 take the points at ``phase(draw)`` of ``count`` equal windows.
    """
    if draw:
        start = Fraction(phase(draw))  # exact: a float's rounding would shift some of the windows and not others
        return [floor((i + start) * pool_size / count) for i in range(count)]
    last = max(count - 1, 1)
    return [(2 * i * (pool_size - 1) + last) // (2 * last) for i in range(count)]


def subset(splits: dict[str, Any], count: int | str, draw: int = 0) -> list[str]:
    """Names of a subset's frames in capture order.

    Args:
        splits: Content of ``splits.json``.
        count: A count or its label.
        draw: ``subset_draw``, >= 0.

    Raises:
        Infeasible: More frames than the pool has.
    """
    pool = splits["pool"]
    n = resolve_count(count, len(pool))
    if splits["nested"]:
        return [pool[p] for p in sorted(nesting_order(len(pool), draw)[:n])]
    return [pool[p] for p in even_positions(len(pool), n, draw)]


def frame_number(name: str) -> int:
    """Index in the source of ``frame_00042.png``: the last number in its name."""
    return int(re.findall(r"\d+", name)[-1])


def gap_ratio(indices: Iterable[int]) -> float:
    """Largest gap over smallest gap between sorted neighbours; 1.0 for fewer than 3 distinct indices."""
    ordered = sorted(set(indices))
    gaps = [b - a for a, b in pairwise(ordered)]
    return max(gaps) / min(gaps) if len(gaps) > 1 else 1.0


def held_out_positions(frame_count: int, every: int) -> list[int]:
    """Positions i = every//2 (mod every) of ``range(frame_count)``, without the first and the last."""
    return [i for i in range(every // 2, frame_count, every) if 0 < i < frame_count - 1]


def make_splits(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Stage ``splits``: write test frames, pool and the nesting order of draw 0 to ``splits.json``.

    Frames that the reference did not register leave both lists and are listed. A capture whose frames come with a
    split of their own keeps it, instead of the rule. ``split.file`` names a JSON file ``{"train": [...],
    "test": [...]}`` of frame names or 0-based positions in ``frames.json`` that replaces either.

    Returns:
        ``test``, ``pool``, ``unregistered``: how many.

    Raises:
        UserError: The rule or the file leaves a list empty, or the file is not usable.
        Infeasible: Fewer than 90 % of the frames registered, or none of a list did.
    """
    frames = read_document(files.frames_index, FRAMES)["frames"]
    names = [frame["name"] for frame in frames]
    registered = set(read_document(files.reference_poses, REFERENCE)["poses"])
    unregistered = [name for name in names if name not in registered]
    _check_registered(len(names) - len(unregistered), len(names))
    lists = _lists(frames, names, spec["split"])
    train, test = ([name for name in part if name in registered] for part in lists)
    if not train or not test:
        what = "pool" if not train else "test"
        raise Infeasible(f"COLMAP registered no {what} frame", {"pool": len(train), "test": len(test)})
    nested = bool(spec["nested"])
    orders = {"0": [train[p] for p in nesting_order(len(train))]} if nested else {}
    value = {"test": test, "pool": train, "unregistered": unregistered, "nested": nested, "orders": orders}
    write_json(files.splits, value)
    return {"test": len(test), "pool": len(train), "unregistered": len(unregistered)}


def _lists(frames: list[dict[str, Any]], names: Sequence[str], split: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Training and test names: of the user's file, else the frames' own split, else by the rule."""
    if split["file"]:
        return _from_file(user_path(split["file"]), names)
    if any("split" in frame for frame in frames):
        train, test = ([frame["name"] for frame in frames if frame["split"] == part] for part in ("train", "test"))
        return train, test
    return _from_rule(names, split["test_every"])


def _check_registered(registered: int, total: int) -> None:
    if registered < MIN_REGISTERED * total:
        # Rounded down: 89.6 % must not read "90 %, fewer than 90 %".
        percent = 100 * registered // total
        raise Infeasible(
            f"COLMAP registered {registered} of {total} frames ({percent} %), fewer than 90 %",
            {"registered": registered, "requested": total},
        )


def _from_rule(names: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    if every < 2:
        raise UserError(f"split.test_every is {every}; give 2 or more (every 2nd frame is a test frame)")
    chosen = set(held_out_positions(len(names), every))
    if not chosen:
        raise UserError(f"split.test_every {every} leaves no test frame of {len(names)}; lower it or add frames")
    return [n for i, n in enumerate(names) if i not in chosen], [names[i] for i in sorted(chosen)]


def _from_file(path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(value.get(key), list) for key in ("train", "test")):
        raise UserError(f'{path} must hold {{"train": [...], "test": [...]}} with frame names or positions')
    train, test = (_named(value[key], f"{path}, {key}", names) for key in ("train", "test"))
    both = [name for name in names if name in train and name in test]
    if both:
        raise UserError(f"{path}: {both[0]} is in train and in test; take it out of one")
    return [name for name in names if name in train], [name for name in names if name in test]


def _named(items: list[Any], where: str, names: Sequence[str]) -> set[str]:
    """Frame names for names or positions."""
    if not items:
        raise UserError(f"{where} is empty; list at least one frame")
    found: set[str] = set()
    for item in items:
        position = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < len(names)
        if not position and item not in names:
            raise UserError(f"{where}: {item!r} is no frame; give a name like {names[0]} or 0 to {len(names) - 1}")
        name = names[item] if position else str(item)
        if name in found:
            raise UserError(f"{where}: {item!r} is listed twice; remove one")
        found.add(name)
    return found
