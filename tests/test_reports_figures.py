"""Drawing: frusta, error colours, labels, and the order of cells."""

from __future__ import annotations

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from data.poses import look_at
from reports.pictures import ERROR_GAIN, View, error_colours, pictures
from reports.ranking import ranks, sorted_cells
from reports.space import frustum_lines
from reports.text import QUALITY, label, shown_axes, significant


def cell(name: str, mean: float | None, runs: int = 3, **axes: str) -> dict[str, str]:
    fixed = dict.fromkeys(("subset_draw", "mapper", "sfm_mask", "sfm_seed"), "0") | {"mask": "none"}
    fixed |= {"count": "6", "policy": "subset", "method": "nerfacto", "preset": "laptop", "variant": "laptop-aaaaaa"}
    value = "" if mean is None else str(mean)
    counts = {"planned": "3", "n_runs": str(runs), "complete": str(int(runs == 3)), "test_psnr_float_n": str(runs)}
    return fixed | counts | {"cell": name, "test_psnr_float_mean": value} | axes


def test_a_frustum_is_one_pen_stroke_over_all_eight_edges():
    pose = look_at(np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]))
    line = frustum_lines(pose, np.array([0.5, 0.25]), 0.1)
    assert line.shape == (12, 3)
    assert np.isnan(line[-1]).all()
    edges = {frozenset(map(tuple, np.round(pair, 9))) for pair in itertools.pairwise(line[:-1])}
    assert len(edges) == 8
    # The picture plane stands at 0.1 in the direction in which the camera looks, towards the origin.
    corners = np.unique(np.round(line[[1, 2, 4, 5]], 12), axis=0)
    forward = -np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    assert (corners - pose[:3, 3]) @ forward == pytest.approx(np.full(4, 0.1))
    width = np.linalg.norm(line[1] - line[2])
    assert width == pytest.approx(2 * 0.5 * 0.1)


def test_error_colours_run_from_dark_to_bright_and_stop_at_the_stated_difference():
    truth = np.zeros((1, 256, 3), np.uint8)
    prediction = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    colours = error_colours(truth, prediction).astype(int).sum(axis=-1)[0]
    assert colours[0] < 10
    limit = int(np.ceil(255 / ERROR_GAIN))
    assert len(np.unique(colours[limit:])) == 1
    assert colours[limit] > colours[limit // 2] > colours[0]
    assert (error_colours(truth, prediction) == error_colours(prediction, truth)).all()


def test_a_view_without_truth_shows_its_prediction_only_and_is_shrunk(tmp_path):
    Image.fromarray(np.zeros((60, 90, 3), np.uint8)).save(tmp_path / "p.png")
    (drawn,) = pictures(View("wide", "view_000", tmp_path / "p.png", None), 30)
    assert drawn.caption == "prediction"
    assert drawn.source.startswith("data:image/jpeg;base64,")


def corner(picture) -> np.ndarray:
    data = base64.b64decode(picture.source.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)))[0, 0].astype(int)


@pytest.mark.parametrize(("background", "level"), [("white", 255), ("black", 0)])
def test_a_truth_with_alpha_is_shown_before_its_background_and_compared_there(tmp_path, background, level):
    Image.fromarray(np.full((30, 45, 3), level, np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(np.full((30, 45, 4), (90, 30, 60, 0), np.uint8)).save(tmp_path / "t.png")
    view = View("test", "frame_00001", tmp_path / "p.png", tmp_path / "t.png", background)
    truth, _, error = pictures(view, 30)
    assert np.abs(corner(truth) - level).max() <= 2  # JPEG
    assert corner(error).sum() < 20  # the darkest colour: no difference


def test_truth_of_another_size_is_brought_to_the_predictions(tmp_path):
    Image.fromarray(np.full((60, 90, 3), 80, np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(np.full((30, 45, 3), 80, np.uint8)).save(tmp_path / "t.png")
    drawn = pictures(View("test", "frame_00001", tmp_path / "p.png", tmp_path / "t.png"), 30)
    assert [p.caption for p in drawn] == ["truth", "prediction", "error"]


def test_cells_are_sorted_best_complete_first_then_incomplete_then_empty():
    cells = [cell("none", None, 0), cell("part", 40.0, 2), cell("low", 20.0), cell("high", 30.0)]
    assert [c["cell"] for c in sorted_cells(cells)] == ["high", "low", "part", "none"]
    assert ranks(cells) == {"high": 1, "low": 2}


def test_labels_name_what_varies_and_the_main_axes():
    cells = [cell("a", 1.0), cell("b", 1.0, mask="card")]
    assert label(cells[1], shown_axes(cells)) == "6 frames, subset poses, mask card, nerfacto"


@pytest.mark.parametrize("twin", [{"variant": "laptop-bbbbbb"}, {"preset": "paper", "variant": "paper-cccccc"}])
def test_labels_tell_variants_of_one_method_apart(twin):
    cells = [cell("a", 1.0), cell("b", 1.0, **twin), cell("c", 1.0, method="tensorf")]
    assert len({label(c, shown_axes(cells)) for c in cells}) == 3


def test_two_methods_that_share_variants_stay_apart():
    cells = [cell(m + v, 1.0, method=m, variant=v) for m in ("a", "b") for v in ("laptop-1", "laptop-2")]
    assert len({label(c, shown_axes(cells)) for c in cells}) == 4


@pytest.mark.parametrize(
    ("mean", "low", "high", "shown"),
    [("23.4149", "23.1", "23.7298", "23.41 ± 0.31"), ("23.4149", "", "", "23.41"), ("", "", "", "–")],
)
def test_a_mean_is_shown_with_half_its_interval(mean, low, high, shown):
    row = dict(
        zip(("test_psnr_float_mean", "test_psnr_float_lo95", "test_psnr_float_hi95"), (mean, low, high), strict=True)
    )
    assert QUALITY[0].show(row) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.01234, "0.012"), (1.2345, "1.23"), (123.4, "123"), (12345.6, "12346")]
)
def test_significant_digits_without_exponents(value, shown):
    assert significant(value, 3) == shown
