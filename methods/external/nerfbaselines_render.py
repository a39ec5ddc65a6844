"""Render the views of a camera file with a model that ``nerfbaselines train`` made.

nerfbaselines names checkpoints after their step, which differs from method to method, and numbers the pictures of a
trajectory; an external method's pictures carry the names of their views.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def newest_checkpoint(model: Path) -> Path:
    """The checkpoint of the last step.

    Raises:
        SystemExit: There is none.
    """
    found = [p for p in model.glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    if not found:
        sys.exit(f"no checkpoint-<step> in {model}")
    return max(found, key=lambda p: int(p.name.partition("-")[2]))


def main() -> None:
    """Render, then give the pictures the names of their views."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "cameras", "trajectory", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    numbered = given.output / "numbered"
    command = ["nerfbaselines", "render-trajectory", "--checkpoint", str(newest_checkpoint(given.model))]
    command += ["--trajectory", str(given.trajectory), "--output", str(numbered)]
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code if code > 0 else 128 - code)
    views = json.loads(given.cameras.read_text(encoding="utf-8"))["camera_path"]
    for number, view in enumerate(views):
        picture = numbered / f"{number:05d}.png"
        if picture.is_file():  # whoever asked for it says which are missing
            picture.rename(given.output / f"{view['name']}.png")


if __name__ == "__main__":
    main()
