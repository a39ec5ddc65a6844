"""Splits and subsets, against the definitions spelled out naively."""

import json
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.subsets import (
    count_label,
    even_positions,
    gap_ratio,
    held_out_positions,
    make_splits,
    nesting_order,
    parse_count,
    phase,
    resolve_count,
    subset,
)
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import read_json, write_json
from fieldbook.layout import SceneFiles

sizes = st.integers(1, 200)


def farthest_point(size: int, distance, chosen: list[int]) -> list[int]:
    """The greedy definition, in the plainest way."""
    while len(chosen) < size:
        rest = [p for p in range(size) if p not in chosen]
        chosen.append(max(rest, key=lambda p: (min(distance(p, c) for c in chosen), -p)))
    return chosen


def sorted_gaps(positions: list[int]) -> list[int]:
    ordered = sorted(positions)
    return [b - a for a, b in pairwise(ordered)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60))
def test_the_order_is_farthest_point_from_first_and_last_ties_to_the_lower(size):
    assert nesting_order(size) == farthest_point(size, lambda p, c: abs(p - c), [0, size - 1][:size])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8))
def test_a_rotated_draw_is_farthest_point_around_the_ring(size, draw):
    order = nesting_order(size, draw)
    start = order[0]
    assert start == int(phase(draw) * size)
    ring = farthest_point(size, lambda p, c: min(abs(p - c), size - abs(p - c)), [0])
    assert order == [(start + p) % size for p in ring]


@given(sizes, st.integers(0, 8))
def test_every_order_is_a_permutation_so_subsets_are_nested(size, draw):
    order = nesting_order(size, draw)
    assert sorted(order) == list(range(size))


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 8))
def test_the_largest_gap_is_at_most_twice_the_smallest_plus_one(size, draw):
    order = nesting_order(size, draw)
    for n in range(3, size + 1):
        gaps = sorted_gaps(order[:n])
        assert max(gaps) <= 2 * min(gaps) + 1


@given(st.integers(2, 200))
def test_draw_0_starts_with_the_first_and_has_the_last_from_two_on(size):
    assert nesting_order(size)[:2] == [0, size - 1]


@given(st.integers(3, 200))
def test_draws_differ_wherever_the_gaps_leave_room(size):
    orders = [nesting_order(size, draw) for draw in range(3)]
    for n in range(1, size // 3 + 1):
        subsets = [frozenset(order[:n]) for order in orders]
        assert len(set(subsets)) == 3


@pytest.mark.parametrize("size", [50, 100, 200])
def test_draws_of_a_small_share_have_few_frames_in_common(size):
    orders = [nesting_order(size, draw) for draw in range(3)]
    for n in range(4, size // 5):
        for a, b in combinations(orders, 2):
            assert len({*a[:n]} & {*b[:n]}) <= n / 2


def test_phases_are_never_in_step_with_a_halving():
    phases = [phase(draw) for draw in range(9)]
    assert phases[:5] == pytest.approx([0, 1 / 3, 2 / 3, 1 / 9, 4 / 9])
    for a, b in combinations(phases, 2):
        for halvings in range(12):
            steps = (a - b) * 2**halvings % 1
            assert 1 / 9 - 1e-9 <= steps <= 8 / 9 + 1e-9


@given(st.integers(1, 200).flatmap(lambda p: st.tuples(st.just(p), st.integers(1, p))), st.integers(0, 8))
def test_even_positions_are_distinct_and_their_gaps_differ_by_one_at_most(case, draw):
    pool, n = case
    positions = even_positions(pool, n, draw)
    assert len(positions) == n
    assert positions == sorted(set(positions))
    assert 0 <= positions[0] <= positions[-1] < pool
    gaps = sorted_gaps(positions) or [1]
    assert max(gaps) - min(gaps) <= 1
    if draw == 0:
        assert positions[0] == 0
        assert positions[-1] == (pool - 1 if n > 1 else 0)


@given(st.integers(1, 200), st.integers(2, 20))
def test_held_out_frames_are_k_half_modulo_k_and_never_an_end(count, every):
    naive = [i for i in range(count) if i % every == every // 2 and i not in (0, count - 1)]
    assert held_out_positions(count, every) == naive


def test_a_subset_is_in_capture_order_and_grows_by_adding():
    splits = {"pool": [f"frame_{i:05d}.png" for i in range(0, 50, 2)], "nested": True}
    smaller: list[str] = []
    for n in range(1, 26):
        names = subset(splits, str(n), 0)
        assert names == sorted(names)
        assert len(names) == n
        assert set(smaller) < set(names)
        smaller = names
    assert subset(splits, "all", 0) == subset(splits, "all", 3) == splits["pool"]
    assert len(subset(splits, "50pct", 0)) == 13


def test_without_nesting_a_subset_is_evenly_spaced():
    splits = {"pool": list("abcdefghijk"), "nested": False}
    assert subset(splits, 3) == ["a", "f", "k"]
    assert subset(splits, 1) == ["a"]
    assert subset(splits, 4, 1) != subset(splits, 4)


def test_more_than_the_pool_is_infeasible_with_both_numbers():
    with pytest.raises(Infeasible, match="12 frames asked for, but the pool has 10") as error:
        subset({"pool": list("abcdefghij"), "nested": True}, "12", 0)
    assert error.value.numbers == {"requested": 12, "pool": 10}


@pytest.mark.parametrize(
    ("value", "label"),
    [(6, "6"), ("6", "6"), ("06", "6"), ("50%", "50pct"), ("50 %", "50pct"), ("all", "all"), ("100%", "all")],
)
def test_labels_and_their_reading_agree(value, label):
    assert count_label(value) == label
    assert parse_count(label) == parse_count(value)


@pytest.mark.parametrize("value", [0, -3, "0%", "101%", "half", "", 2.5, "2.5", True, None, "٣", "6 7", [6]])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(UserError, match="is not possible; give"):
        count_label(value)


@given(st.integers(1, 100), sizes)
def test_a_share_is_rounded_half_up_and_never_nothing(percent, pool):
    exact = percent * pool / 100
    n = resolve_count(f"{percent}%", pool)
    assert 1 <= n <= pool
    assert abs(n - exact) <= 0.5 or n == 1
    assert resolve_count("50%", 5) == 3


def test_gap_ratio():
    assert gap_ratio([]) == gap_ratio([4]) == gap_ratio([9, 2]) == gap_ratio([2, 2, 9]) == 1.0
    assert gap_ratio([10, 0, 2]) == 4.0


def scene(tmp_path: Path, count: int = 20, lost: tuple[int, ...] = ()) -> SceneFiles:
    files = SceneFiles(tmp_path)
    names = [f"frame_{3 * i:05d}.png" for i in range(count)]
    write_json(files.frames_index, {"frames": [{"name": name} for name in names]})
    poses = {name: np.eye(4).tolist() for i, name in enumerate(names) if i not in lost}
    write_json(files.reference_poses, {"poses": poses})
    return files


def spec(every: int = 8, file: Path | None = None, nested: bool = True) -> dict:
    return {"split": {"test_every": every, "file": file and str(file)}, "nested": nested}


def test_splits_part_the_registered_frames(tmp_path):
    files = scene(tmp_path, 20, lost=(4, 7))
    assert make_splits(files, spec()) == {"test": 1, "pool": 17, "unregistered": 2}
    splits = read_json(files.splits)
    assert splits["test"] == ["frame_00036.png"]  # positions 4 and 12; 4 did not register
    assert splits["unregistered"] == ["frame_00012.png", "frame_00021.png"]
    names = [f["name"] for f in read_json(files.frames_index)["frames"]]
    assert splits["pool"] == [n for n in names if n not in splits["test"] + splits["unregistered"]]
    assert splits["orders"]["0"][:2] == [names[0], names[-1]]
    assert subset(splits, 5) == sorted(splits["orders"]["0"][:5])


def test_below_nine_tenths_registered_is_infeasible(tmp_path):
    make_splits(scene(tmp_path, 20, lost=(0, 1)), spec())
    with pytest.raises(Infeasible, match=r"registered 17 of 20 frames \(85 %\), fewer than 90 %") as error:
        make_splits(scene(tmp_path, 20, lost=(0, 1, 2)), spec())
    assert error.value.numbers == {"registered": 17, "requested": 20}


def test_a_split_whose_test_frames_did_not_register_is_infeasible(tmp_path):
    with pytest.raises(Infeasible, match="no test frame"):
        make_splits(scene(tmp_path, 10, lost=(4,)), spec())


def test_a_rule_that_tests_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="leaves no test frame of 4"):
        make_splits(scene(tmp_path, 4), spec())
    with pytest.raises(UserError, match="give 2 or more"):
        make_splits(scene(tmp_path, 4), spec(every=1))


def test_an_explicit_split_takes_names_and_positions(tmp_path):
    files = scene(tmp_path, 20, lost=(3,))
    path = tmp_path / "split_indices.json"
    path.write_text(json.dumps({"train": [6, 3, "frame_00000.png"], "test": ["frame_00003.png", 2]}))
    make_splits(files, spec(file=path, nested=False))
    splits = read_json(files.splits)
    assert splits["pool"] == ["frame_00000.png", "frame_00018.png"]
    assert splits["test"] == ["frame_00003.png", "frame_00006.png"]
    assert splits["unregistered"] == ["frame_00009.png"]
    assert splits["orders"] == {}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"train": [0, 1], "test": ["frame_00003.png"]}, "frame_00003.png is in train and in test"),
        ({"train": [0, 99], "test": [1]}, "train: 99 is no frame"),
        ({"train": [0, -1], "test": [1]}, "-1 is no frame"),
        ({"train": [0, True], "test": [1]}, "True is no frame"),
        ({"train": [0, [1]], "test": [1]}, r"\[1\] is no frame"),
        ({"train": [0], "test": ["a.png"]}, "test: 'a.png' is no frame"),
        ({"train": [0, "frame_00000.png"], "test": [1]}, "'frame_00000.png' is listed twice"),
        ({"train": [], "test": [1]}, "train is empty"),
        ({"train": [1], "test": []}, "test is empty"),
        ({"train": [1]}, "must hold"),
        ([1, 2], "must hold"),
    ],
)
def test_an_unusable_split_file_names_the_offender(tmp_path, value, says):
    path = tmp_path / "split_indices.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=says):
        make_splits(scene(tmp_path), spec(file=path))


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json"):
        make_splits(scene(tmp_path), spec(file=tmp_path / "absent.json"))


def test_the_module_needs_the_standard_library_only():
    code = "import sys, data.subsets; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
