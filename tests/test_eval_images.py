"""True pictures with alpha: blended in float for one convention, rounded to 8 bits for the other."""

import json
import math

import cv2
import numpy as np
import pytest

from data.poses import look_at
from eval.images import read_truth
from eval.lpips import LpipsScore
from eval.metrics import psnr
from eval.protocol import score
from eval.scorer import Render, Scorer, Truth
from fieldbook.errors import UserError
from fieldbook.layout import DatasetFiles, RunFiles

SIZE = (16, 20)
WHITE, BLACK = {"background": "white"}, {"background": "black"}


def rgba(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 4), dtype=np.uint8)


def seen(picture: np.ndarray, behind: float) -> np.ndarray:
    alpha = picture[..., 3:] / 255
    return alpha * picture[..., :3] / 255 + (1 - alpha) * behind


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [2, 1, 0, 3][: picture.shape[2]]
    assert cv2.imwrite(str(path), picture[..., order])
    return path


@pytest.mark.parametrize(("background", "behind"), [("white", 1.0), ("black", 0.0)])
def test_float_is_the_exact_blend_and_uint8_the_nearest_8_bit_one(tmp_path, background, behind):
    picture = rgba()
    exact, rounded = read_truth(write(tmp_path / "t.png", picture), background)
    np.testing.assert_allclose(exact, seen(picture, behind), atol=1e-12)
    np.testing.assert_allclose(rounded * 255, np.round(rounded * 255), atol=1e-9)
    assert np.abs(rounded - exact).max() <= 0.5 / 255 + 1e-12
    assert (rounded != exact).any()


def test_a_picture_without_alpha_is_one_picture_for_both(tmp_path):
    picture = rgba()[..., :3]
    path = write(tmp_path / "t.png", picture)
    for background in (None, "white"):
        exact, rounded = read_truth(path, background)
        assert exact is rounded
        np.testing.assert_allclose(exact * 255, picture)


def test_alpha_without_a_background_is_refused(tmp_path):
    with pytest.raises(UserError, match="4 channels of 8 bits; scoring needs 3"):
        read_truth(write(tmp_path / "t.png", rgba()), None)


def a_run(tmp_path, prediction: np.ndarray, truth: np.ndarray, **document) -> tuple[RunFiles, DatasetFiles]:
    """One test view with its render and its truth, one training frame."""
    run, dataset = RunFiles(tmp_path / "run"), DatasetFiles(tmp_path / "dataset")
    pose = look_at(np.array([1.0, 0, 0]), np.zeros(3), np.array([0, 0, 1.0])).tolist()
    frames = [{"file_path": f"{n}.png", "transform_matrix": pose} for n in ("a", "b")]
    lists = {"frames": frames, "test_filenames": ["a.png"], "train_filenames": ["b.png"]}
    write(dataset.root / "a.png", truth)
    dataset.transforms.write_text(json.dumps(lists | document))
    write(run.test / "a.png", np.round(prediction * 255).astype(np.uint8))
    write(run.test / "a.rgb16.png", np.round(prediction * 65535).astype(np.uint16))
    view = {"name": "a", "pose": pose, "rays": 320, "seconds": 0.1}
    (run.test / "renders.json").write_text(json.dumps({"views": [view], "step": 1}))
    return run, dataset


def test_a_perfect_render_of_the_blend_is_perfect_in_both_conventions(tmp_path):
    truth = rgba()
    run, dataset = a_run(tmp_path, seen(truth, 1.0), truth, **WHITE)
    numbers = score(run, dataset, {}, {"metrics": ["psnr"]})
    assert numbers["psnr_uint8"] == "inf"
    # 16-bit rounding alone: a uniform error of a step of 1/65535 is 107 dB.
    assert numbers["psnr_float"] > 100


def test_the_background_is_the_datasets(tmp_path):
    truth = rgba()
    run, dataset = a_run(tmp_path, seen(truth, 1.0), truth, **BLACK)
    numbers = score(run, dataset, {}, {"metrics": ["psnr"]})
    expected = psnr(seen(truth, 1.0), seen(truth, 0.0))
    assert expected is not None
    # 16-bit rounding moves a value of a few dB by far less.
    assert numbers["psnr_float"] == pytest.approx(expected, abs=1e-3)
    assert math.isfinite(numbers["psnr_uint8"])


class SpyNetwork:
    """Remembers which truth each prediction is compared with."""

    def __init__(self):
        self.seen = []

    def compare(self, predictions, truth, mask=None):
        self.seen += [(p, truth) for p in predictions]
        return [LpipsScore(float(len(self.seen)))] * len(predictions)


def test_lpips_compares_each_convention_with_its_own_truth(tmp_path):
    truth, network = rgba(), SpyNetwork()
    run, dataset = a_run(tmp_path, seen(truth, 1.0), truth)
    scorer = Scorer((), {"alex": network})  # pyright: ignore[reportArgumentType]
    cells = scorer.compare(Render.of_run(run.test, "a"), Truth(dataset.root / "a.png", None, "white"))
    (_, for_float), (_, for_uint8) = network.seen
    np.testing.assert_allclose(for_float, seen(truth, 1.0), atol=1e-12)
    np.testing.assert_allclose(for_uint8 * 255, np.round(for_uint8 * 255), atol=1e-9)
    assert (cells["lpips_alex_float"], cells["lpips_alex_uint8"]) == (1.0, 2.0)
