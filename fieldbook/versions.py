"""What a result was made with: commit, Python and the packages that decide numbers."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fieldbook.files import sha256_file

LOCK = Path(__file__).parents[1] / "requirements.lock"
PACKAGES = ("radiance-fieldbook", "torch", "nerfstudio", "gsplat", "nerfacc", "pycolmap", "snakemake", "numpy")


def versions() -> dict[str, str]:
    """Name to version: the checkout's commit, Python, and the packages that are installed."""
    found = {"commit": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of this checkout, with ``-dirty`` where files differ from it; ``unknown`` outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def lock_sha256() -> str:
    """SHA-256 of ``requirements.lock``, which pins every package; ``unknown`` where the file is not there."""
    return sha256_file(LOCK) if LOCK.is_file() else "unknown"
