"""Load a study for use: methods known, sources there, and the scenes that studies share unchanged."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from data.blender import read_blender
from data.posed import POSED_KINDS
from data.subsets import held_out_positions
from fieldbook.config import read_config
from fieldbook.documents import CAPTURE, SPLITS, read_document
from fieldbook.errors import UserError, nearest
from fieldbook.files import sha256_file, user_path
from fieldbook.layout import SceneFiles
from fieldbook.status import read_status
from fieldbook.study import Study, check_counts, make_study
from methods.external.machine import check_files
from methods.external.template import Commands, runs_commands

STAGE_KEYS = {
    "capture": ("capture",),
    "frames": ("capture", "frames"),
    "reference": ("sfm",),
    "splits": ("split", "nested"),
    "scene_frame": ("poi",),
    "poses": ("sfm",),
}
"""The scene's keys that each stage depends on: what it is given, and what may not change once it is done."""
ALIGNMENT_LIMITS = ("max_rotation_residual_deg", "max_centre_residual")


def make(config: dict[str, Any]) -> Study:
    """Expand a config, with the methods known here and their presets."""
    from methods.presets import METHODS, preset_overrides

    known = {*METHODS, *plugin_methods()}

    def resolve(method: str, preset: str, overrides: dict[str, Any]) -> dict[str, Any]:
        if method not in known:
            raise UserError(f"methods: no method {method!r}; {nearest(method, known)}")
        return preset_overrides(method, preset) | overrides

    return make_study(config, resolve)


def plugin_methods() -> set[str]:
    """Names that installed packages register with nerfstudio, read without importing any of them."""
    variable = os.environ.get("NERFSTUDIO_METHOD_CONFIGS", "")
    named = {pair.partition("=")[0].strip() for pair in variable.split(",") if "=" in pair}
    return named | {entry.name for entry in entry_points(group="nerfstudio.method_configs")}


def load_study(path: Path) -> Study:
    """Read, check and expand a config file.

    Raises:
        UserError: Anything wrong with it, a source that is not there, or a scene whose keys changed since it was made.
    """
    study = make(read_config(path))
    check_scenes(study)
    return study


def check_scenes(study: Study) -> None:
    """Refuse, before any job starts, missing sources and scripts, counts above a known pool, changed shared scenes."""
    if user_path(study.config["results"]).exists() and not study.results.root.is_dir():
        raise UserError(f"results: {study.config['results']} is a file; give the name of a folder")
    weights = study.config["weights"]
    if weights not in ("none", "download") and not user_path(weights).is_dir():
        raise UserError(f"weights: no folder {weights!r}; give none, download, or a folder with torchvision's files")
    for spec in study.method_specs().values():
        if runs_commands(spec):
            check_files(Commands.of(spec))
    for name, spec in study.config["scenes"].items():
        files = study.results.scene(name)
        _check_sources(name, spec, study.config["counts"])
        _check_unchanged(files, spec)
        _check_source_bytes(files, spec)
        if files.splits.exists():
            check_counts(study.config["counts"], name, len(read_document(files.splits, SPLITS)["pool"]))


def stage_spec(spec: dict[str, Any], stage: str) -> dict[str, Any]:
    """The keys of a scene that ``stage`` depends on; those that only subset poses use are not the reference's."""
    keys = {key: spec[key] for key in STAGE_KEYS[stage]}
    if stage == "reference":
        keys["sfm"] = {key: value for key, value in spec["sfm"].items() if key not in ALIGNMENT_LIMITS}
    return keys


def refuse_change(scene: str, status: Path, spec: dict[str, Any]) -> None:
    """Refuse to make a finished stage of a shared scene anew with other keys.

    Raises:
        UserError: Names the key, what it was and what it is now.
    """
    done = read_status(status) if status.exists() else None
    if done is None or not done.ok:  # what did not work may be mended under the same name
        return
    for key, old in done.spec.items():
        if old != spec.get(key):
            raise UserError(
                f"scene {scene!r}: {status.parent} was made with {key}: {old} and is now asked for with {key}: "
                f"{spec.get(key)}; give the scene a new name, or delete that folder"
            )


def _check_unchanged(files: SceneFiles, spec: dict[str, Any]) -> None:
    for stage in STAGE_KEYS:
        statuses = (
            [files.status(stage)] if stage != "poses" else sorted(files.root.glob("n*/poses-*/poses.status.json"))
        )
        for status in statuses:
            refuse_change(files.root.name, status, stage_spec(spec, stage))
    for mask, source in spec["masks"].items():
        refuse_change(files.root.name, files.status(f"mask-{mask}"), {"mask": source})


def _check_sources(scene: str, spec: dict[str, Any], counts: list[int | str]) -> None:
    sources = {f"masks.{name}.path": mask.get("path") for name, mask in spec["masks"].items()}
    sources |= {"capture.path": spec["capture"].get("path"), "split.file": spec["split"]["file"]}
    sources["surface.path"] = (spec["surface"] or {}).get("path")
    for key, path in sources.items():
        if path is not None and not user_path(path).exists():
            raise UserError(
                f"scenes.{scene}.{key}: there is no {path}; paths are relative to the folder you start from"
            )
    kind = spec["capture"]["kind"]
    if kind in POSED_KINDS:
        pool = _check_posed(kind, user_path(spec["capture"]["path"]), spec)
        if not spec["split"]["file"]:
            check_counts(counts, scene, pool)


def _check_posed(kind: str, folder: Path, spec: dict[str, Any]) -> int:
    """Check the folder of a capture that came with its poses; how many frames are left beside its test frames."""
    if kind == "blender":
        return len(read_blender(folder).of_split("train"))
    from data.masks.given import check_masks
    from data.posed_source import read_given

    content = read_given(kind, folder)
    if any(mask["kind"] == "given" for mask in spec["masks"].values()):
        check_masks(kind, folder, content)
    return len(content.views) - len(held_out_positions(len(content.views), spec["split"]["test_every"]))


def _check_source_bytes(files: SceneFiles, spec: dict[str, Any]) -> None:
    """A video replaced under its old name would leave every result under the new file's name."""
    path = user_path(spec["capture"].get("path", "."))
    if spec["capture"]["kind"] != "video" or not files.status("capture").exists():
        return
    if path.stat().st_mtime <= files.capture.stat().st_mtime:
        return
    if sha256_file(path) != read_document(files.capture, CAPTURE)["sha256"]:
        raise UserError(
            f"scene {files.root.name!r}: {path} is not the file it was made from; give the scene a new name, or delete "
            f"{files.root}"
        )
