"""PSNR and SSIM of one picture, whole or inside a mask; the same for every method.

Symbols: x prediction, y ground truth, both ``[h, w, c]`` sRGB in [0, 1]; w an 11x11 Gaussian window (sigma
1.5) that sums to 1; mu, s2 and s_xy means, variances and covariance under w. Sums are in float64. ``None``
means that the value does not exist for this picture (no pixel in the mask, no window that fits); it becomes
an empty cell of a table.

Two conventions share these functions and differ only in the prediction: ``float`` takes the 16-bit render,
``uint8`` the 8-bit one, which is what a reader of the published pictures can measure.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import correlate1d, minimum_filter1d

METRICS = ("psnr", "ssim", "lpips_alex", "lpips_vgg")
CONVENTIONS = ("float", "uint8")
WINDOW = 11
SIGMA = 1.5
# (k1 L)^2 and (k2 L)^2 of Wang et al. 2004 with k1 = 0.01, k2 = 0.03 and data range L = 1.
C1, C2 = 0.01**2, 0.03**2
_MARGIN = WINDOW // 2


def check_shapes(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Refuse pictures that are not ``[h, w, c]`` of one size, and masks that are not ``[h, w]`` of that size.

    Raises:
        ValueError: With both shapes.
    """
    if prediction.ndim != 3 or prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, truth {truth.shape}; need one [h, w, c]")
    if mask is not None and mask.shape != truth.shape[:2]:
        raise ValueError(f"mask has shape {mask.shape}, truth {truth.shape}; need [h, w] of the same size")


def psnr(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared error, for data range 1.

    Args:
        prediction: ``[h, w, c]`` in [0, 1].
        truth: ``[h, w, c]`` in [0, 1].
        mask: ``[h, w]`` bool; only true pixels count, in numerator and denominator, so that the value does
            not rise with the masked-out area.

    Returns:
        Decibels; ``inf`` where the pictures are equal; ``None`` for an empty mask.

    Raises:
        ValueError: Shapes differ.
    """
    check_shapes(prediction, truth, mask)
    error = (np.asarray(prediction, np.float64) - truth) ** 2
    if mask is not None:
        error = error[np.asarray(mask, bool)]
    if error.size == 0:
        return None
    mse = float(error.mean())
    return -10 * math.log10(mse) if mse > 0 else math.inf


def ssim(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float | None:
    """Structural similarity (Wang et al. 2004, eq. 13), averaged over *valid* windows and channels.

    A window is valid where all its 11x11 pixels lie in the picture (no padding) and, with a mask, in the
    mask. Variances are population ones (divided by the weights' sum, not by n - 1). This is the mean of
    scikit-image and nerfbaselines; torchmetrics, and so nerfstudio, also averages windows over reflected
    borders, which moves the second digit of small pictures.

    Args:
        prediction: ``[h, w, c]`` in [0, 1].
        truth: ``[h, w, c]`` in [0, 1].
        mask: ``[h, w]`` bool.

    Returns:
        Value in [-1, 1]; ``None`` where no window is valid.

    Raises:
        ValueError: Shapes differ.
    """
    check_shapes(prediction, truth, mask)
    if min(truth.shape[:2]) < WINDOW:
        return None
    values = ssim_map(prediction, truth)
    if mask is not None:
        values = values[_valid(minimum_filter1d, np.asarray(mask, np.uint8), WINDOW) > 0]
    return float(values.mean()) if values.size else None


def ssim_map(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """SSIM of every valid window, ``[h - 10, w - 10, c]``; entry [i, j] is centred at [i + 5, j + 5]."""
    x, y = np.asarray(prediction, np.float64), np.asarray(truth, np.float64)
    kernel = gaussian_window()
    mu_x, mu_y, square, product = (_valid(correlate1d, z, kernel) for z in (x, y, x * x + y * y, x * y))
    means = mu_x * mu_x + mu_y * mu_y
    # Only the sum of the two variances enters, so one filtered picture serves both.
    luminance = (2 * mu_x * mu_y + C1) / (means + C1)
    return luminance * (2 * (product - mu_x * mu_y) + C2) / (square - means + C2)


def gaussian_window() -> np.ndarray:
    """The separable window's 1-D factor ``[11]``, which sums to 1."""
    weights = np.exp(-0.5 * (np.arange(-_MARGIN, _MARGIN + 1) / SIGMA) ** 2)
    return weights / weights.sum()


def _valid(filter1d, image: np.ndarray, kernel) -> np.ndarray:
    """Filter along both image axes and keep the windows that lie inside, ``[h - 10, w - 10, ...]``."""
    rows = filter1d(image, kernel, axis=0)[_MARGIN:-_MARGIN]
    return filter1d(rows, kernel, axis=1)[:, _MARGIN:-_MARGIN]
