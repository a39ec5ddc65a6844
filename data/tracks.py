"""Points of a subset's own frames from the tracks of a COLMAP model that came with a capture.

Such a model has no descriptors to match anew, but says which key points show one point. Of these only the subset's
are kept, and the point is placed again from them alone: where the model had put it, other frames had a say in. (That
two key points belong together may have been found through a third frame; the model does not tell.)

Symbols: ray ``i`` of a point has centre ``c_i`` and unit direction ``d_i``; ``A = sum w_i (I - d_i d_i^T)``; the point
nearest to all rays is ``x = A^-1 sum w_i (I - d_i d_i^T) c_i``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from data.colmap_model import read_model
from data.pictures import load_picture

MIN_ANGLE_DEG = 1.5  # between two rays of a point, and
MAX_ERROR = 4.0  # pixels between a key point and where its point appears: COLMAP's own limits
ROUNDS = 3  # each leaves out the key points that are further off, and weighs the others by distance


@dataclass(frozen=True)
class _Rays:
    """Observations end to end, grouped by nothing.

    Attributes:
        point_of: ``[n]`` index into the points.
        centres: ``[n, 3]``.
        directions: ``[n, 3]``, unit.
        focals: ``[n]``, pixels.
        colours: ``[n, 3]``, of the pixel.
    """

    point_of: np.ndarray
    centres: np.ndarray
    directions: np.ndarray
    focals: np.ndarray
    colours: np.ndarray

    def only(self, keep: np.ndarray) -> _Rays:
        return _Rays(*(values[keep] for values in vars(self).values()))


def triangulate_tracks(sparse: Path, image_dir: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Place the points that at least two of the named frames see, with the cameras held fixed.

    Args:
        sparse: COLMAP model of all raw frames.
        image_dir: The raw frames, for colours.
        names: The subset; fewer than two see no point.

    Returns:
        Points ``[n, 3]`` in the model's frame and their colours ``[n, 3]`` uint8, the mean over the subset's frames.
    """
    model = read_model(sparse)
    ids = {point: k for k, point in enumerate(sorted(model.points3D))}
    rays = _rays(model, image_dir, names, ids)
    points, good = np.zeros((len(ids), 3)), np.zeros(len(ids), bool)
    weights = np.ones(len(rays.point_of))
    for _ in range(ROUNDS):
        points, good = _nearest(rays, weights, len(ids))
        depth, off = _reach(rays, points)
        keep = np.asarray(good[rays.point_of] & (depth > 0) & (off <= MAX_ERROR))
        rays, weights = rays.only(keep), 1 / depth[keep] ** 2
    points, good = _nearest(rays, weights, len(ids))
    return points[good], _mean_colours(rays, len(ids))[good]


def _rays(model: pycolmap.Reconstruction, image_dir: Path, names: Sequence[str], ids: dict[int, int]) -> _Rays:
    images = {image.name: image for image in model.images.values()}
    parts = [_rays_of(images[name], model, image_dir / name, ids) for name in names]
    columns = [np.concatenate(column) for column in zip(*(vars(part).values() for part in parts), strict=True)]
    return _Rays(*columns)


def _rays_of(image: pycolmap.Image, model: pycolmap.Reconstruction, picture: Path, ids: dict[int, int]) -> _Rays:
    camera, world_from_camera = model.cameras[image.camera_id], image.cam_from_world().inverse()
    seen = [point for point in image.points2D if point.has_point3D()]
    pixels = np.array([point.xy for point in seen], np.float64).reshape(-1, 2)
    flat = np.asarray(camera.cam_from_img(pixels), np.float64).reshape(-1, 2)
    directions = np.column_stack([flat, np.ones(len(flat))]) @ world_from_camera.rotation.matrix().T
    centres = np.broadcast_to(world_from_camera.translation, directions.shape)
    rays = _Rays(
        np.array([ids[point.point3D_id] for point in seen], np.int64),
        centres,
        directions / np.linalg.norm(directions, axis=1, keepdims=True),
        np.full(len(seen), camera.mean_focal_length()),
        _colours_at(picture, pixels),
    )
    return rays.only(np.asarray(np.isfinite(flat).all(axis=1)))  # a lens may have no ray for a pixel far outside


def _colours_at(picture: Path, pixels: np.ndarray) -> np.ndarray:
    rgb = load_picture(picture, cv2.IMREAD_COLOR)[..., ::-1]
    columns, rows = np.floor(pixels).astype(np.int64).T
    return rgb[np.clip(rows, 0, rgb.shape[0] - 1), np.clip(columns, 0, rgb.shape[1] - 1)].astype(np.float64)


def _nearest(rays: _Rays, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest points ``[count, 3]`` to their rays, and which have two rays far enough apart; the others are 0.

    The least eigenvalue of ``A`` with equal weights is ``1 - cos`` of the angle for two rays, and more for more rays.
    """
    across = np.eye(3) - rays.directions[:, :, None] * rays.directions[:, None, :]
    plain, weighted, right = np.zeros((count, 3, 3)), np.zeros((count, 3, 3)), np.zeros((count, 3))
    np.add.at(plain, rays.point_of, across)
    np.add.at(weighted, rays.point_of, weights[:, None, None] * across)
    np.add.at(right, rays.point_of, weights[:, None] * np.einsum("nij,nj->ni", across, rays.centres))
    good = np.linalg.eigvalsh(plain)[:, 0] >= 1 - np.cos(np.radians(MIN_ANGLE_DEG))
    points = np.zeros((count, 3))
    points[good] = np.linalg.solve(weighted[good], right[good][..., None])[..., 0]
    return points, good


def _reach(rays: _Rays, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each ray's point along it, and how many pixels the point appears beside it."""
    offset = points[rays.point_of] - rays.centres
    along = np.einsum("ni,ni->n", offset, rays.directions)
    across = np.linalg.norm(offset - along[:, None] * rays.directions, axis=1)
    return along, rays.focals * across / np.maximum(np.abs(along), 1e-300)


def _mean_colours(rays: _Rays, count: int) -> np.ndarray:
    """Mean colours ``[count, 3]`` uint8; 0 for points without a ray."""
    total = np.zeros((count, 3))
    np.add.at(total, rays.point_of, rays.colours)
    times = np.bincount(rays.point_of, minlength=count)
    return np.round(total / np.maximum(times, 1)[:, None]).astype(np.uint8)
