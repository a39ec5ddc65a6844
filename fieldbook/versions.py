"""What a result was made with: commit, Python and the packages that decide numbers."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("radiance-fieldbook", "torch", "nerfstudio", "pycolmap", "snakemake", "numpy")


def versions() -> dict[str, str]:
    """Name to version; the commit is marked ``dirty`` where the checkout has changes, ``unknown`` outside git."""
    return {"commit": commit(), "python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def commit() -> str:
    """Git commit of this checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changes = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" dirty" if changes.stdout.strip() else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
