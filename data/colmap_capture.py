"""A folder with a COLMAP model and its pictures: ``sparse/0/{cameras,images,points3D}.{bin,txt}`` and ``images/``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pycolmap

from data.colmap_model import GivenImage, given_files, read_given_views
from data.given import GivenCapture, GivenView, check_sizes
from data.lens import COLMAP_MODELS
from data.readers import IMAGE_SUFFIXES, natural_key
from fieldbook.errors import UserError

MODELS = ("sparse/0", "sparse")
PICTURES = "images"


def read_colmap(folder: Path) -> GivenCapture:
    """Read and check cameras and poses of a folder; of pictures, only the headers are read, and of points nothing.

    Views are in the natural order of their pictures' names and numbered by it.

    Raises:
        UserError: The folder, its model or ``images`` is missing; the model is damaged, or has a camera that cannot be
            undistorted here; or a picture is missing, or is not as large as its camera.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder with a COLMAP model: {folder}")
    sparse = next((folder / name for name in MODELS if given_files(folder / name)), None)
    if sparse is None:
        raise UserError(
            f"{folder} has no whole COLMAP model in {MODELS[0]}: cameras, images and points3D, as .bin or as .txt; see "
            "docs/posed.md"
        )
    cameras, images = read_given_views(sparse)
    if not images:
        raise UserError(f"{sparse} is a COLMAP model without images; export the one that has them")
    _check_models(sparse, cameras, images)
    pictures = folder / PICTURES
    if not pictures.is_dir():
        raise UserError(f"{pictures} is missing; it holds the pictures that {sparse} names")
    images = sorted(images, key=lambda image: natural_key(image.name))
    missing = [image.name for image in images if not (pictures / image.name).is_file()]
    if missing:
        raise UserError(
            f"{pictures / missing[0]} is missing, which {sparse} has a pose for ({len(missing)} of {len(images)} are "
            "missing); put it there"
        )
    views = tuple(
        GivenView(k, image.name, pictures / image.name, cameras[image.camera], image.pose)
        for k, image in enumerate(images)
    )
    check_sizes(views, sparse)
    left_out = len(_below(pictures) - {view.picture for view in views})
    return GivenCapture(views, tuple(given_files(sparse)), sparse=sparse, left_out=left_out)


def _check_models(sparse: Path, cameras: dict[int, pycolmap.Camera], images: Iterable[GivenImage]) -> None:
    for number in sorted({image.camera for image in images}):
        model = cameras[number].model_name
        if model not in COLMAP_MODELS:
            raise UserError(
                f"{sparse}: camera {number} is {model}; allowed are {', '.join(COLMAP_MODELS)}: undistort the pictures "
                "with `colmap image_undistorter` first, and give the folder that it writes"
            )


def _below(folder: Path) -> set[Path]:
    """Pictures in a folder and in the folders below it."""
    return {p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "." and p.is_file()}
