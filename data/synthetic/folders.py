"""The jug alone, seen from all round, as folders of posed pictures that other programs read.

Two formats, with the same cameras: NeRF's Blender format (Mildenhall et al. 2020; ``data.blender`` reads it) and that
of NeuS for DTU scans (Wang et al. 2021). Their cameras stand on a sphere of ``CAMERA_DISTANCE`` radii of the jug, those
to train with as a spherical Fibonacci lattice, so the jug's underside is seen as well.

Symbols: ``c`` and ``r`` are the centre and radius of the jug's ball, in the truth frame (metres).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.poses import Camera, Sim3, look_at, matrix, opengl_from_opencv
from data.synthetic.capture import texels_per_metre, write_solid
from data.synthetic.geometry import Solid
from data.synthetic.render import render_cutout
from data.synthetic.scene import Scene, build_scene
from fieldbook.documents import TRUTH, read_document
from fieldbook.errors import UserError, nearest
from fieldbook.files import atomic_dir, write_json

FORMATS = ("blender", "neus")
CAMERA_ANGLE_X = 0.6911112070083618  # radians, as in NeRF's release
CAMERA_DISTANCE = 4.0
MARGIN = 1.1  # NeuS renders nothing beyond its unit ball, and its first surface is a ball inside it
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class Views:
    """How many pictures, and how large.

    Attributes:
        train: Cameras to train with, at least 1.
        test: Cameras to test with, at least 1.
        size: Pixels of each side, at least 16.
    """

    train: int = 60
    test: int = 20
    size: int = 400

    def __post_init__(self):
        for name, least, most in (("train", 1, 10_000), ("test", 1, 10_000), ("size", 16, 4096)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} is {getattr(self, name)}; allowed: an integer from {least} to {most}")


def write_posed_folders(
    truth: Path, out: Path, formats: tuple[str, ...] = FORMATS, views: Views | None = None
) -> dict[str, Path]:
    """Write the object of a synthetic capture, alone, as folders of posed pictures.

    Args:
        truth: A capture's ``truth/`` with ``subject: object``; only its ``scene.json`` is read.
        out: Gets one folder per format, ``blender/`` and ``neus/``, which must not be there.
        formats: Of ``FORMATS``.
        views: Numbers and size of the pictures; ``Views()`` by default.

    Returns:
        The folder of each format.

    Raises:
        UserError: The truth is missing or of another subject, a format is unknown, or its folder is there.
    """
    made = read_document(truth / "scene.json", TRUTH)
    if made.get("subject", "card") != "object":
        raise UserError(f"{truth} is of a card, which has no back; make a capture with subject: object")
    folders = {name: out / name for name in formats}
    for name, folder in folders.items():
        write_sample(folder, name, made["seed"], views)
    return folders


def write_sample(folder: Path, form: str, seed: int, views: Views | None = None) -> dict[str, Any]:
    """Write the jug of a seed as one folder of posed pictures, with its true surface.

    ``blender``: ``transforms_train.json``, ``transforms_test.json`` and RGBA pictures; the world is the truth frame
    about ``c``, divided by ``r``, so the jug fills the unit ball.

    ``neus``: ``image/000000.png`` on black, ``mask/000.png``, ``cameras_sphere.npz`` with ``world_mat_i`` (pixels from
    the truth frame, metres; pixel centres at +0.5) and ``scale_mat_i`` (truth frame from the unit ball, which holds the
    jug with ``MARGIN`` to spare); training views first, then test views; ``split_indices.json`` says which are which.

    Both: ``object.ply``, watertight, in the format's world: for ``neus`` in metres, not in the unit ball.

    Args:
        folder: New.
        form: ``blender`` or ``neus``.
        seed: Of the jug; the same jug as a capture's of this seed.
        views: Numbers and size of the pictures.

    Returns:
        ``train``, ``test``, ``size``, and ``centre`` and ``radius`` of the jug's ball in metres.

    Raises:
        UserError: An unknown format, a seed out of range, or a folder that is there.
    """
    if not (isinstance(seed, int) and 0 <= seed < 1 << 32):
        raise UserError(f"seed is {seed!r}; allowed: an integer from 0 to {(1 << 32) - 1}")
    writers = {"blender": _write_blender, "neus": _write_neus}
    if form not in writers:
        raise UserError(f"no format {form!r}; {nearest(form, FORMATS)}")
    if folder.exists():
        raise UserError(f"{folder} is there already; give a new folder, or delete it")
    views = views or Views()
    camera = sample_camera(views.size)
    # The jug's nearest point is three radii away; its size changes little from seed to seed, its pictures should not.
    scene = build_scene(seed, texels_per_metre(camera, 0.24), "object alone")
    with atomic_dir(folder) as temporary:
        writers[form](temporary, scene, camera, views)
    solid = scene.desk.solid
    return {**vars(views), "centre": solid.centre.tolist(), "radius": solid.radius}


def sample_camera(size: int) -> Camera:
    """The pinhole of all pictures."""
    focal = size / 2 / np.tan(CAMERA_ANGLE_X / 2)
    return Camera(size, size, focal, focal, size / 2, size / 2)


def sphere_poses(solid: Solid, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """Training and test poses ``truth_from_camera`` ``[n, 4, 4]``, OpenGL axes, all looking at the solid's centre.

    The test cameras are another lattice, turned so that none stands where a training camera does.
    """
    return tuple(  # type: ignore[return-value]
        np.stack([look_at(solid.centre + CAMERA_DISTANCE * solid.radius * d, solid.centre, np.eye(3)[2]) for d in ds])
        for ds in (_lattice(views.train, 0.0), _lattice(views.test, 1.0))
    )


def _lattice(count: int, turn_rad: float) -> np.ndarray:
    """Spherical Fibonacci points ``[count, 3]``, turned about z."""
    k = np.arange(count)
    z, angle = 1 - (2 * k + 1) / count, k * GOLDEN_ANGLE + turn_rad
    level = np.sqrt(1 - z**2)
    return np.column_stack([level * np.cos(angle), level * np.sin(angle), z])


def _unit_from_truth(solid: Solid) -> Sim3:
    return Sim3(1 / solid.radius, np.eye(3), -solid.centre / solid.radius)


def _cutouts(scene: Scene, camera: Camera, poses: np.ndarray) -> Iterator[np.ndarray]:
    return (render_cutout(scene, camera, pose) for pose in poses)


def _write_blender(folder: Path, scene: Scene, camera: Camera, views: Views) -> None:
    solid = scene.desk.solid
    world_from_truth = _unit_from_truth(solid)
    for split, poses in zip(("train", "test"), sphere_poses(solid, views), strict=True):
        (folder / split).mkdir()
        frames = []
        for k, picture in enumerate(_cutouts(scene, camera, poses)):
            Image.fromarray(picture).save(folder / split / f"r_{k}.png")
            pose = world_from_truth.poses(poses[k])
            frames.append({"file_path": f"./{split}/r_{k}", "transform_matrix": pose.tolist()})
        # Other programs look for validation frames too.
        for name in ("test", "val") if split == "test" else (split,):
            write_json(folder / f"transforms_{name}.json", {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames})
    write_solid(folder / "object.ply", Solid(world_from_truth.points(solid.vertices), solid.faces, solid.normals))


def _write_neus(folder: Path, scene: Scene, camera: Camera, views: Views) -> None:
    solid = scene.desk.solid
    train, test = sphere_poses(solid, views)
    for name in ("image", "mask"):
        (folder / name).mkdir()
    intrinsics = matrix(np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1.0]]), np.zeros(3))
    matrices: dict[str, np.ndarray] = {}
    poses = np.concatenate([train, test])
    for k, picture in enumerate(_cutouts(scene, camera, poses)):
        alpha = picture[..., 3:] / 255
        Image.fromarray((picture[..., :3] * alpha + 0.5).astype(np.uint8)).save(folder / "image" / f"{k:06d}.png")
        Image.fromarray(np.where(alpha[..., 0] >= 0.5, np.uint8(255), np.uint8(0))).save(
            folder / "mask" / f"{k:03d}.png"
        )
        matrices[f"world_mat_{k}"] = intrinsics @ np.linalg.inv(opengl_from_opencv(poses[k]))
        matrices[f"scale_mat_{k}"] = matrix(MARGIN * solid.radius * np.eye(3), solid.centre)
    np.savez(folder / "cameras_sphere.npz", **matrices)  # type: ignore[arg-type]
    split = {"train": list(range(len(train))), "test": list(range(len(train), len(poses)))}
    write_json(folder / "split_indices.json", split)
    write_solid(folder / "object.ply", solid)
