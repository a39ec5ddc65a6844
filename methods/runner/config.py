"""nerfstudio's plugin entry point for Fieldbook datasets (``fieldbook-data``).

nerfstudio loads every plugin at every command, so this imports nothing that nerfstudio has not loaded by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from methods.runner.dataparser import FieldbookDataParser


@dataclass
class FieldbookDataParserConfig(DataParserConfig):
    """A Fieldbook dataset: poses, split and scene bounds are taken as they stand in its files."""

    _target: type = field(default_factory=lambda: FieldbookDataParser)
    load_3D_points: bool = True  # noqa: N815 - the name splatfacto's other parsers use
    """Whether to read points.ply where the dataset has one."""
    keep_alpha: bool = False
    """Whether pictures keep their alpha channel, for a model that blends them itself; else they are blended over the
    dataset's background."""


fieldbook_dataparser = DataParserSpecification(
    config=FieldbookDataParserConfig(), description="Fieldbook dataset: explicit split, fixed scene frame"
)
