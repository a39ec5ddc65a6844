"""Cell statistics against SciPy's own interval and against simulation by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.statistics import Summary, rank, run_means, summarise

finite = st.floats(-100, 100)


@given(st.lists(finite, min_size=3, max_size=12))
def test_mean_and_interval_match_scipy(values):
    cell = summarise(values, planned=len(values))
    assert cell.mean is not None
    assert cell.std is not None
    assert cell.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert cell.std == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    if cell.std > 1e-9:  # SciPy has no interval for a spread of zero
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert (cell.low, cell.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    else:
        assert (cell.low, cell.high) == (pytest.approx(cell.mean, abs=1e-8),) * 2


def test_the_interval_covers_the_true_mean_in_95_of_100_experiments():
    rng = np.random.default_rng(0)
    cells = [summarise(sample, planned=4) for sample in rng.normal(30, 2, size=(2000, 4)).tolist()]
    covered = np.mean([cell.low <= 30 <= cell.high for cell in cells])  # type: ignore[operator]
    assert covered == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("values", [[1.0], [1.0, 3.0]])
def test_one_or_two_runs_have_a_mean_but_no_band(values):
    cell = summarise(values, planned=len(values))
    assert cell == Summary(np.mean(values), None, None, None, len(values), len(values))
    assert cell.complete


def test_missing_values_are_not_counted_and_make_the_cell_incomplete():
    cell = summarise([1.0, None, 2.0, math.nan, 3.0], planned=5)
    assert (cell.mean, cell.count, cell.planned, cell.complete) == (2.0, 3, 5, False)
    assert cell.low is not None
    empty = summarise([None], planned=1)
    assert (empty.mean, empty.count, empty.complete) == (None, 0, False)
    assert not summarise([], planned=0).complete


def test_an_infinite_value_gives_an_infinite_mean_without_a_band():
    cell = summarise([30.0, math.inf, 31.0], planned=3)
    assert (cell.mean, cell.low, cell.high, cell.std, cell.complete) == (math.inf, None, None, None, True)


def test_more_values_than_planned_are_refused():
    with pytest.raises(ValueError, match="3 values for 2 planned"):
        summarise([1.0, 2.0, 3.0], planned=2)


def test_images_are_averaged_within_a_run_and_split_before_runs_are_compared():
    # 2 images in one run and 4 in the other: pooling all six would give 14, the mean of run means is 15.
    runs = [[{"split": "test", "psnr": str(v)} for v in values] for values in ([10, 20], [10, 10, 20, 20])]
    runs[1][-1]["psnr"] = "40"
    runs[1].append({"split": "cone", "psnr": "99"})
    means = [run_means(rows, ["psnr"])["test"]["psnr"].mean for rows in runs]
    assert means == [15.0, 20.0]
    assert summarise(means, planned=2).mean == 17.5


def test_empty_cells_are_left_out_of_a_run_mean_and_show():
    rows = [{"split": "test", "a": "1", "b": ""}, {"split": "test", "a": "inf", "b": ""}]
    cells = run_means(rows, ["a", "b"])["test"]
    assert (cells["a"].mean, cells["a"].complete) == (math.inf, True)
    assert (cells["b"].mean, cells["b"].count, cells["b"].views, cells["b"].complete) == (None, 0, 2, False)
    partial = run_means([*rows, {"split": "test", "a": None, "b": 4.0}], ["b"])["test"]["b"]
    assert (partial.mean, partial.complete) == (4.0, False)


def test_only_complete_cells_are_ranked_and_equal_means_share_a_place():
    cells = {
        "a": summarise([30.0], planned=1),
        "b": summarise([20.0], planned=1),
        "partial": summarise([99.0], planned=2),
        "c": summarise([30.0], planned=1),
        "none": summarise([None], planned=1),
    }
    assert rank(cells, higher_is_better=True) == {"a": 1, "c": 1, "b": 3}
    assert rank(cells, higher_is_better=False) == {"b": 1, "a": 2, "c": 2}
