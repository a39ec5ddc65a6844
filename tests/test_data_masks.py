"""Masks from a folder and from a synthetic scene's truth."""

import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.masks.sheet import MAX_THUMBNAILS, overlay
from data.masks.sources import make_masks
from fieldbook.errors import UserError
from fieldbook.files import write_json
from fieldbook.layout import SceneFiles

SIZE, RAW_SIZE = (32, 24), (40, 30)  # width, height
INDICES = (0, 5, 12)


def entries(indices) -> list[dict]:
    return [{"name": f"frame_{i:05d}.png", "index": i, "source": f"IMG_{i + 1}.JPG"} for i in indices]


def scene(tmp_path: Path, indices=INDICES, truth: bool = False) -> SceneFiles:
    files = SceneFiles(tmp_path / "scene")
    files.frames.mkdir(parents=True)
    for entry in entries(indices):
        cv2.imwrite(str(files.frames / entry["name"]), np.full((SIZE[1], SIZE[0], 3), 200, np.uint8))
    for path, size in ((files.frames_index, SIZE), (files.raw_index, RAW_SIZE)):
        write_json(path, {"width": size[0], "height": size[1], "frames": entries(indices)})
    write_json(files.capture, {"truth": truth})
    return files


def half(size=SIZE, keep: int = 255) -> np.ndarray:
    """Keeps the left half."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[:, : size[0] // 2] = keep
    return mask


def folder_of(tmp_path: Path, pattern: str, mask: np.ndarray, indices=INDICES) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in indices:
        cv2.imwrite(str(folder / pattern.format(i=i, one=i + 1)), mask)
    return folder


def spec(folder: Path) -> dict:
    return {"masks": {"mine": {"kind": "folder", "path": str(folder)}, "card": {"kind": "truth"}}}


def read(files: SceneFiles, name: str, mask: str = "mine") -> np.ndarray:
    return cv2.imread(str(files.masks(mask) / name), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(
    "pattern",
    ["frame_{i:05d}.png", "frame_{i:05d}.png.png", "{i}.png", "{i:04d}.PNG", "IMG_{one}.png", "IMG_{one}.JPG.png"],
)
def test_masks_are_found_under_every_usual_name(tmp_path, pattern):
    files = scene(tmp_path)
    numbers = make_masks(files, spec(folder_of(tmp_path, pattern, half())), "mine")
    assert numbers == {"masks": 3, "mean_coverage": 0.5, "empty": 0, "resized_from_raw": 0, "soft": 0}
    assert {p.name for p in files.masks("mine").iterdir()} == {
        *(e["name"] for e in entries(INDICES)),
        "contact_sheet.jpg",
    }
    for entry in entries(INDICES):
        np.testing.assert_array_equal(read(files, entry["name"]), half())


def test_each_frame_gets_its_own_mask(tmp_path):
    files = scene(tmp_path)
    folder = folder_of(tmp_path, "{i}.png", half())
    cv2.imwrite(str(folder / "5.png"), np.zeros((SIZE[1], SIZE[0]), np.uint8))
    numbers = make_masks(files, spec(folder), "mine")
    assert numbers["mean_coverage"] == pytest.approx(1 / 3)
    assert numbers["empty"] == 1
    assert read(files, "frame_00005.png").max() == 0


@pytest.mark.parametrize("keep", [128, 200, 255])
def test_what_is_above_127_is_kept_in_gray_and_in_colour(tmp_path, keep):
    files = scene(tmp_path)
    mask = half(keep=keep)
    mask[0, -1] = 127
    make_masks(files, spec(folder_of(tmp_path, "{i}.png", np.stack([mask] * 3, -1))), "mine")
    np.testing.assert_array_equal(read(files, "frame_00012.png"), half())


def test_masks_as_large_as_the_raw_frames_are_resized_and_counted(tmp_path):
    files = scene(tmp_path)
    numbers = make_masks(files, spec(folder_of(tmp_path, "{i}.png", half(RAW_SIZE))), "mine")
    assert numbers["resized_from_raw"] == 3
    np.testing.assert_array_equal(read(files, "frame_00000.png"), half())


def test_a_wrong_size_a_missing_and_a_damaged_mask_are_named_and_nothing_is_left(tmp_path):
    files = scene(tmp_path)
    folder = folder_of(tmp_path, "frame_{i:05d}.png", half())
    bad = folder / "frame_00005.png"
    cv2.imwrite(str(bad), half((10, 10)))
    with pytest.raises(UserError, match=r"frame_00005\.png is 10x10; masks must be 32x24"):
        make_masks(files, spec(folder), "mine")
    bad.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"frame_00005\.png is not a readable image"):
        make_masks(files, spec(folder), "mine")
    bad.unlink()
    with pytest.raises(UserError, match=r"frame_00005\.png is missing"):
        make_masks(files, spec(folder), "mine")
    assert not files.masks("mine").exists()


def test_masks_of_zeros_and_ones_are_refused_instead_of_dropping_everything(tmp_path):
    folder = folder_of(tmp_path, "{i}.png", half(keep=1))
    with pytest.raises(UserError, match="values up to 1 only"):
        make_masks(scene(tmp_path), spec(folder), "mine")


def test_unknown_sources_kinds_and_folders_are_refused(tmp_path):
    files = scene(tmp_path)
    with pytest.raises(UserError, match="did you mean 'mine'"):
        make_masks(files, spec(tmp_path), "mina")
    with pytest.raises(UserError, match="no such folder of masks"):
        make_masks(files, spec(tmp_path / "absent"), "mine")
    with pytest.raises(UserError, match="kind 'magic' is unknown"):
        make_masks(files, {"masks": {"mine": {"kind": "magic"}}}, "mine")


def test_truth_is_taken_from_a_synthetic_capture_and_refused_for_others(tmp_path, monkeypatch):
    def truth_masks(files, out_dir):
        for entry in entries(INDICES):
            cv2.imwrite(str(out_dir / entry["name"]), half())

    monkeypatch.setitem(sys.modules, "data.synthetic.truth", types.SimpleNamespace(truth_masks=truth_masks))
    files = scene(tmp_path, truth=True)
    assert make_masks(files, spec(tmp_path), "card")["mean_coverage"] == 0.5
    np.testing.assert_array_equal(read(files, "frame_00005.png", "card"), half())
    write_json(files.capture, {"truth": False})
    with pytest.raises(UserError, match="needs a synthetic capture"):
        make_masks(files, spec(tmp_path), "card")


def test_the_contact_sheet_shows_at_most_its_number_of_frames(tmp_path):
    indices = range(2 * MAX_THUMBNAILS + 1)
    files = scene(tmp_path, indices)
    make_masks(files, spec(folder_of(tmp_path, "{i}.png", half(), indices)), "mine")
    sheet = cv2.imread(str(files.masks("mine") / "contact_sheet.jpg"))
    assert sheet.shape == (180 * 3, 240 * 6, 3)  # 17 of 49 frames, every third
    kept, dropped = sheet[60:120, 20:80].mean(), sheet[60:120, 160:220].mean()
    assert kept == pytest.approx(200, abs=3)
    assert dropped == pytest.approx(50, abs=3)


def test_the_overlay_outlines_the_edge_and_leaves_the_kept_inside_alone():
    picture = np.full((20, 20, 3), 100, np.uint8)
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 255
    out = overlay(picture, mask)
    assert (out[7:13, 7:13] == 100).all()
    assert (out[:4] == 25).all()
    assert (out[5, 5:15] != 100).any(axis=-1).all()
