"""Load a study for use: methods known, and the scenes that studies share unchanged."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from fieldbook.config import read_config
from fieldbook.errors import UserError, nearest
from fieldbook.files import read_json, write_json
from fieldbook.layout import SceneFiles
from fieldbook.study import Study, make_study


def make(config: dict[str, Any]) -> Study:
    """Expand a config, with the methods known here and their presets."""
    from methods.presets import METHODS, OTHER_BUILTINS, preset_overrides

    known = {*METHODS, *OTHER_BUILTINS, *plugin_methods()}

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
        UserError: Anything wrong with it, or a scene whose keys changed since it was made.
    """
    study = make(read_config(path))
    check_scenes(study)
    return study


def check_scenes(study: Study) -> None:
    """Refuse a study that would change a scene that studies share, before any job starts."""
    for name, spec in study.config["scenes"].items():
        files = study.results.scene(name)
        _check(files, files.spec, scene_keys(spec))
        for mask, source in spec["masks"].items():
            _check(files, files.mask_spec(mask), source)


def scene_keys(spec: dict[str, Any]) -> dict[str, Any]:
    """The keys that make a scene what it is: all but its masks, which can be added later."""
    return {key: value for key, value in spec.items() if key != "masks"}


def keep_spec(files: SceneFiles, stored: Path, spec: dict[str, Any]) -> None:
    """Store the keys of a scene, or of one of its masks, at their first use; check them at every later one."""
    _check(files, stored, spec)
    write_json(stored, spec)


def _check(files: SceneFiles, stored: Path, spec: dict[str, Any]) -> None:
    old = read_json(stored) if stored.exists() else spec
    for key in sorted(old.keys() | spec.keys()):
        if old.get(key) != spec.get(key):
            raise UserError(
                f"scene {files.root.name!r}: {stored.name.removesuffix('.json')} was made with {key}: {old.get(key)} "
                f"and is now asked for with {key}: {spec.get(key)}; give it a new name, or delete {files.root}"
            )
