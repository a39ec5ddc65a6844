"""The stage ``score`` on a small run made by hand."""

import csv
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.poses import look_at
from eval.lpips import LpipsScore
from eval.metrics import psnr, ssim
from eval.protocol import IMAGE_COLUMNS, METRICS, format_rows, score
from fieldbook.errors import UserError
from fieldbook.files import sha256_file
from fieldbook.layout import DatasetFiles, RunFiles

SIZE = (24, 32)
TEST = ("frame_00003", "frame_00011")
TRAIN = ("frame_00000", "frame_00007", "frame_00014")
SIGNAL = {"metrics": ["psnr", "ssim"]}


def _write(path: Path, image: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def _pose(angle_deg, radius=1.0):
    a = math.radians(angle_deg)
    return look_at(radius * np.array([math.cos(a), math.sin(a), 0]), np.zeros(3), np.array([0, 0, 1.0])).tolist()


def _render(folder: Path, poses: dict, seed: int, step=200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = {}
    for name in poses:
        images[name] = rng.random((*SIZE, 3))
        _write(folder / f"{name}.png", np.round(images[name] * 255).astype(np.uint8))
        _write(folder / f"{name}.rgb16.png", np.round(images[name] * 65535).astype(np.uint16))
    views = [{"name": n, "pose": p, "rays": 768, "seconds": 0.25} for n, p in poses.items()]
    (folder / "renders.json").write_text(json.dumps({"views": views, "step": step}))
    return images


@dataclass
class Study:
    run: RunFiles
    dataset: DatasetFiles
    truths: dict[str, Path]
    test: dict[str, np.ndarray]

    def score(self, spec=SIGNAL):
        return score(self.run, self.dataset, self.truths, spec)

    def rows(self):
        with open(self.run.images_csv, newline="", encoding="utf-8") as stream:
            return {(row["split"], row["view"]): row for row in csv.DictReader(stream)}

    def truth(self, name):
        return self.dataset.root / "images" / f"{name}.png"


@pytest.fixture
def study(tmp_path):
    """Two test views, one with a mask; three training frames; a path with one true picture of two; one with none."""
    dataset, run = DatasetFiles(tmp_path / "dataset"), RunFiles(tmp_path / "run")
    rng = np.random.default_rng(0)
    frames = []
    for name in (*TEST, *TRAIN):
        _write(dataset.root / "images" / f"{name}.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        pose = _pose(int(name[-2:]) * 10)
        frames.append({"file_path": f"images/{name}.png", "transform_matrix": pose})
    mask = np.zeros(SIZE, np.uint8)
    mask[4:20, 5:25] = 255
    _write(dataset.root / "masks" / "m.png", mask)
    frames[0]["mask_path"] = "masks/m.png"
    document = {"frames": frames}
    document["test_filenames"] = [f"images/{n}.png" for n in TEST]
    document["train_filenames"] = [f"images/{n}.png" for n in TRAIN]
    dataset.transforms.write_text(json.dumps(document))
    test = _render(run.test, {n: _pose(int(n[-2:]) * 10) for n in TEST}, seed=1)
    _render(run.path("cone15"), {"view_000": _pose(91, 2.0), "view_001": _pose(0)}, seed=2)
    _render(run.path("free"), {"view_000": _pose(180)}, seed=3)
    _write(tmp_path / "truth" / "view_000.png", rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    truths = {"cone15": tmp_path / "truth", "free": tmp_path / "no-truth"}
    return Study(run, dataset, truths, test)


def _read(path, bits):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1] / (2.0**bits - 1)


def test_every_rendered_view_has_one_row_with_the_columns_in_order(study):
    study.score()
    header = study.run.images_csv.read_text().splitlines()[0]
    assert header == ",".join(IMAGE_COLUMNS)
    expected = [("test", n) for n in TEST] + [
        ("cone15", "view_000"),
        ("cone15", "view_001"),
        ("free", "view_000"),
    ]
    assert list(study.rows()) == expected
    assert {row["step"] for row in study.rows().values()} == {"200"}
    assert {(row["rays"], row["seconds"]) for row in study.rows().values()} == {("768", "0.250000")}


def test_columns_are_the_documented_ones():
    assert ",".join(IMAGE_COLUMNS) == (
        "split,view,step,has_truth,psnr_float,psnr_uint8,ssim_float,ssim_uint8,lpips_alex_float,lpips_alex_uint8,"
        "lpips_vgg_float,lpips_vgg_uint8,masked_psnr_float,masked_psnr_uint8,masked_ssim_float,masked_ssim_uint8,"
        "masked_lpips_alex_float,masked_lpips_alex_uint8,masked_lpips_vgg_float,masked_lpips_vgg_uint8,mask_fraction,"
        "prediction_sha256,truth_sha256,nearest_frame,nearest_angle_deg,nearest_distance,rays,seconds"
    )


def test_float_uses_the_16_bit_render_and_uint8_the_8_bit_one(study):
    study.score()
    for name in TEST:
        row, truth = study.rows()["test", name], _read(study.truth(name), 8)
        for convention, file, bits in (("float", f"{name}.rgb16.png", 16), ("uint8", f"{name}.png", 8)):
            prediction = _read(study.run.test / file, bits)
            assert float(row[f"psnr_{convention}"]) == pytest.approx(psnr(prediction, truth), abs=1e-6)
            assert float(row[f"ssim_{convention}"]) == pytest.approx(ssim(prediction, truth), abs=1e-6)
        assert row["psnr_float"] != row["psnr_uint8"]
        unquantised = psnr(study.test[name], truth)
        assert float(row["psnr_float"]) == pytest.approx(unquantised, abs=1e-4)


def test_masked_cells_exist_only_where_the_frame_has_a_mask(study):
    study.score()
    masked, plain = (study.rows()["test", name] for name in TEST)
    mask = np.zeros(SIZE, bool)
    mask[4:20, 5:25] = True
    prediction, truth = _read(study.run.test / f"{TEST[0]}.png", 8), _read(study.truth(TEST[0]), 8)
    assert float(masked["masked_psnr_uint8"]) == pytest.approx(psnr(prediction, truth, mask), abs=1e-6)
    assert float(masked["masked_ssim_uint8"]) == pytest.approx(ssim(prediction, truth, mask), abs=1e-6)
    assert float(masked["mask_fraction"]) == pytest.approx(16 * 20 / (24 * 32), abs=1e-6)
    assert {plain[c] for c in IMAGE_COLUMNS if "mask" in c} == {""}


def test_views_without_truth_keep_novelty_and_cost_but_have_no_metrics(study):
    study.score()
    for key in (("cone15", "view_001"), ("free", "view_000")):
        row = study.rows()[key]
        assert row["has_truth"] == "0"
        assert {row[c] for c in IMAGE_COLUMNS if c.startswith(("psnr", "ssim", "lpips", "masked"))} == {""}
        assert row["truth_sha256"] == ""
        assert row["nearest_frame"]
        assert row["prediction_sha256"]
    assert study.rows()["cone15", "view_000"]["has_truth"] == "1"
    assert float(study.rows()["cone15", "view_000"]["psnr_float"]) > 0


def test_novelty_names_the_nearest_training_frame(study):
    study.score()
    row = study.rows()["cone15", "view_000"]  # at 91 degrees; training frames sit at 0, 70 and 140
    assert row["nearest_frame"] == "frame_00007.png"
    assert float(row["nearest_angle_deg"]) == pytest.approx(21, abs=1e-4)
    distance = math.sqrt(1 + 4 - 4 * math.cos(math.radians(21)))
    assert float(row["nearest_distance"]) == pytest.approx(distance, abs=1e-5)


def test_hashes_are_those_of_the_files(study):
    study.score()
    row = study.rows()["test", TEST[1]]
    assert row["prediction_sha256"] == sha256_file(study.run.test / f"{TEST[1]}.png")
    assert row["truth_sha256"] == sha256_file(study.truth(TEST[1]))


def test_numbers_are_means_over_the_test_views_and_fit_into_json(study):
    numbers = study.score()
    rows = study.rows()
    mean = sum(float(rows["test", name]["psnr_uint8"]) for name in TEST) / 2
    assert numbers["psnr_uint8"] == pytest.approx(mean, abs=1e-6)
    assert (numbers["test_views"], numbers["views"], numbers["lpips"]) == (2, 5, "not asked for")
    assert "masked_psnr_uint8" not in numbers, "only one of the two views has it"
    shutil.copy(study.truth(TEST[0]), study.run.test / f"{TEST[0]}.png")
    numbers = study.score()
    assert study.rows()["test", TEST[0]]["psnr_uint8"] == "inf"
    assert numbers["psnr_uint8"] == "inf"
    json.dumps(numbers, allow_nan=False)


def test_missing_lpips_weights_leave_empty_cells_and_a_reason(study, tmp_path):
    numbers = study.score({"metrics": list(METRICS), "weights": str(tmp_path / "nowhere")})
    row = study.rows()["test", TEST[0]]
    assert row["lpips_alex_float"] == row["lpips_vgg_uint8"] == ""
    assert float(row["psnr_float"]) > 0
    assert "alexnet-owt-7be5be79.pth does not exist" in numbers["lpips"]
    assert "vgg16-397923af.pth does not exist" in numbers["lpips"]


def test_lpips_cells_hold_the_networks_scores_of_the_right_convention(study, monkeypatch):
    class Fake:
        weights_sha256 = "abc"

        def compare(self, predictions, truth, mask):
            masked = None if mask is None else 7.0
            return [LpipsScore(float(np.abs(p - truth).mean()), masked) for p in predictions]

    available = {"alex": Fake(), "vgg": "no weights"}
    monkeypatch.setattr("eval.lpips.load_lpips", lambda net, weights, device: available[net])
    numbers = study.score({"metrics": ["lpips_alex", "lpips_vgg"], "weights": "folder"})
    row, truth = study.rows()["test", TEST[0]], _read(study.truth(TEST[0]), 8)
    for convention, file, bits in (("float", f"{TEST[0]}.rgb16.png", 16), ("uint8", f"{TEST[0]}.png", 8)):
        expected = np.abs(_read(study.run.test / file, bits) - truth).mean()
        assert float(row[f"lpips_alex_{convention}"]) == pytest.approx(expected, abs=1e-6)
    assert row["masked_lpips_alex_uint8"] == "7.000000"
    assert study.rows()["test", TEST[1]]["masked_lpips_alex_uint8"] == ""
    assert (row["lpips_vgg_float"], row["psnr_float"]) == ("", "")
    assert numbers["lpips"] == "no weights"
    assert numbers["lpips_weights_sha256"] == {"alex": "abc"}


@pytest.mark.parametrize("weights", [None, "none"])
def test_without_weights_there_is_a_reason_and_no_network_is_imported(study, monkeypatch, weights):
    monkeypatch.setitem(sys.modules, "eval.lpips", None)  # an import would fail
    numbers = study.score({"metrics": ["psnr", "lpips_alex"], "weights": weights})
    assert numbers["lpips"] == "no backbone weights: the config says weights: none"
    assert numbers["lpips_weights_sha256"] == {}


def test_scoring_twice_gives_the_same_bytes(study):
    study.score()
    first = study.run.images_csv.read_bytes()
    study.score()
    assert study.run.images_csv.read_bytes() == first


@pytest.mark.parametrize("suffix", [".png", ".rgb16.png"])
def test_a_missing_render_is_named(study, suffix):
    (study.run.path("free") / f"view_000{suffix}").unlink()
    with pytest.raises(UserError, match=rf"free.view_000{suffix}"):
        study.score()
    assert not study.run.images_csv.exists(), "nothing half-written"


def test_a_missing_true_picture_of_a_test_view_is_named(study):
    study.truth(TEST[0]).unlink()
    with pytest.raises(UserError, match=TEST[0]):
        study.score()


def test_a_path_of_the_study_that_was_not_rendered_is_named(study):
    study.truths["orbit"] = study.truths["cone15"]
    with pytest.raises(UserError, match="orbit"):
        study.score()


def test_renders_left_by_a_path_that_the_study_no_longer_has_are_not_scored(study):
    del study.truths["free"]
    study.score()
    assert {split for split, _ in study.rows()} == {"test", "cone15"}


def test_a_size_mismatch_names_both_files_and_sizes(study):
    _write(study.truth(TEST[1]), np.zeros((24, 30, 3), np.uint8))
    with pytest.raises(UserError, match=rf"test.{TEST[1]}\.png is 32x24.*{TEST[1]}\.png is 30x24"):
        study.score()


def test_a_mask_of_another_size_is_named(study):
    _write(study.dataset.root / "masks" / "m.png", np.full((12, 16), 255, np.uint8))
    with pytest.raises(UserError, match=r"m\.png is 16x12"):
        study.score()


def test_a_picture_with_alpha_is_refused_rather_than_composited_by_guess(study):
    _write(study.truth(TEST[0]), np.zeros((*SIZE, 4), np.uint8))
    with pytest.raises(UserError, match="4 channels of 8 bits"):
        study.score()


def test_an_unrendered_or_unknown_test_view_is_named(study):
    index = study.run.test / "renders.json"
    renders = json.loads(index.read_text())
    renders["views"].pop()
    index.write_text(json.dumps(renders))
    with pytest.raises(UserError, match=TEST[1]):
        study.score()


def test_an_unknown_metric_says_which_are_allowed(study):
    with pytest.raises(UserError, match=r"'lpips_alx'.*did you mean 'lpips_alex'"):
        study.score({"metrics": ["lpips_alx"]})


def test_empty_and_infinite_values_have_their_own_words_in_a_table():
    text = format_rows([{"split": "test", "psnr_float": math.inf, "ssim_float": None, "has_truth": 1}])
    row = dict(zip(IMAGE_COLUMNS, text.splitlines()[1].split(","), strict=True))
    assert (row["psnr_float"], row["ssim_float"], row["lpips_vgg_float"], row["has_truth"]) == (
        "inf",
        "",
        "",
        "1",
    )
