"""Fixtures that several test files share."""

from __future__ import annotations

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
