"""PSNR and SSIM against scikit-image, torchmetrics and loops that follow the definition."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr
from torchmetrics.functional.image import structural_similarity_index_measure as torch_ssim

from eval.metrics import gaussian_window, psnr, ssim, ssim_map


def _pair(seed=0, size=(37, 52)):
    """A smooth picture and a noisy, shifted copy: SSIM well inside (0, 1) and different in each channel."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    truth = np.stack([0.5 + 0.4 * np.sin(x / (3 + c) + y / 5) for c in range(3)], -1)
    noise = rng.normal(0, [0.02, 0.05, 0.1], truth.shape)
    return np.clip(truth * 0.9 + noise, 0, 1), truth


def _torch(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def _mask(size, seed=1):
    """A disc with a ragged edge and a few holes, so that windows are cut in several ways."""
    y, x = np.mgrid[: size[0], : size[1]]
    disc = np.hypot(y - size[0] / 2, x - size[1] / 2) < 17
    return disc & (np.random.default_rng(seed).random(size) > 0.002)


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (37, 52)])
def test_psnr_and_ssim_match_scikit_image(size):
    prediction, truth = _pair(size=size)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(truth, prediction, data_range=1, channel_axis=-1, **options)
    assert ssim(prediction, truth) == pytest.approx(expected, abs=1e-10)
    assert psnr(prediction, truth) == pytest.approx(peak_signal_noise_ratio(truth, prediction, data_range=1))


def test_psnr_and_ssim_match_torchmetrics():
    prediction, truth = _pair(2)
    options = {"data_range": 1.0, "sigma": 1.5, "kernel_size": 11, "return_full_image": True}
    padded_mean, full = torch_ssim(_torch(prediction), _torch(truth), **options)
    # torchmetrics averages windows over reflected borders too: another mean of the same map.
    assert ssim(prediction, truth) == pytest.approx(full[..., 5:-5, 5:-5].mean().item(), abs=1e-6)
    assert ssim(prediction, truth) != pytest.approx(padded_mean.item(), abs=1e-3)
    expected = torch_psnr(_torch(prediction), _torch(truth), data_range=1.0)
    assert psnr(prediction, truth) == pytest.approx(expected.item(), abs=1e-6)


def test_masked_psnr_is_the_loop_over_the_masks_pixels():
    prediction, truth = _pair()
    mask = _mask(truth.shape[:2])
    squares = [
        (prediction[i, j, c] - truth[i, j, c]) ** 2
        for i in range(truth.shape[0])
        for j in range(truth.shape[1])
        for c in range(3)
        if mask[i, j]
    ]
    assert psnr(prediction, truth, mask) == pytest.approx(-10 * math.log10(sum(squares) / len(squares)))


def test_masked_psnr_of_a_constant_error_does_not_depend_on_the_masks_area():
    truth = np.full((20, 20, 3), 0.5)
    for kept in (1, 7, 20):
        mask = np.zeros((20, 20), bool)
        mask[:kept] = True
        assert psnr(truth + 0.1, truth, mask) == pytest.approx(20.0)


def _window_ssim(x, y):
    """SSIM of one 11x11 window of one channel, by the definition: E[(x - mu)^2] and so on."""
    weights = np.outer(gaussian_window(), gaussian_window())
    mu_x, mu_y = (weights * x).sum(), (weights * y).sum()
    var_x, var_y = (weights * (x - mu_x) ** 2).sum(), (weights * (y - mu_y) ** 2).sum()
    covariance = (weights * (x - mu_x) * (y - mu_y)).sum()
    top = (2 * mu_x * mu_y + 0.01**2) * (2 * covariance + 0.03**2)
    return top / ((mu_x**2 + mu_y**2 + 0.01**2) * (var_x + var_y + 0.03**2))


def test_masked_ssim_is_the_loop_over_windows_that_lie_in_the_mask():
    prediction, truth = _pair(3)
    mask = _mask(truth.shape[:2])
    values = []
    for i in range(truth.shape[0] - 10):
        for j in range(truth.shape[1] - 10):
            if mask[i : i + 11, j : j + 11].all():
                x, y = prediction[i : i + 11, j : j + 11], truth[i : i + 11, j : j + 11]
                values += [_window_ssim(x[..., c], y[..., c]) for c in range(3)]
    assert 30 < len(values) < 3 * ssim_map(prediction, truth)[..., 0].size
    assert ssim(prediction, truth, mask) == pytest.approx(np.mean(values), abs=1e-10)


def test_a_full_mask_changes_nothing():
    prediction, truth = _pair()
    full = np.ones(truth.shape[:2], bool)
    assert psnr(prediction, truth, full) == psnr(prediction, truth)
    assert ssim(prediction, truth, full) == ssim(prediction, truth)


def test_pixels_outside_the_mask_do_not_matter():
    prediction, truth = _pair()
    mask = _mask(truth.shape[:2])
    spoiled = np.where(mask[..., None], prediction, 1 - prediction)
    assert psnr(spoiled, truth, mask) == psnr(prediction, truth, mask)
    assert ssim(spoiled, truth, mask) == pytest.approx(ssim(prediction, truth, mask), abs=1e-12)


def test_equal_pictures_have_infinite_psnr_and_ssim_one():
    _, truth = _pair()
    assert psnr(truth, truth) == math.inf
    assert ssim(truth, truth) == pytest.approx(1.0)


def test_what_does_not_exist_is_none():
    prediction, truth = _pair()
    empty = np.zeros(truth.shape[:2], bool)
    assert psnr(prediction, truth, empty) is None
    assert ssim(prediction, truth, empty) is None
    assert ssim(prediction[:10], truth[:10]) is None, "no 11x11 window fits into 10 rows"
    assert ssim(prediction[:10], truth[:10], ~empty[:10]) is None
    thin = empty.copy()
    thin[:10] = True
    assert ssim(prediction, truth, thin) is None


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_wrong_shapes_are_refused_with_both_shapes(metric):
    a, b = np.zeros((12, 13, 3)), np.zeros((13, 12, 3))
    with pytest.raises(ValueError, match=r"\(12, 13, 3\).*\(13, 12, 3\)"):
        metric(a, b)
    with pytest.raises(ValueError, match=r"\(13, 12\).*\(12, 13, 3\)"):
        metric(a, a, np.ones((13, 12), bool))
    with pytest.raises(ValueError, match=r"\(12, 13\)"):
        metric(a[..., 0], a[..., 0])
