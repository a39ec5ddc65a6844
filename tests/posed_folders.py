"""Folders of pictures with poses, as NeuS and COLMAP write them, of one ball that is red in front and blue behind.

The ball has radius 0.5 about the origin of its own, normalised frame, is red where x > 0 and blue where not, is lit a
little so that it has texture, and stands before black. Everything is computed from the cameras' definition, by ray
casting with several rays a pixel, so that masks are soft at the edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from PIL import Image

from data.poses import look_at, opengl_from_opencv

RADIUS, DISTANCE = 0.5, 2.5
SCALE, OFFSET = 40.0, np.array([100.0, -30.0, 600.0])  # world = SCALE * normalised + OFFSET, millimetres as in DTU
SUPERSAMPLING = 3
LIGHT = np.array([0.4, 0.5, 0.77])


def ball_pose(index: int) -> np.ndarray:
    """``normalised_from_camera`` ``[4, 4]``, OpenGL axes: evenly turned round the ball, at varying heights, z up."""
    azimuth, height = 2.4 * index, 0.1 + 0.5 * ((0.618 * index) % 1)
    level = np.sqrt(1 - height**2)
    eye = DISTANCE * np.array([level * np.cos(azimuth), level * np.sin(azimuth), height])
    return look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]))


def focal_of(size: tuple[int, int]) -> float:
    """With which the ball fills six tenths of the shorter side."""
    return 0.3 * min(size) / np.tan(np.arcsin(RADIUS / DISTANCE))


def ball_colour(normals: np.ndarray) -> np.ndarray:
    """Colour ``[n, 3]`` in [0, 1] of the ball where its normal is ``[n, 3]``."""
    base = np.where(normals[:, :1] > 0, [[0.9, 0.15, 0.1]], [[0.1, 0.2, 0.9]])
    light = 0.75 + 0.2 * normals @ LIGHT + 0.1 * np.sin(9 * normals[:, 1]) * np.cos(9 * normals[:, 2])
    return np.clip(base * light[:, None], 0, 1)


def film_ball(
    rays_of: Callable[[np.ndarray], np.ndarray], pose: np.ndarray, size: tuple[int, int], centre: Any = (0.0, 0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """What a camera sees.

    Args:
        rays_of: From pixels ``[n, 2]`` to directions ``[n, 3]``, OpenCV axes.
        pose: ``normalised_from_camera``, OpenGL axes.
        size: ``(width, height)``.
        centre: Of the ball.

    Returns:
        uint8 ``[h, w, 3]`` and the soft mask ``[h, w]``.
    """
    (width, height), fine = size, SUPERSAMPLING
    v, u = (np.mgrid[: height * fine, : width * fine] + 0.5) / fine
    directions = rays_of(np.stack([u.ravel(), v.ravel()], -1)) @ opengl_from_opencv(pose)[:3, :3].T
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    start = pose[:3, 3] - np.asarray(centre)
    along = -directions @ start
    inside = RADIUS**2 - (start @ start - along**2)
    hit = (inside > 0) & (along > 0)
    normals = (start + (along - np.sqrt(np.maximum(inside, 0)))[:, None] * directions) / RADIUS
    rgb = np.where(hit[:, None], ball_colour(normals), 0.0)
    blocks = np.column_stack([rgb, hit]).reshape(height, fine, width, fine, 4).mean((1, 3))
    picture = np.round(255 * blocks).astype(np.uint8)
    return picture[..., :3], picture[..., 3]


def intrinsics(size: tuple[int, int], index: int, varied: bool) -> np.ndarray:
    """``K`` ``[3, 3]``: a centred pinhole, or one with fx != fy, skew and an own principal point for each picture."""
    width, height = size
    focal = focal_of(size)
    if not varied:
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    fx, fy = focal * (1.02 + 0.004 * np.sin(index)), focal * (0.99 + 0.004 * np.cos(index))
    cx, cy = width * (0.52 + 0.004 * np.sin(2 * index)), height * (0.47 + 0.004 * np.cos(2 * index))
    return np.array([[fx, 0.4, cx], [0, fy, cy], [0, 0, 1.0]])


def world_matrix(k: np.ndarray, pose: np.ndarray, scale: float = SCALE, offset: np.ndarray = OFFSET) -> np.ndarray:
    """``world_mat`` ``[4, 4]`` of a camera whose pose in the normalised frame is ``pose`` (OpenGL axes)."""
    camera_from_normalised = np.linalg.inv(opengl_from_opencv(pose))
    camera_from_world = camera_from_normalised.copy()
    camera_from_world[:3, 3] = scale * camera_from_normalised[:3, 3] - camera_from_normalised[:3, :3] @ offset
    out = np.eye(4)
    out[:3] = k @ camera_from_world[:3]
    return out


def scale_matrix(scale: float = SCALE, offset: np.ndarray = OFFSET) -> np.ndarray:
    """``scale_mat`` ``[4, 4]``: world from normalised."""
    out = np.diag([scale, scale, scale, 1.0])
    out[:3, 3] = offset
    return out


def write_neus_folder(
    path: Path,
    n: int = 12,
    size: tuple[int, int] = (64, 48),
    *,
    indices: Sequence[int] | None = None,
    varied: bool = False,
    picture: str = "{:06d}.png",
    mask: str | None = "{:03d}.png",
    matrices: str = "cameras_sphere.npz",
    edit: Callable[[dict[str, Any]], Any] | None = None,
) -> Path:
    """Write a folder in NeuS's format.

    Args:
        path: The folder, made anew.
        n: Pictures.
        size: ``(width, height)``.
        indices: Their numbers; 0 to n - 1 by default.
        varied: Give every picture intrinsics of its own that are no centred pinhole.
        picture: How pictures are named.
        mask: How masks are named; ``None`` for none.
        matrices: Name of the file with the matrices.
        edit: Changes the matrices before they are written, by key.

    Returns:
        ``path``.
    """
    (path / "image").mkdir(parents=True)
    content: dict[str, Any] = {}
    for index in range(n) if indices is None else indices:
        k, pose = intrinsics(size, index, varied), ball_pose(index)
        inverse = np.linalg.inv(k)
        rgb, soft = film_ball(lambda p, m=inverse: np.column_stack([p, np.ones(len(p))]) @ m.T, pose, size)
        Image.fromarray(rgb).save(path / "image" / picture.format(index))
        if mask is not None:
            (path / "mask").mkdir(exist_ok=True)
            Image.fromarray(soft).save(path / "mask" / mask.format(index))
        content |= {f"world_mat_{index}": world_matrix(k, pose), f"scale_mat_{index}": scale_matrix()}
        content[f"scale_mat_inv_{index}"] = np.linalg.inv(scale_matrix())  # in the published files, and not needed
    if edit is not None:
        edit(content)
    np.savez(path / matrices, **content)
    return path


def colmap_lens(size: tuple[int, int], model: str, number: int = 1) -> pycolmap.Camera:
    """A camera of one of COLMAP's models; the distorted ones, and PINHOLE, are no centred pinhole with fx = fy."""
    (width, height), focal = size, focal_of(size) * (1 + 0.02 * (number - 1))
    cx, cy = width / 2, height / 2
    params = {
        "SIMPLE_PINHOLE": [focal, cx, cy],
        "PINHOLE": [focal * 1.01, focal * 0.99, cx + 1.5, cy - 1],
        "SIMPLE_RADIAL": [focal, cx, cy, -0.05],
        "RADIAL": [focal, cx, cy, -0.05, 0.01],
        "OPENCV": [focal * 1.01, focal * 0.99, cx + 1.5, cy - 1, -0.05, 0.01, 0.001, -0.001],
        "OPENCV_FISHEYE": [focal, focal, cx, cy, 0.0, 0.0, 0.0, 0.0],
    }[model]
    return pycolmap.Camera(model=model, width=width, height=height, params=params, camera_id=number)


def picture_name(index: int, subfolders: bool) -> str:
    """``IMG_7.png``, or ``left/7.png`` and ``right/7.png`` by turns, so that names repeat."""
    return f"{('left', 'right')[index % 2]}/{index // 2}.png" if subfolders else f"IMG_{index}.png"


def write_colmap_folder(
    path: Path,
    n: int = 12,
    size: tuple[int, int] = (64, 48),
    *,
    models: Sequence[str] = ("SIMPLE_PINHOLE",),
    sizes: Sequence[tuple[int, int]] | None = None,
    text: bool = False,
    subfolders: bool = False,
    mask: str | None = "{}.png",
    points: int = 150,
    edit: Callable[[pycolmap.Reconstruction], Any] | None = None,
) -> Path:
    """Write a folder with a COLMAP model of the ball, in world units, and exact points on it.

    Args:
        path: The folder, made anew.
        n: Pictures.
        size: ``(width, height)``.
        models: Of the cameras, which take turns.
        sizes: Of their pictures, where they differ.
        text: Write the model as text.
        subfolders: See ``picture_name``.
        mask: How the mask of a picture is named, by the picture's name; ``None`` for none.
        points: How many points on the ball.
        edit: Changes the model before it is written.

    Returns:
        ``path``.
    """
    sparse = path / "sparse" / "0"
    sparse.mkdir(parents=True)
    lenses = [colmap_lens((sizes or [size] * len(models))[k], m, k + 1) for k, m in enumerate(models)]
    poses = [ball_pose(k) for k in range(n)]
    for k, pose in enumerate(poses):
        lens = lenses[k % len(lenses)]
        rays = lambda p, c=lens: np.column_stack([c.cam_from_img(p), np.ones(len(p))])  # noqa: E731
        rgb, soft = film_ball(rays, pose, (lens.width, lens.height))
        name = picture_name(k, subfolders)
        files = {path / "images" / name: rgb} | ({path / "masks" / mask.format(name): soft} if mask else {})
        for file, picture in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(file)
    model = _ball_model(lenses, poses, subfolders, points)
    if edit is not None:
        edit(model)
    if text:
        model.write_text(str(sparse))
    else:
        model.write(str(sparse))
    return path


def _ball_model(
    lenses: Sequence[pycolmap.Camera], poses: Sequence[np.ndarray], subfolders: bool, count: int
) -> pycolmap.Reconstruction:
    normals = np.random.default_rng(0).normal(size=(count, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    model = pycolmap.Reconstruction()
    tracks = [pycolmap.Track() for _ in normals]
    for lens in lenses:
        model.add_camera_with_trivial_rig(lens)
    for k, pose in enumerate(poses):
        lens, inverse = lenses[k % len(lenses)], np.linalg.inv(opengl_from_opencv(pose))
        faces = np.flatnonzero(normals @ pose[:3, 3] > 1.1 * RADIUS)  # the cap that is seen, without its edge
        pixels = lens.img_from_cam((RADIUS * normals[faces]) @ inverse[:3, :3].T + inverse[:3, 3])
        key_points = [pycolmap.Point2D(pixel) for pixel in pixels] + [pycolmap.Point2D(np.array([1.0, 1.0]))]
        image = pycolmap.Image(
            name=picture_name(k, subfolders), camera_id=lens.camera_id, image_id=k + 1, points2D=key_points
        )
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(inverse[:3]))
        for at, face in enumerate(faces):
            tracks[face].add_element(k + 1, at)
    for normal, track in zip(normals, tracks, strict=True):
        if track.length() >= 2:
            colour = np.round(255 * ball_colour(normal[None])[0]).astype(np.uint8)
            model.add_point3D(RADIUS * normal, track, colour)
    return model
