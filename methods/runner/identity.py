"""What a stage's result depends on, as one hash: its inputs, this code and the packages below it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fieldbook.errors import UserError
from fieldbook.files import sha256_file
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.versions import versions
from methods.runner.transforms import read_transforms, scene_of

ROOT = Path(__file__).parents[2]
SOURCES = ("methods", "data")
SUFFIXES = {".py", ".h", ".cpp", ".cu"}


def training_identity(dataset: DatasetFiles, spec: dict[str, Any]) -> str:
    """SHA-256 of everything that decides what training makes on one machine.

    The commit is left out, the code itself is in: a change of the documentation costs nobody a trained run.

    Args:
        dataset: The dataset's files; every picture and mask is read.
        spec: The run's.

    Raises:
        UserError: A file that the dataset names is missing.
    """
    return _hash(spec=spec, dataset=_pictures(dataset))


def rendering_identity(run: RunFiles, dataset: DatasetFiles, paths: dict[str, Path], spec: dict[str, Any]) -> str:
    """SHA-256 of everything that decides what rendering makes on one machine.

    Args:
        run: A trained run.
        dataset: Its dataset; its cameras count, its pictures do not.
        paths: Camera paths by name.
        spec: The run's.
    """
    files = {"checkpoint": run.checkpoint_manifest, "cameras": dataset.transforms, **paths}
    return _hash(spec=spec, **{name: sha256_file(path) for name, path in files.items()})


def mesh_identity(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> str:
    """SHA-256 of everything that decides what the mesh of a run is on one machine.

    Args:
        run: A trained run.
        dataset: Its dataset.
        spec: Of the stage.
    """
    scene = scene_of(dataset)
    files = {"checkpoint": run.checkpoint_manifest, "run": run.run, "cameras": dataset.transforms, "scene": scene.scene}
    # What the world units come from.
    world = {"reference": scene.reference_poses, "capture": scene.capture, "truth": scene.truth / "scene.json"}
    files |= {name: path for name, path in world.items() if path.is_file()}
    return _hash(spec=spec, **{name: sha256_file(path) for name, path in files.items()})


def _hash(**parts: Any) -> str:
    packages = {k: v for k, v in versions().items() if k != "commit"}
    parts |= {"packages": packages, "code": _sources()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _sources() -> str:
    found = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in SUFFIXES):
            found.update(f"{path.relative_to(ROOT)} {sha256_file(path)}\n".encode())
    return found.hexdigest()


def _pictures(dataset: DatasetFiles) -> dict[str, str]:
    meta, folder = read_transforms(dataset.transforms), dataset.transforms.parent
    names = {frame[key] for frame in meta["frames"] for key in ("file_path", "mask_path") if key in frame}
    names |= {meta[key] for key in ("ply_file_path", "scene_json") if key in meta}
    missing = [name for name in sorted(names) if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder / missing[0]}{more}: missing; put it back, or make the dataset again")
    return {"transforms": sha256_file(dataset.transforms), **{n: sha256_file(folder / n) for n in sorted(names)}}
