"""What becomes of the numbers of poses that are there, that failed, or that are left over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldbook.files import write_json
from fieldbook.layout import DatasetFiles, PoseFiles, Results, RunFiles
from fieldbook.status import Status, write_status
from reports.pose_numbers import POSE_COLUMNS, outlier_names, pose_numbers
from reports.records import RunRecord

ALIGNMENT = {
    "rotation_median_deg": 0.5,
    "centre_median": 0.01,
    "outliers": ["frame_00003.png"],
    "rotation_residuals_deg": {f"frame_0000{i}.png": 0.5 for i in range(5)},
}


def record(root: Path, count: str = "6") -> RunRecord:
    folders = (RunFiles(root / "run"), DatasetFiles(root / "data"), PoseFiles(root / "poses"))
    return RunRecord({"count": count}, *folders, Results(root).scene("desk"), ())


def fail(run: RunRecord, numbers: dict, stage: str = "poses") -> dict:
    write_status(run.poses.status(), Status("infeasible", stage, "no", numbers))
    return pose_numbers(run)


@pytest.fixture
def run(tmp_path) -> RunRecord:
    """A run with a complete poses.json that has no status yet."""
    run = record(tmp_path)
    poses = {f"frame_0000{i}.png": np.eye(4).tolist() for i in (0, 1, 2, 4)}
    numbers = {"requested": 6, "registered": 5, "focal_ratio": 1.1, "gap_ratio": 2.0}
    write_json(run.poses.poses, numbers | {"poses": poses, "alignment": ALIGNMENT})
    return run


def test_finished_poses_tell_what_was_asked_for_found_trained_and_dropped(run):
    write_status(run.poses.status(), Status("ok", "poses"))
    assert [pose_numbers(run)[c] for c in POSE_COLUMNS] == [6, 5, 4, 1, 1.1, 2.0, 0.5, 0.01]
    assert outlier_names(run) == ["frame_00003.png"]


def test_poses_without_a_status_are_not_read(run):
    assert pose_numbers(run) == {}
    assert outlier_names(run) == []


def test_left_over_poses_give_way_to_the_numbers_of_the_failure(run):
    found = fail(run, {"requested": 6, "registered": 2, "focal_ratio": 0.4, "needed": 3})
    assert (found["requested"], found["registered"], found["focal_ratio"]) == (6, 2, 0.4)
    assert found.get("trained") is None
    assert outlier_names(run) == []


@pytest.mark.parametrize(
    ("count", "numbers", "expected"),
    [
        ("all", {"requested": 56, "left": 0}, (56, 0)),
        ("50pct", {"requested": 28, "registered": 3}, (28, 3)),
        ("1", {"requested": 1, "needed": 2}, (1, None)),
        ("8", {"cameras": 5, "agreeing": 1}, (8, 5)),
        ("all", {"cameras": 5, "agreeing": 1}, (None, 5)),
        ("all", {}, (None, None)),
    ],
)
def test_a_failure_tells_requested_and_registered_under_whatever_name(tmp_path, count, numbers, expected):
    found = fail(record(tmp_path, count), numbers)
    assert (found["requested"], found["registered"]) == expected


def test_a_failed_alignment_tells_residuals_and_outliers_and_every_registered_frame(tmp_path):
    run = record(tmp_path)
    found = fail(run, {"requested": 6, "registered": 4, "needed": 5} | ALIGNMENT)
    assert (found["registered"], found["outliers"]) == (5, 1)
    assert (found["residual_rotation_median_deg"], found["residual_centre_median"]) == (0.5, 0.01)
    assert outlier_names(run) == ["frame_00003.png"]


def test_numbers_of_a_failed_scene_are_not_taken_for_those_of_a_subset(run):
    assert fail(run, {"requested": 60, "registered": 20}, stage="reference") == {}
