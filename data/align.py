"""Bring one set of cameras into the frame of another by a similarity, with gross outliers named and left out.

Symbols: ``R_i, c_i`` rotation and centre of camera i in the fixed frame, ``Q_i, d_i`` in the moving frame,
``(s, R, t) = fixed_from_moving``. The rotation comes first, as the chordal mean of ``R_i Q_i^T``, so that two
cameras suffice; the usual fit to centres alone (Umeyama 1991) needs three that are not in a line. Scale and
translation then minimise ``sum |c_i - s R d_i - t|^2``. Both start from a fit that survives almost half of
the cameras being wrong: the medoid of the relative rotations, and the least median of residuals over pairs of
centres (Rousseeuw 1984).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from data.poses import Sim3, chordal_mean, rotation_angle_rad
from fieldbook.errors import Infeasible

ROUNDS = 20
ANCHORS = 64  # cameras whose pairs are tried as starting points: 2016 pairs at most
COINCIDENT = 1e-9  # spread of centres below this fraction of their coordinates (or of the unit) is no baseline


@dataclass(frozen=True)
class OutlierRule:
    """A camera is an outlier above ``min(limit, max(floor, factor * median))`` of either kind of residual.

    Attributes:
        rotation_floor_deg: Rotations this close are never outliers unless the limit is lower.
        centre_floor: The same for centres, in units of the alignment.
        factor: Multiple of the median residual that still counts as noise.
        rotation_limit_deg: No camera further off than this is kept.
        centre_limit: No camera further off than this is kept, in units of the alignment.
    """

    rotation_floor_deg: float = 1.0
    centre_floor: float = 0.02
    factor: float = 5.0
    rotation_limit_deg: float = float("inf")
    centre_limit: float = float("inf")

    def rotation_bar_deg(self, residuals: np.ndarray) -> float:
        """Largest rotation residual, in degrees, that is kept; ``residuals`` ``[n]`` set the noise level."""
        noise = self.factor * float(np.median(residuals))
        return min(self.rotation_limit_deg, max(self.rotation_floor_deg, noise))

    def centre_bar(self, residuals: np.ndarray) -> float:
        """Largest centre residual that is kept; ``residuals`` ``[n]`` set the noise level."""
        return min(self.centre_limit, max(self.centre_floor, self.factor * float(np.median(residuals))))


@dataclass(frozen=True)
class Alignment:
    """What ``align_poses`` found.

    Attributes:
        fixed_from_moving: Maps the moving frame to the fixed one.
        rotation_residuals_deg: Angle between aligned and fixed orientation of each camera, in [0, 180].
        centre_residuals: Distance between aligned and fixed centre of each shared camera, over ``unit``.
        outliers: Shared cameras the fit left out, sorted; their residuals are listed too.
        unit: Length in the fixed frame that centre residuals are measured in.
    """

    fixed_from_moving: Sim3
    rotation_residuals_deg: dict[str, float]
    centre_residuals: dict[str, float]
    outliers: list[str]
    unit: float

    @property
    def kept(self) -> list[str]:
        """Shared cameras that the fit rests on, sorted."""
        return [n for n in self.rotation_residuals_deg if n not in self.outliers]

    def summary(self) -> dict[str, Any]:
        """Plain numbers for JSON: median and largest residuals of the kept cameras, and each camera's own."""
        rotations = [self.rotation_residuals_deg[n] for n in self.kept]
        centres = [self.centre_residuals[n] for n in self.kept]
        return {
            "rotation_median_deg": float(np.median(rotations)),
            "rotation_max_deg": max(rotations),
            "centre_median": float(np.median(centres)),
            "centre_max": max(centres),
            "outliers": self.outliers,
            "rotation_residuals_deg": self.rotation_residuals_deg,
            "centre_residuals": self.centre_residuals,
        }


def align_poses(
    fixed: Mapping[str, np.ndarray],
    moving: Mapping[str, np.ndarray],
    unit: float | None = None,
    rule: OutlierRule = OutlierRule(),
) -> Alignment:
    """Find the similarity that maps the ``moving`` cameras onto the ``fixed`` ones, over the names both have.

    Args:
        fixed: World-from-camera poses ``[4, 4]`` by name.
        moving: Poses of the same cameras (same axes convention) in another frame.
        unit: Length in the fixed frame that centre residuals are divided by, best the median distance of the
            cameras to what they look at (1 in the scene frame). By default the median distance of the shared
            fixed centres to their mean, which needs no knowledge of the scene but varies with the baseline.
        rule: Which cameras are outliers.

    Raises:
        Infeasible: Fewer than two shared cameras, centres that coincide in either frame, centres that no
            positive scale brings together, or fewer than two cameras that agree.
    """
    names = sorted(set(fixed) & set(moving))
    if len(names) < 2:
        raise Infeasible("an alignment needs two cameras that both sides have", {"shared": len(names)})
    f, m = np.stack([fixed[n] for n in names]), np.stack([moving[n] for n in names])
    if unit is None:
        unit = float(np.median(np.linalg.norm(f[:, :3, 3] - f[:, :3, 3].mean(0), axis=-1)))
    _check_baseline(f[:, :3, 3], m[:, :3, 3], unit)
    sim, keep, angles_deg, distances = _robust_fit(f, m, unit, rule)
    return Alignment(
        sim,
        dict(zip(names, angles_deg.tolist(), strict=True)),
        dict(zip(names, distances.tolist(), strict=True)),
        [n for n, k in zip(names, keep, strict=True) if not k],
        unit,
    )


def _check_baseline(fixed: np.ndarray, moving: np.ndarray, unit: float) -> None:
    spreads = [float(np.linalg.norm(c - c.mean(0), axis=-1).max()) for c in (fixed, moving)]
    sizes = [max(unit, float(np.abs(fixed).max())), float(np.abs(moving).max())]
    if any(spread <= COINCIDENT * size for spread, size in zip(spreads, sizes, strict=True)):
        numbers = {"cameras": len(fixed), "fixed_spread": spreads[0], "moving_spread": spreads[1]}
        raise Infeasible("the cameras have no baseline: their centres coincide", numbers)


def _robust_fit(
    fixed: np.ndarray, moving: np.ndarray, unit: float, rule: OutlierRule
) -> tuple[Sim3, np.ndarray, np.ndarray, np.ndarray]:
    """Alternate fit and choice of inliers until the choice stands still; poses are ``[n, 4, 4]``."""
    relative = fixed[:, :3, :3] @ np.swapaxes(moving[:, :3, :3], -1, -2)
    seed_deg = _angles_deg(relative, _medoid(relative))
    keep = seed_deg <= max(rule.rotation_floor_deg, rule.factor * float(np.median(seed_deg)))
    rotation = chordal_mean(relative[keep])
    scale, shift = _least_median(fixed[keep, :3, 3], moving[keep, :3, 3] @ rotation.T)
    sim = Sim3(scale, rotation, shift)
    angles_deg, distances, keep = _judge(sim, fixed, moving, unit, rule)
    for _ in range(ROUNDS):
        if keep.sum() < 2:
            break
        sim = _fit(fixed[keep], moving[keep])
        angles_deg, distances, now = _judge(sim, fixed, moving, unit, rule)
        if np.array_equal(now, keep):
            break
        keep = now
    if keep.sum() < 2 or sim.scale <= 0:
        numbers = {
            "cameras": len(keep),
            "agreeing": int(keep.sum()),
            "scale": float(sim.scale),
            "rotation_median_deg": float(np.median(angles_deg)),
            "centre_median": float(np.median(distances)),
        }
        raise Infeasible("no similarity brings two cameras of the reconstructions together", numbers)
    return sim, keep, angles_deg, distances


def _fit(fixed: np.ndarray, moving: np.ndarray) -> Sim3:
    rotation = chordal_mean(fixed[:, :3, :3] @ np.swapaxes(moving[:, :3, :3], -1, -2))
    scale, shift = _scale_and_shift(fixed[:, :3, 3], moving[:, :3, 3] @ rotation.T)
    return Sim3(scale, rotation, shift)


def _scale_and_shift(target: np.ndarray, source: np.ndarray) -> tuple[float, np.ndarray]:
    """Least squares ``target = s * source + t`` over ``[n, 3]``; s is 0 where the source points coincide."""
    a, b = target - target.mean(0), source - source.mean(0)
    scale = float((a * b).sum() / max((b * b).sum(), np.finfo(float).tiny))
    return scale, target.mean(0) - scale * source.mean(0)


def _least_median(target: np.ndarray, source: np.ndarray) -> tuple[float, np.ndarray]:
    """The pair's fit with the smallest median residual over all points ``[n, 3]`` (Rousseeuw 1984)."""
    anchors = np.unique(np.linspace(0, len(target) - 1, min(len(target), ANCHORS)).round().astype(int))
    best = (np.inf, _scale_and_shift(target, source))
    for pair in combinations(anchors, 2):
        scale, shift = _scale_and_shift(target[list(pair)], source[list(pair)])
        median = float(np.median(np.linalg.norm(target - scale * source - shift, axis=-1)))
        if scale > 0 and median < best[0]:
            best = (median, (scale, shift))
    return best[1]


def _judge(
    sim: Sim3, fixed: np.ndarray, moving: np.ndarray, unit: float, rule: OutlierRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual angles in degrees, residual distances in units, and which cameras to keep, each ``[n]``."""
    aligned = sim.poses(moving)
    angles_deg = _angles_deg(fixed[:, :3, :3], aligned[:, :3, :3])
    distances = np.linalg.norm(fixed[:, :3, 3] - aligned[:, :3, 3], axis=-1) / unit
    keep = (angles_deg <= rule.rotation_bar_deg(angles_deg)) & (distances <= rule.centre_bar(distances))
    return angles_deg, distances, keep


def _medoid(rotations: np.ndarray) -> np.ndarray:
    """Of ``[n, 3, 3]`` the one with the smallest sum of angles to the others."""
    sums = [_angles_deg(rotations, r).sum() for r in rotations]
    return rotations[int(np.argmin(sums))]


def _angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.degrees(rotation_angle_rad(a @ np.swapaxes(b, -1, -2)))
