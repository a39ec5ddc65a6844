"""How the tables name what is known of a run's mesh; light, for those who only read it."""

from __future__ import annotations

from collections.abc import Sequence

AVAILABLE = "available"
"""The word ``geometry`` where a mesh was compared; else the reason why not."""
DEFAULT_THRESHOLDS = (0.01, 0.005)
LENGTHS = ("chamfer", "accuracy", "completeness", "hausdorff95")
MESH_COLUMNS = ("mesh_vertices", "mesh_faces", "mesh_components", "mesh_watertight")
"""From the stage ``mesh``; whether it is watertight as 0 or 1."""


def geometry_columns(thresholds: Sequence[float]) -> tuple[str, ...]:
    """Columns of the stage ``geometry``, for its thresholds."""
    lengths = tuple(f"{name}_{unit}" for unit in ("world", "scene") for name in LENGTHS)
    scores = tuple(name for names in fscore_columns(thresholds) for name in names)
    return (*lengths, *scores, "normal_consistency", "normal_cosine")


def fscore_columns(thresholds: Sequence[float]) -> list[tuple[str, str, str]]:
    """F-score, precision and recall at each threshold; the first one's need no number."""
    tails = [f":{threshold:g}" if position else "" for position, threshold in enumerate(thresholds)]
    return [(f"fscore{tail}", f"precision{tail}", f"recall{tail}") for tail in tails]
