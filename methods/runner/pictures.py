"""The pictures and masks of a dataset, looked at before nerfstudio opens them with whatever their content asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.pictures import open_picture, picture_size
from fieldbook.errors import UserError
from fieldbook.layout import DatasetFiles
from methods.runner.transforms import read_transforms


@contextmanager
def checked_pictures(dataset: DatasetFiles) -> Iterator[None]:
    """Check every picture's format and size beforehand; name the damaged one if opening them fails in the block.

    Raises:
        UserError: A picture is missing, is no PNG or JPEG, is damaged, or is not as large as its camera says.
    """
    sizes = {path: size for path, size in _pictures(dataset)}
    for path, size in sizes.items():
        found = picture_size(path)
        if found != size:
            raise UserError(
                f"{path} is {found[0]}x{found[1]}, its camera in {dataset.transforms} is {size[0]}x{size[1]}; make the "
                "dataset again"
            )
    try:
        yield
    except (OSError, SyntaxError, ValueError):  # what a decoder raises, which does not say of which file
        for path in sizes:
            with open_picture(path) as picture:
                picture.load()
        raise


def _pictures(dataset: DatasetFiles) -> Iterator[tuple[Path, tuple[int, int]]]:
    folder = dataset.transforms.parent
    for frame in read_transforms(dataset.transforms)["frames"]:
        for key in ("file_path", "mask_path"):
            if key in frame:
                yield folder / frame[key], (frame["w"], frame["h"])
