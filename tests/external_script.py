"""A method that is a small script, for the tests of external methods: its dataset, its spec and its stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fieldbook.cli import main
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.status import OK, Status, write_status
from methods.external.entry import external_commands, resolved_commands

from .runner_ball import write_dataset

NEAREST = Path(__file__).parent.parent / "examples" / "nearest_view.py"
TRAIN = "{python} nearest_view.py --dataset {dataset} --model {model}"
RENDER = "{python} nearest_view.py --model {model} --cameras {cameras} --output {output}"


def external_dataset(tmp_path: Path) -> DatasetFiles:
    """A dataset in ``study``, and the script of a method in ``code`` beside it."""
    root = tmp_path / "study"
    root.mkdir()
    files = write_dataset(root)
    write_status(files.status(), Status(OK, "dataset"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "nearest_view.py").write_text(NEAREST.read_text())
    return files


def run_of(dataset: DatasetFiles, name: str = "run") -> RunFiles:
    return RunFiles(dataset.root / "mine" / name)


def spec_of(dataset: DatasetFiles, **keys: Any) -> dict[str, Any]:
    own = {key: keys.pop(key) for key in ("train", "render", "needs", "overrides") if key in keys}
    entry = {"method": "mine", "train": TRAIN, "render": RENDER, "overrides": {}, **own}
    if entry["train"] is None:
        del entry["train"]
    entry["cwd"] = str(dataset.root.parent / "code")
    resolved = resolved_commands(external_commands(entry))
    return {
        **{"method": "mine", "preset": "external", "resolved": resolved},
        **{"seed": 3, "device": "cpu", "torch_threads": 1, **keys},
    }


def train(dataset: DatasetFiles, **keys: Any) -> int:
    return main(["train", str(run_of(dataset).root), "--spec", json.dumps(spec_of(dataset, **keys))])


def render(dataset: DatasetFiles, *paths: Path, **keys: Any) -> int:
    command = ["render", str(run_of(dataset).root), "--spec", json.dumps(spec_of(dataset, **keys))]
    return main([*command, *(("--paths", *map(str, paths)) if paths else ())])


def script(dataset: DatasetFiles, code: str, name: str = "draw.py") -> str:
    """Put a script beside the method's; the command that runs it on cameras and output."""
    (dataset.root.parent / "code" / name).write_text(code)
    return f"{{python}} {name} {{cameras}} {{output}}"
