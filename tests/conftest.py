"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def captures() -> Path:
    """Folder with real captures, beside the checkout or named by FIELDBOOK_CAPTURES."""
    folder = Path(os.environ.get("FIELDBOOK_CAPTURES", REPOSITORY.parent / "shared" / "captures"))
    if not folder.is_dir():
        pytest.skip(f"no real captures at {folder}; set FIELDBOOK_CAPTURES to a folder with fox.mp4")
    return folder


@pytest.fixture(scope="session")
def make_scene():
    """Run a scene's stages up to its frame, as the workflow would: (results folder, name, scene keys) -> files."""
    from fieldbook.cli import main
    from fieldbook.config import validate
    from fieldbook.layout import Results, SceneFiles
    from fieldbook.scenes import stage_spec

    def make(root: Path, name: str, keys: dict) -> SceneFiles:
        study = {"study": "s", "scenes": {name: keys}, "counts": ["all"], "methods": [{"method": "nerfacto"}]}
        scene, files = validate(study)["scenes"][name], Results(root).scene(name)
        for stage in ("capture", "frames", "reference", "scene_frame"):
            spec = json.dumps(stage_spec(scene, stage))
            assert main([stage.replace("_", "-"), str(files.root), "--spec", spec]) == 0
        return files

    return make
