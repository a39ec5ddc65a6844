"""What a report says about scenes and progress besides the numbers of the cells."""

from __future__ import annotations

from data.poses import GIVEN_SPACE
from fieldbook.documents import CAPTURE, REFERENCE, SCENE, SPLITS
from fieldbook.layout import SceneFiles
from reports.records import read_optional
from reports.text import NONE, plural, significant, vector

AXIS_SOURCES = {
    "plane": "normal of the object plane",
    "cameras": "mean direction to the cameras (no plane was supported well enough)",
}


def poses_are_given(files: SceneFiles) -> bool:
    """Whether the scene's poses came with its capture, so that no reference was reconstructed."""
    poses = read_optional(files.reference_poses, REFERENCE)
    return "world" in poses or has_own_world(files)


def has_own_world(files: SceneFiles) -> bool:
    """Whether the poses came in a world of the capture's own, with nothing to reconstruct a subset from."""
    return read_optional(files.reference_poses, REFERENCE).get("space") == GIVEN_SPACE


def scene_facts(files: SceneFiles) -> list[tuple[str, str]]:
    """Label and value of everything worth knowing about a scene; shorter while its stages have not run."""
    return [*_capture_facts(files), *_reference_facts(files), *_frame_facts(files), *_split_facts(files)]


def _capture_facts(files: SceneFiles) -> list[tuple[str, str]]:
    capture = read_optional(files.capture, CAPTURE)
    if not capture:
        return []
    lost = capture.get("lost_frames", 0)
    lost = len(lost) if isinstance(lost, list) else int(lost or 0)
    return [
        ("Capture", f"{capture.get('kind', '?')}, {capture.get('source', '?')}"),
        ("Picture size", f"{capture.get('width', '?')} × {capture.get('height', '?')} pixels"),
        ("Frames in the source", f"{capture.get('frame_count', '?')} readable, {lost} lost"),
    ]


def _reference_facts(files: SceneFiles) -> list[tuple[str, str]]:
    poses = read_optional(files.reference_poses, REFERENCE)
    if not poses:
        return []
    if poses_are_given(files):
        what = "nothing was reconstructed" if has_own_world(files) else "the reference is its COLMAP model"
        return [("Poses", f"of {poses['registered']} frames, given with the capture; {what}")]
    unregistered = ", ".join(poses.get("unregistered", [])) or "none"
    error = significant(poses.get("mean_reprojection_error"), 3)
    return [
        ("Registered by the reference", f"{poses.get('registered')} of {poses.get('requested')} frames"),
        ("Frames not registered", unregistered),
        ("Mean reprojection error", f"{error} pixels"),
    ]


def _frame_facts(files: SceneFiles) -> list[tuple[str, str]]:
    frame = read_optional(files.scene, SCENE)
    if not frame:
        return []
    source = AXIS_SOURCES.get(frame.get("axis_source", ""), frame.get("axis_source", NONE))
    world = "capture's own" if has_own_world(files) else "COLMAP"
    near, far = significant(frame.get("near"), 3), significant(frame.get("far"), 3)
    facts = [
        (
            "Point of interest",
            f"{vector(frame.get('poi_in_colmap'))} in the {world} frame; origin of the scene",
        ),
        ("Axis of the cones", f"{vector(frame.get('axis'))}, {source}"),
        ("Near and far", f"{near} and {far} scene units"),
        ("Scene unit", "median distance from the cameras to the point of interest"),
    ]
    uncertainty = frame.get("uncertainty") or {}
    numbers = {k: v for k, v in uncertainty.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return facts + [(f"Uncertainty: {k.replace('_', ' ')}", significant(v, 3)) for k, v in numbers.items()]


def _split_facts(files: SceneFiles) -> list[tuple[str, str]]:
    split = read_optional(files.splits, SPLITS)
    if not split:
        return []
    test, pool = split.get("test", []), split.get("pool", [])
    return [("Test frames", f"{len(test)}: {', '.join(test)}"), ("Frames to train from", str(len(pool)))]


def headline(runs: list[dict[str, str]], cells: list[dict[str, str]]) -> str:
    """One sentence: how far the study got."""
    states = [r["state"] for r in runs]
    complete = sum(c["complete"] == "1" for c in cells)
    return (
        f"{plural(len(runs), 'run')} planned in {plural(len(cells), 'cell')}: {states.count('ok')} finished, "
        f"{states.count('infeasible')} infeasible, {states.count('missing')} not finished; "
        f"{plural(complete, 'cell')} complete."
    )
