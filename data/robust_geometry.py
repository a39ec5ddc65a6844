"""Robust fits behind the scene frame: where optical axes meet, which plane points lie on, where they crowd.

Symbols: a line is ``o + t d`` with unit ``d``; ``P = I - d d^T`` projects onto what is across it, so the
distance of ``x`` from the line is ``|P (x - o)|``. All lengths are in the units of the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MEDIAN_OF_RAYLEIGH = 1.1774  # median distance from a line over the deviation of each of its two components
TUKEY_CUTOFF = 4.685  # 95 % efficient for Gaussian residuals (Huber and Ronchetti 2009, section 4.8)


@dataclass(frozen=True)
class Meeting:
    """Where lines come closest together.

    Attributes:
        point: ``[3]``.
        rms: Root mean square distance of the inlier lines from the point.
        std: Standard error of the point along its least certain direction.
        spread_rad: Root mean square angle (as a sine) between the inlier lines and their mean direction.
        inliers: ``[n]`` bool, the lines that were not rejected.
    """

    point: np.ndarray
    rms: float
    std: float
    spread_rad: float
    inliers: np.ndarray


def direction_spread_rad(directions: np.ndarray) -> float:
    """How far lines are from parallel: 0 where they are, at most 0.955 (isotropic).

    Args:
        directions: ``[n, 3]`` unit; signs do not matter.

    Returns:
        ``asin sqrt(l)`` with ``l`` the smallest eigenvalue of the mean projector ``P``, that is the mean
        squared sine of the angles to the direction that suits the lines best.
    """
    mean_projector = np.eye(3) - directions.T @ directions / len(directions)
    return float(np.arcsin(np.sqrt(np.clip(np.linalg.eigvalsh(mean_projector)[0], 0.0, 1.0))))


def meeting_point(origins: np.ndarray, directions: np.ndarray) -> Meeting:
    """Robust least-squares meeting point of lines, by iteratively reweighted least squares.

    The sum of distances first (convex, so any start will do), then Tukey's biweight with the scale of that
    fit, which drops lines that point elsewhere.

    Args:
        origins: ``[n, 3]`` points on the lines, n >= 2.
        directions: ``[n, 3]`` unit, not all parallel.

    Returns:
        The meeting; ``std`` is infinite where two lines leave no residual to judge by.
    """
    projectors = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    extent = np.linalg.norm(origins - origins.mean(0), axis=1).max() + 1e-300
    point = _weighted_meeting(projectors, origins, np.ones(len(origins)))
    for _ in range(50):
        residual = _distances(projectors, origins, point)
        point = _weighted_meeting(projectors, origins, 1 / np.maximum(residual, 1e-9 * extent))
    sigma = np.median(_distances(projectors, origins, point)) / MEDIAN_OF_RAYLEIGH
    cutoff = TUKEY_CUTOFF * max(sigma, 1e-9 * extent)
    weights = np.ones(len(origins))
    for _ in range(20):
        residual = _distances(projectors, origins, point)
        weights = np.clip(1 - (residual / cutoff) ** 2, 0, None) ** 2
        point = _weighted_meeting(projectors, origins, weights)
    return _describe(projectors, origins, directions, point, weights > 0)


def _weighted_meeting(projectors: np.ndarray, origins: np.ndarray, weights: np.ndarray) -> np.ndarray:
    normal = np.einsum("n,nij->ij", weights, projectors)
    right = np.einsum("n,nij,nj->i", weights, projectors, origins)
    return np.linalg.lstsq(normal, right, rcond=None)[0]


def _distances(projectors: np.ndarray, origins: np.ndarray, point: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.einsum("nij,nj->ni", projectors, point - origins), axis=1)


def _describe(
    projectors: np.ndarray,
    origins: np.ndarray,
    directions: np.ndarray,
    point: np.ndarray,
    inliers: np.ndarray,
) -> Meeting:
    residual = _distances(projectors, origins, point)[inliers]
    freedom = 2 * len(residual) - 3
    variance = (residual @ residual) / freedom if freedom > 0 else np.inf
    weakest = np.linalg.eigvalsh(projectors[inliers].sum(0))[0]
    return Meeting(
        point=point,
        rms=float(np.sqrt(np.mean(residual**2))),
        std=float(np.sqrt(variance / max(weakest, 1e-300))),
        spread_rad=direction_spread_rad(directions[inliers]),
        inliers=inliers,
    )


@dataclass(frozen=True)
class Plane:
    """A plane and how well points support it.

    Attributes:
        centre: ``[3]`` mean of the inliers.
        normal: ``[3]`` unit, sign arbitrary.
        inliers: ``[n]`` bool.
        rms: Root mean square distance of the inliers.
        width: Standard deviation of the inliers along the plane's narrower direction.
    """

    centre: np.ndarray
    normal: np.ndarray
    inliers: np.ndarray
    rms: float
    width: float


def fit_plane(points: np.ndarray, threshold: float, rng: np.random.Generator) -> Plane | None:
    """Plane with the most points within ``threshold``: RANSAC (Fischler and Bolles 1981), then least squares.

    Args:
        points: ``[n, 3]``; ``None`` is returned for n < 3 or points on one line.
        threshold: Largest distance of an inlier.
        rng: Draws the 500 triples: with half the points on the plane one of them is all but sure to be good.

    Returns:
        The plane; the caller judges its support.
    """
    if len(points) < 3:
        return None
    triples = points[rng.integers(len(points), size=(500, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-12 * max(np.ptp(points, axis=0).max(), 1e-300) ** 2
    if not usable.any():
        return None
    normals, anchors = normals[usable] / lengths[usable, None], triples[usable, 0]
    offsets = np.einsum("hi,hi->h", normals, anchors)
    counts = (np.abs(normals @ points.T - offsets[:, None]) < threshold).sum(1)
    best = int(np.argmax(counts))
    inliers = np.abs(points @ normals[best] - offsets[best]) < threshold
    return _refine(points, inliers, threshold)


def _refine(points: np.ndarray, inliers: np.ndarray, threshold: float) -> Plane:
    """Least squares and a new choice of inliers in turn; five rounds settle all but pathological sets."""
    centre, axes = points[inliers].mean(0), np.eye(3)
    for _ in range(5):
        centre = points[inliers].mean(0)
        axes = np.linalg.svd(points[inliers] - centre, full_matrices=True)[2]
        chosen = np.abs((points - centre) @ axes[2]) < threshold
        if chosen.sum() < 3 or (chosen == inliers).all():
            break
        inliers = chosen
    spread = np.sqrt(np.mean(((points[inliers] - centre) @ axes.T) ** 2, axis=0))
    return Plane(centre, axes[2], inliers, rms=float(spread[2]), width=float(spread[1]))


def crowded_value(values: np.ndarray) -> float:
    """Median of the shortest interval that holds half of ``values`` ``[n]``, n >= 1: a cluster's middle."""
    ordered = np.sort(values)
    half = len(ordered) // 2 + 1
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    start = int(np.argmin(widths))
    return float(np.median(ordered[start : start + half]))
