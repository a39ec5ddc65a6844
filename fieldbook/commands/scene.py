"""Stages of a scene: from a capture to datasets and camera paths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from fieldbook.commands.common import SceneDir, Spec, load_spec
from fieldbook.layout import DatasetFiles, PathFiles, PoseFiles, SceneFiles, status_path
from fieldbook.stage import run_stage
from fieldbook.status import Status


def _scene_stage(stage: str, scene: Path, spec: str, work: Callable[..., Any], *needs: str) -> Status:
    from fieldbook.config import check_keys
    from fieldbook.scenes import refuse_change

    files, keys = SceneFiles(scene), load_spec(spec)
    check_keys(keys, "scene")
    refuse_change(scene.name, files.status(stage), keys)
    return run_stage(stage, scene, lambda: work(files, keys), [files.status(n) for n in needs], keys)


def capture(scene: SceneDir, spec: Spec) -> Status:
    """Probe a video, a folder of pictures or one that came with poses, or make the synthetic capture.

    Example: fieldbook capture results/scenes/fox --spec '{"capture": {"kind": "video", "path": "fox.mp4"}}'
    """
    from data.video import ingest

    return _scene_stage("capture", scene, spec, ingest)


def frames(scene: SceneDir, spec: Spec) -> Status:
    """Take frames out of a capture.

    Example: fieldbook frames results/scenes/fox --spec @fox.json
    """
    from data.video import extract

    return _scene_stage("frames", scene, spec, extract, "capture")


def reference(scene: SceneDir, spec: Spec) -> Status:
    """Reconstruct all frames with COLMAP and undistort them once; poses that came with a capture are taken as given.

    Example: fieldbook reference results/scenes/fox --spec @fox.json
    """

    def work(files: SceneFiles, keys: dict[str, Any]) -> dict[str, Any]:
        from data.reference import make_reference

        return make_reference(files, keys)

    return _scene_stage("reference", scene, spec, work, "frames")


def splits(scene: SceneDir, spec: Spec) -> Status:
    """Hold out the test frames and order the pool.

    Example: fieldbook splits results/scenes/fox --spec '{"split": {"test_every": 8, "file": null}, "nested": true}'
    """
    from data.subsets import make_splits

    return _scene_stage("splits", scene, spec, make_splits, "reference")


def scene_frame(scene: SceneDir, spec: Spec) -> Status:
    """Find the point of interest, up, axis, scale, bounds, near and far.

    Example: fieldbook scene-frame results/scenes/fox --spec '{"poi": null}'
    """
    from data.scene_frame import make_scene_frame

    return _scene_stage("scene_frame", scene, spec, make_scene_frame, "reference")


def mask(scene: SceneDir, name: Positional[str], spec: Spec) -> Status:
    """Make the masks of one source.

    Example: fieldbook mask results/scenes/card card --spec '{"mask": {"kind": "truth"}}'
    """
    from data.masks.sources import make_masks

    work = lambda files, keys: make_masks(files, {"masks": {name: keys["mask"]}}, name)  # noqa: E731
    return _scene_stage(f"mask-{name}", scene, spec, work, "scene_frame")


def images(scene: SceneDir, long_side: int) -> Status:
    """Scale the frames of a scene; 0 keeps their size.

    Example: fieldbook images results/scenes/card --long-side 160
    """
    from data.images import scale_images

    files = SceneFiles(scene)
    work = lambda: scale_images(files, long_side)  # noqa: E731
    return run_stage(f"images-{long_side}", scene, work, [files.status("reference")])


def scaled_mask(scene: SceneDir, name: Positional[str], long_side: int) -> Status:
    """Scale the masks of one source like the frames.

    Example: fieldbook scaled-mask results/scenes/card card --long-side 160
    """
    from data.images import scale_masks

    files = SceneFiles(scene)
    work = lambda: scale_masks(files, name, long_side)  # noqa: E731
    return run_stage(f"scaled-{name}-{long_side}", scene, work, [files.status(f"mask-{name}")])


def poses(
    scene: SceneDir,
    spec: Spec,
    count: str,
    policy: Literal["reference", "subset"] = "reference",
    mapper: Literal["incremental", "global", "hierarchical"] = "incremental",
    sfm_mask: str = "none",
    sfm_seed: int = 0,
    draw: int = 0,
) -> Status:
    """Poses of one subset of frames, in the scene frame.

    Example: fieldbook poses results/scenes/card --count 6 --policy subset --spec @card.json
    """
    from fieldbook.config import check_keys

    files, keys = SceneFiles(scene), load_spec(spec)
    check_keys(keys, "scene")
    out = files.poses(count, policy, mapper, sfm_mask, sfm_seed, draw)
    needs = [files.status("splits"), files.status("scene_frame")]
    needs += [files.status(f"mask-{sfm_mask}")] if sfm_mask != "none" else []

    def work() -> dict[str, Any]:
        from data.subset_poses import PoseRequest, make_poses

        return make_poses(files, out, keys, PoseRequest(count, draw, policy, mapper, sfm_mask, sfm_seed))

    return run_stage("poses", out.root, work, needs, keys)


def dataset(out: Positional[Path], scene: Path, poses: Path, long_side: int = 0, mask: str = "none") -> Status:
    """Write a nerfstudio dataset: transforms.json and points.ply.

    Example: fieldbook dataset DATASET --scene results/scenes/card --poses results/scenes/card/n6-d0/poses-...
    """
    from data.dataset import make_dataset

    files = SceneFiles(scene)
    needs = [status_path(poses, "poses"), files.status(f"images-{long_side}")]
    needs += [files.status(f"scaled-{mask}-{long_side}")] if mask != "none" else []
    work = lambda: make_dataset(files, PoseFiles(poses), DatasetFiles(out), long_side, mask)  # noqa: E731
    return run_stage("dataset", out, work, needs)


def path(out: Positional[Path], scene: Path, spec: Spec, long_side: int = 0) -> Status:
    """Lay a novel-view camera path through the scene frame; true images where the capture is synthetic.

    Example: fieldbook path cone30 --scene results/scenes/card --spec '{"kind": "cone", "angle": 30, "distance": 1}'
    """
    from camera_paths.path import make_path
    from camera_paths.spec import check_path_spec

    files, keys = SceneFiles(scene), check_path_spec(out.name, load_spec(spec))
    work = lambda: make_path(files, PathFiles(out), keys, long_side)  # noqa: E731
    return run_stage("path", out, work, [files.status("scene_frame")])
