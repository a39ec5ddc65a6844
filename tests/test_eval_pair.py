"""``fieldbook score RENDERED TRUE``: any two folders of pictures give the rows of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from eval.metrics import psnr, ssim
from eval.protocol import IMAGE_COLUMNS
from fieldbook.cli import main
from fieldbook.files import read_json, sha256_file

SIZE = (20, 24, 3)


def _noise(seed: int, size: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def _save(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two pairs, and a true picture without a partner."""
    rendered, true = tmp_path / "rendered", tmp_path / "true"
    for k, name in enumerate(("a", "b")):
        _save(rendered / f"{name}.png", _noise(k))
        _save(true / f"{name}.png", _noise(10 + k))
    _save(true / "c.png", _noise(12))
    return rendered, true


def _rows(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "images.csv", newline="", encoding="utf-8") as stream:
        return {row["view"]: row for row in csv.DictReader(stream)}


def test_each_pair_of_one_name_is_a_row_with_the_columns_of_a_run(folders: tuple[Path, Path], capsys):
    rendered, true = folders
    assert main(["score", str(rendered), str(true)]) == 0
    rows = _rows(rendered)
    assert list(rows) == ["a", "b"]
    assert tuple(rows["a"]) == IMAGE_COLUMNS
    x, y = _noise(1) / 255, _noise(11) / 255
    assert float(rows["b"]["psnr_uint8"]) == pytest.approx(psnr(x, y), abs=1e-6)
    assert float(rows["b"]["ssim_uint8"]) == pytest.approx(ssim(x, y), abs=1e-6)
    assert rows["b"]["prediction_sha256"] == sha256_file(rendered / "b.png")
    assert rows["b"]["truth_sha256"] == sha256_file(true / "b.png")
    said = capsys.readouterr().out
    mean = np.mean([float(row["psnr_uint8"]) for row in rows.values()])
    assert f"psnr_uint8         {mean:.4f}" in said
    assert "weights: none" in said


def test_eight_bits_have_no_float_convention_unless_sixteen_lie_beside_them(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
):
    rendered, true = folders
    fine = np.random.default_rng(5).random(SIZE)
    _save(rendered / "a.png", np.round(fine * 255).astype(np.uint8))
    cv2.imwrite(str(rendered / "a.rgb16.png"), np.round(fine * 65535).astype(np.uint16)[..., ::-1])
    _save(rendered / "a.opacity.png", _noise(3, SIZE[:2]))  # as a run's renders have it: no picture of its own
    assert main(["score", str(rendered), str(true)]) == 0
    rows = _rows(rendered)
    assert list(rows) == ["a", "b"]
    assert float(rows["a"]["psnr_float"]) == pytest.approx(psnr(np.round(fine * 65535) / 65535, _noise(10) / 255))
    assert rows["b"]["psnr_float"] == rows["b"]["ssim_float"] == ""
    assert rows["b"]["psnr_uint8"] != ""
    assert str(rendered) not in caplog.text  # what stands beside a picture is none without a partner


def test_suffixes_do_not_matter_and_the_rows_go_where_they_are_asked_for(tmp_path: Path):
    smooth = np.dstack([np.tile(np.linspace(0, 255, 24), (20, 1))] * 3).astype(np.uint8)
    _save(tmp_path / "r" / "view.JPG", smooth)
    _save(tmp_path / "t" / "view.png", smooth)
    spec = json.dumps({"metrics": ["psnr"]})
    assert main(["score", str(tmp_path / "r"), str(tmp_path / "t"), "--spec", spec, "--out", str(tmp_path / "o")]) == 0
    (row,) = _rows(tmp_path / "o").values()
    assert float(row["psnr_uint8"]) > 40
    assert row["ssim_uint8"] == ""
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["view.JPG"]
    assert read_json(tmp_path / "o" / "score.status.json")["numbers"]["lpips"] == "not asked for"


def test_pictures_without_a_partner_are_told(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture):
    rendered, true = folders
    _save(rendered / "z.png", _noise(4))
    assert main(["score", str(rendered), str(true)]) == 0
    assert list(_rows(rendered)) == ["a", "b"]
    assert [r.getMessage() for r in caplog.records] == [
        f"not scored: 1 pictures of {rendered} without a partner, the first z",
        f"not scored: 1 pictures of {true} without a partner, the first c",
    ]


def _missing(rendered: Path, true: Path) -> None:
    true.rename(true.with_name("elsewhere"))


def _empty(rendered: Path, true: Path) -> None:
    for path in rendered.iterdir():
        path.unlink()


def _no_common_name(rendered: Path, true: Path) -> None:
    for path in rendered.iterdir():
        path.rename(path.with_name(f"view_{path.name}"))


def _other_size(rendered: Path, true: Path) -> None:
    _save(true / "b.png", _noise(1, (20, 25, 3)))


def _sixteen_bits(rendered: Path, true: Path) -> None:
    cv2.imwrite(str(rendered / "a.png"), _noise(1).astype(np.uint16))


def _alpha(rendered: Path, true: Path) -> None:
    _save(true / "a.png", _noise(1, (20, 24, 4)))


def _twice(rendered: Path, true: Path) -> None:
    _save(rendered / "a.jpg", _noise(1))


def _damaged(rendered: Path, true: Path) -> None:
    (rendered / "a.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "true is no folder"),
        (_empty, "rendered holds no picture (.png, .jpg, .jpeg)"),
        (_no_common_name, "(view_a in the first, a in the second)"),
        (_other_size, "b.png is 24x20 pixels, "),
        (_sixteen_bits, "a.png is a picture with 3 channels of 16 bits; scoring needs 3 channels of 8 bits"),
        (_alpha, "a.png is a picture with 4 channels of 8 bits; scoring needs 3 channels of 8 bits"),
        (_twice, "has a.jpg and a.png; names must differ"),
        (_damaged, "a.png is not a readable "),
    ],
)
def test_a_mistake_is_one_line_and_no_table(folders: tuple[Path, Path], spoil, words: str, capsys):
    rendered, true = folders
    spoil(rendered, true)
    assert main(["score", str(rendered), str(true)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (rendered / "images.csv").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--paths", "p"], "--paths cannot be given with two folders of pictures"),
        (["--trust-pickles", "--data", "d"], "--trust-pickles, --data cannot be given with two folders"),
        (["--spec", '{"metrics": ["pnsr"]}'], "did you mean 'psnr'?"),
    ],
)
def test_options_that_mean_nothing_here_are_refused(folders: tuple[Path, Path], options, words: str, capsys):
    assert main(["score", *map(str, folders), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, capsys):
    assert main(["score", str(tmp_path / "none"), str(tmp_path)]) == 2
    assert f"no such folder: {tmp_path / 'none'}" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
