"""What a run's poses come to: frames asked for, found, trained with and dropped, and how well they fit."""

from __future__ import annotations

from typing import Any

from fieldbook.documents import POSES
from reports.records import RunRecord, optional_status, read_optional

POSE_COLUMNS = (
    "requested",
    "registered",
    "trained",
    "outliers",
    "focal_ratio",
    "gap_ratio",
    "residual_rotation_median_deg",
    "residual_centre_median",
)


def pose_numbers(run: RunRecord) -> dict[str, Any]:
    """Values of ``POSE_COLUMNS``: of ``poses.json`` where the poses are ok, else what the infeasible status tells.

    ``registered`` counts frames that COLMAP found, ``trained`` those that the alignment kept. Empty where the
    poses have not run or an earlier stage stopped them: that stage's numbers are about the whole scene.
    """
    status = optional_status(run.poses.root, "poses")
    if status is None:
        return {}
    if status.ok:
        return _found(read_optional(run.poses.poses, POSES))
    return _failed(status.numbers, run.entry["count"]) if status.stage == "poses" else {}


def outlier_names(run: RunRecord) -> list[str]:
    """Frames that COLMAP registered but that the alignment to the reference dropped."""
    status = optional_status(run.poses.root, "poses")
    if status is None:
        return []
    found = read_optional(run.poses.poses, POSES).get("alignment") or {} if status.ok else status.numbers
    return list(found.get("outliers", []))


def _found(poses: dict[str, Any]) -> dict[str, Any]:
    alignment = poses.get("alignment") or {}
    return _common(poses, alignment) | {
        "requested": poses.get("requested"),
        "registered": poses.get("registered"),
        "trained": len(poses.get("poses", {})),
        "outliers": len(alignment.get("outliers", [])),
    }


def _failed(numbers: dict[str, Any], count: str) -> dict[str, Any]:
    registered = next((numbers[k] for k in ("registered", "left", "cameras") if k in numbers), None)
    # Where the alignment failed, `registered` is what it kept; every camera it was given has a residual.
    registered = len(numbers["rotation_residuals_deg"]) if "rotation_residuals_deg" in numbers else registered
    return _common(numbers, numbers) | {
        "requested": numbers.get("requested", int(count) if count.isdigit() else None),
        "registered": registered,
        "outliers": len(numbers["outliers"]) if "outliers" in numbers else None,
    }


def _common(numbers: dict[str, Any], alignment: dict[str, Any]) -> dict[str, Any]:
    return {
        "focal_ratio": numbers.get("focal_ratio"),
        "gap_ratio": numbers.get("gap_ratio"),
        "residual_rotation_median_deg": alignment.get("rotation_median_deg"),
        "residual_centre_median": alignment.get("centre_median"),
    }
