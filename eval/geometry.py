"""How far a surface is from the true one: distances both ways, F-scores, normals.

*Accuracy* is the mean distance from the predicted surface's points to the true surface, *completeness* that from the
true surface's points to the predicted one, *Chamfer* the mean of both, as in DTU's evaluation (Aanaes et al. 2016,
"Large-Scale Data for Multiple-View Stereopsis"); others sum them, or square the distances. *Precision* and *recall* are
the shares of predicted and of true points nearer than a threshold, the *F-score* their harmonic mean (Knapitsch et al.
2017, "Tanks and Temples"). Lengths are in the unit of the surfaces.

Points are what may be left out (by a region, masks, visibility); distances are to all of the other surface, as DTU's
evaluation has it: a cut through a surface must not make its border's neighbours far.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.meshes import Mesh
from eval.closest import Nearest, nearest_on_triangles, nearest_points
from eval.sampling import Sample, face_normals

SURFACE, POINTS = "surface", "points"


@dataclass(frozen=True)
class Side:
    """One of two surfaces.

    Attributes:
        sample: Its points that are measured.
        target: What the other's points are measured to: triangles, or bare points.
        target_normals: ``[f, 3]`` of the triangles or points; ``None`` where there are none.
    """

    sample: Sample
    target: Mesh
    target_normals: np.ndarray | None

    @staticmethod
    def of(mesh: Mesh, sample: Sample, distance: str = SURFACE) -> Side:
        """A side whose target is the mesh itself (``surface``) or its sample, before any is left out (``points``)."""
        if distance == POINTS and not mesh.is_points:
            return Side(sample, Mesh(sample.points, np.zeros((0, 3), np.int64)), sample.normals)
        normals = None if mesh.is_points else face_normals(mesh.vertices[mesh.faces])[0]
        return Side(sample, mesh, normals)

    def where(self, keep: np.ndarray) -> Side:
        """The same, of whose points only those with ``keep`` ``[n]`` bool are measured."""
        return replace(self, sample=self.sample.where(keep))

    def nearest(self, points: np.ndarray) -> Nearest:
        """The nearest of the target for each of ``points`` ``[n, 3]``."""
        if self.target.is_points:
            return nearest_points(points, self.target.vertices)
        return nearest_on_triangles(points, self.target.vertices[self.target.faces])


@dataclass(frozen=True)
class FScore:
    """At one threshold, in the unit of the surfaces; shares in [0, 1]."""

    threshold: float
    precision: float
    recall: float
    fscore: float


@dataclass(frozen=True)
class Comparison:
    """What is known of a predicted surface; ``None`` where there was nothing to measure, or nothing to measure to.

    Attributes:
        accuracy: Mean distance of predicted points to the true surface.
        completeness: Mean distance of true points to the predicted surface.
        chamfer: Mean of both.
        accuracy_median: Median of the first distances.
        completeness_median: Median of the second.
        hausdorff95: The larger of the two 95th percentiles: Hausdorff's distance but for the worst twentieth.
        fscores: One per threshold, in their order; empty without true points.
        normal_consistency: Mean of ``|cos|`` between the normals of a point and of what is nearest to it, both ways.
        normal_cosine: The same with its sign: negative where a surface is inside out.
        predicted_points: Points measured.
        true_points: The same.
        too_far: Distances above ``max_distance``, left out of the means, medians and the percentile.
    """

    accuracy: float | None
    completeness: float | None
    chamfer: float | None
    accuracy_median: float | None
    completeness_median: float | None
    hausdorff95: float | None
    fscores: tuple[FScore, ...]
    normal_consistency: float | None
    normal_cosine: float | None
    predicted_points: int
    true_points: int
    too_far: int

    def lengths(self, scale: float = 1.0) -> dict[str, float | None]:
        """What is measured in units of length, in another unit."""
        names = ("chamfer", "accuracy", "completeness", "accuracy_median", "completeness_median", "hausdorff95")
        values = {name: getattr(self, name) for name in names}
        return {name: None if value is None else scale * value for name, value in values.items()}

    def ratios(self) -> dict[str, Any]:
        """What has no unit."""
        names = ("normal_consistency", "normal_cosine", "predicted_points", "true_points", "too_far")
        return {name: getattr(self, name) for name in names}


def compare(
    predicted: Side, true: Side, thresholds: tuple[float, ...], max_distance: float | None = None
) -> Comparison:
    """Compare two surfaces in one frame.

    Args:
        predicted: May be empty: then nothing is complete and every F-score is 0.
        true: May be empty: then there is nothing to say.
        thresholds: Of the F-scores; a distance below one counts.
        max_distance: Distances above it are left out of the means; ``None`` for none.
    """
    there, back = true.nearest(predicted.sample.points), predicted.nearest(true.sample.points)
    near, far = (_within(n.distance, max_distance) for n in (there, back))
    accuracy, completeness = _mean(near), _mean(far)
    cosines = [
        _cosines(predicted.sample, there, true.target_normals),
        _cosines(true.sample, back, predicted.target_normals),
    ]
    return Comparison(
        accuracy=accuracy,
        completeness=completeness,
        chamfer=_both(accuracy, completeness),
        accuracy_median=_quantile(near, 0.5),
        completeness_median=_quantile(far, 0.5),
        hausdorff95=_larger(_quantile(near, 0.95), _quantile(far, 0.95)),
        fscores=tuple(_fscore(there.distance, back.distance, t) for t in thresholds) if len(back.distance) else (),
        normal_consistency=_both(*(_mean(np.abs(c)) for c in cosines)),
        normal_cosine=_both(*(_mean(c) for c in cosines)),
        predicted_points=len(there.distance),
        true_points=len(back.distance),
        too_far=sum(int(np.isfinite(n.distance).sum()) - len(w) for n, w in ((there, near), (back, far))),
    )


def _within(distance: np.ndarray, most: float | None) -> np.ndarray:
    finite = distance[np.isfinite(distance)]
    return finite if most is None else finite[finite <= most]


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _quantile(values: np.ndarray, share: float) -> float | None:
    return float(np.quantile(values, share)) if len(values) else None


def _both(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else (a + b) / 2


def _larger(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else max(a, b)


def _fscore(there: np.ndarray, back: np.ndarray, threshold: float) -> FScore:
    precision, recall = (float((d < threshold).mean()) if len(d) else 0.0 for d in (there, back))
    both = precision + recall
    return FScore(threshold, precision, recall, 2 * precision * recall / both if both else 0.0)


def _cosines(sample: Sample, nearest: Nearest, normals: np.ndarray | None) -> np.ndarray:
    """Of the angles between normals ``[m]``, at the points that have something near; empty without normals."""
    if sample.normals is None or normals is None:
        return np.zeros(0)
    found = nearest.index >= 0
    return np.einsum("nk,nk->n", sample.normals[found], normals[nearest.index[found]])
