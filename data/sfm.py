"""Structure from motion: pictures in, the largest COLMAP model out, with what happened to every image."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycolmap

from data import colmap
from data.colmap import SfmOptions
from data.pictures import load_picture, picture_size
from fieldbook.errors import Infeasible, UserError

FEWEST_IMAGES = {"incremental": 2, "hierarchical": 2, "global": 3}


@dataclass(frozen=True)
class SfmResult:
    """What ``reconstruct`` found.

    Attributes:
        model: The largest model: by registered images, then by points.
        poses: World-from-camera ``[4, 4]``, OpenGL axes, COLMAP's world, by name in the order asked for.
        unregistered: Images that are not in the model, in the order asked for.
        models: ``registered``, ``points``, ``mean_reprojection_error`` (pixels) of all models, largest first.
        options: Every option value, JSON.
        database: Features and matches.
    """

    model: pycolmap.Reconstruction
    poses: dict[str, np.ndarray]
    unregistered: list[str]
    models: list[dict[str, Any]]
    options: dict[str, Any]
    database: Path

    @property
    def mean_reprojection_error(self) -> float:
        """Of the largest model, in pixels."""
        return self.models[0]["mean_reprojection_error"]


def reconstruct(
    image_dir: Path,
    names: Sequence[str],
    work_dir: Path,
    options: SfmOptions,
    mask_dir: Path | None = None,
) -> SfmResult:
    """Reconstruct cameras and points from pictures that share one camera.

    Args:
        image_dir: Folder of the pictures.
        names: File names in it, in capture order.
        work_dir: Emptied first; gets ``database.db``, ``pairs.txt`` and ``models/``.
        options: See ``SfmOptions``.
        mask_dir: Masks of the pictures under the pictures' own names, 0 where no feature may be; a picture
            without a mask is used whole.

    Raises:
        UserError: A picture is missing.
        Infeasible: Fewer images than the mapper can use, or no model of two images.
    """
    fewest = FEWEST_IMAGES[options.mapper]
    if len(names) < fewest:
        what = "one frame cannot" if len(names) == 1 else f"{len(names)} frames cannot"
        reason = f"{what} be reconstructed by SfM; the {options.mapper} mapper needs {fewest}"
        raise Infeasible(reason, {"requested": len(names), "needed": fewest})
    missing = [n for n in names if not (image_dir / n).is_file()]
    if missing:
        raise UserError(f"{len(missing)} pictures are not in {image_dir}, the first is {missing[0]}")
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    database = work_dir / "database.db"
    masks = None if mask_dir is None else _colmap_masks(image_dir, names, mask_dir, work_dir / "masks")
    colmap.extract(database, image_dir, names, options, masks)
    colmap.match(database, names, options, work_dir)
    models = colmap.run_mapper(database, image_dir, work_dir / "models", options)
    if not models or models[0].num_reg_images() < 2:
        raise Infeasible(
            f"COLMAP found no model from {len(names)} frames",
            {"requested": len(names), "registered": 0, "mapper": options.mapper, "preset": options.preset},
        )
    poses = colmap.model_poses(models[0])
    return SfmResult(
        models[0],
        {n: poses[n] for n in names if n in poses},
        [n for n in names if n not in poses],
        [_describe(m) for m in models],
        colmap.option_values(options),
        database,
    )


def _describe(model: pycolmap.Reconstruction) -> dict[str, Any]:
    return {
        "registered": model.num_reg_images(),
        "points": model.num_points3D(),
        "mean_reprojection_error": model.compute_mean_reprojection_error() if model.num_points3D() else 0.0,
    }


def _colmap_masks(image_dir: Path, names: Sequence[str], mask_dir: Path, out: Path) -> Path:
    """Masks under COLMAP's names, ``frame_00042.png.png``; an image without one would be dropped: it gets white."""
    out.mkdir()
    for name in names:
        source = mask_dir / name
        if source.is_file():
            keep = load_picture(source, cv2.IMREAD_GRAYSCALE) >= 128  # COLMAP takes every value but 0 for yes
        else:
            width, height = picture_size(image_dir / name)
            keep = np.full((height, width), True)
        cv2.imwrite(str(out / f"{name}.png"), np.where(keep, np.uint8(255), np.uint8(0)))
    return out
