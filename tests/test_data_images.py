"""Scaled frames and masks, against area averages computed pixel by pixel."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.images import scale_images, scale_masks, scaled_size
from fieldbook.errors import UserError
from fieldbook.files import write_json
from fieldbook.layout import SceneFiles

WIDTH, HEIGHT = 50, 30


def overlaps(source: int, target: int) -> np.ndarray:
    """``[target, source]``: share of each source pixel's unit interval under each target pixel, rows sum to 1."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(covered, 0, None) * target / source


def area_average(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    rows, columns = overlaps(picture.shape[0], height), overlaps(picture.shape[1], width)
    return np.einsum("ij,jk...,lk->il...", rows, picture.astype(float), columns)


def scene(tmp_path: Path) -> tuple[SceneFiles, dict[str, np.ndarray], dict[str, np.ndarray]]:
    files, rng = SceneFiles(tmp_path), np.random.default_rng(0)
    names = ["frame_00000.png", "frame_00007.png"]
    frames = {name: rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for name in names}
    masks = {name: 255 * rng.integers(0, 2, (HEIGHT, WIDTH), np.uint8) for name in names}
    for folder, pictures in ((files.frames, frames), (files.masks("card"), masks)):
        folder.mkdir(parents=True)
        for name, picture in pictures.items():
            cv2.imwrite(str(folder / name), picture)
    (files.masks("card") / "contact_sheet.jpg").touch()
    write_json(files.frames_index, {"width": WIDTH, "height": HEIGHT, "frames": [{"name": n} for n in names]})
    return files, frames, masks


@pytest.mark.parametrize("long_side", [50, 25, 20, 17, 1])
def test_frames_and_masks_are_area_averages(tmp_path, long_side):
    files, frames, masks = scene(tmp_path)
    size = dict(zip(("width", "height"), scaled_size(WIDTH, HEIGHT, long_side), strict=True))
    assert scale_images(files, long_side) == scale_masks(files, "card", long_side) == size
    width, height = scaled_size(WIDTH, HEIGHT, long_side)
    for name, picture in frames.items():
        scaled = cv2.imread(str(files.images(long_side) / name))
        expected = area_average(picture, width, height)
        assert scaled.shape == expected.shape
        assert np.abs(scaled - expected).max() <= 0.51
        keep = cv2.imread(str(files.scaled_masks("card", long_side) / name), cv2.IMREAD_UNCHANGED)
        share = area_average(masks[name], width, height)
        assert keep.shape == share.shape
        assert set(np.unique(keep)) <= {0, 255}
        clear = np.abs(share - 127.5) > 0.6
        np.testing.assert_array_equal(keep[clear] > 0, share[clear] > 127.5)


def test_only_frames_are_written(tmp_path):
    files, frames, _ = scene(tmp_path)
    scale_images(files, 20)
    scale_masks(files, "card", 20)
    for folder in (files.images(20), files.scaled_masks("card", 20)):
        assert sorted(p.name for p in folder.iterdir()) == sorted(frames)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1))
def test_the_long_side_is_exact_and_the_short_one_nearest(width, height, share):
    long_side = max(1, round(share * max(width, height)))
    w, h = scaled_size(width, height, long_side)
    assert max(w, h) == long_side
    assert min(w, h) >= 1
    exact = min(width, height) * long_side / max(width, height)
    assert abs(min(w, h) - exact) <= 0.5 or min(w, h) == 1


@pytest.mark.parametrize("long_side", [51, -1, 0])
def test_a_size_beyond_the_frames_is_refused(long_side):
    with pytest.raises(UserError, match=f"{long_side} is not possible for 50x30 frames; give 1 to 50"):
        scaled_size(WIDTH, HEIGHT, long_side)


def test_enlarging_leaves_nothing_behind(tmp_path):
    files, *_ = scene(tmp_path)
    with pytest.raises(UserError):
        scale_images(files, 51)
    assert not files.images(51).exists()


def test_full_size_leaves_the_frames_alone(tmp_path):
    files, frames, _ = scene(tmp_path)
    assert scale_images(files, 0) == scale_masks(files, "card", 0) == {"width": WIDTH, "height": HEIGHT}
    for name, picture in frames.items():
        np.testing.assert_array_equal(cv2.imread(str(files.frames / name)), picture)
    assert (files.masks("card") / "contact_sheet.jpg").exists()


def test_a_missing_frame_is_named_and_the_folder_is_not_left_half_written(tmp_path):
    files, *_ = scene(tmp_path)
    (files.frames / "frame_00007.png").unlink()
    with pytest.raises(UserError, match=r"frame_00007\.png is missing"):
        scale_images(files, 20)
    assert not files.images(20).exists()
