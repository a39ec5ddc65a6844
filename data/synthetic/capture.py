"""A synthetic capture: the video a hand-held phone would take of a card or a jug on a desk, and its full truth.

``subject: card`` is filmed from the front, ``subject: object`` from all round.

``truth/`` holds, in the truth frame (metres, z up, the desk's top at z = 0):

- ``scene.json``: seed, camera, ``truth_from_camera`` per frame (OpenGL axes), the subject's place and size; enough to
  render any other view (``data.synthetic.render``). Without a key ``subject`` it is the card.
- ``depth/frame_00000.npy``: float32 ``[height, width]``, **distance along the ray** (not along the optical axis).
- ``masks/frame_00000.png``: one channel, 255 on the subject.
- ``mesh.ply``: all surfaces with lit vertex colours.
- ``object.ply``: the subject alone, watertight, with vertex normals.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import trimesh
from PIL import Image

from data.poses import Camera
from data.synthetic.card import CARD_SIZE
from data.synthetic.geometry import Solid
from data.synthetic.path import DISTANCE, ORBIT_DISTANCE, arc_poses, orbit_poses
from data.synthetic.render import render_all
from data.synthetic.scene import ATLAS_WIDTH, LIGHT_DIRECTION, Scene, build_scene
from data.synthetic.things import DESK_HALF
from fieldbook.errors import UserError, nearest
from fieldbook.files import atomic_dir, atomic_path, write_json
from fieldbook.layout import SceneFiles

log = logging.getLogger(__name__)

FPS = 10
PATHS = {"card": (arc_poses, DISTANCE), "object": (orbit_poses, ORBIT_DISTANCE)}
"""How each subject is filmed, and from how far."""
FOCAL_PER_WIDTH = 0.94  # 56 degrees across, a phone's main camera
SUPERSAMPLE = 3
# x264's lookahead runs beside the encoder and changes its decisions, and so the bytes, from run to run: without it the
# same pictures gave the same bytes 1097 times of 1097 on a busy machine, with it 787 of 1087.
ENCODER = {
    "crf": "13",
    "preset": "medium",
    "threads": "1",
    "x264-params": "threads=1:lookahead-threads=1:sync-lookahead=0:rc-lookahead=0:mbtree=0",
}


def make_capture(files: SceneFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Render the video of a synthetic capture and write its truth.

    Args:
        files: Gives ``source_video`` and ``truth``; both are replaced.
        spec: The scene's ``capture`` key: ``subject`` (default card), ``seed`` (default 0), ``frames`` (default 60, at
            least 2) and ``size`` (default [640, 480], even numbers of at least 32 pixels).

    Returns:
        ``frames``, ``width``, ``height``, ``fps`` and the video's ``bytes``. The same spec gives the same bytes.

    Raises:
        UserError: A value is out of range.
    """
    (seed, count, (width, height)), subject = _checked(spec), _subject(spec)
    camera, (path, distance) = synthetic_camera(width, height), PATHS[subject]
    scene = build_scene(seed, texels_per_metre(camera, distance), subject)
    poses = path(seed, count, scene.desk.truth_from_subject[:3, 3])
    names = [f"frame_{k:05d}" for k in range(count)]
    with atomic_dir(files.truth) as truth, atomic_path(files.source_video) as video:
        _write_film(video, truth, scene, camera, poses, names)
        _write_mesh(truth / files.truth_mesh.name, scene)
        write_solid(truth / files.truth_object.name, scene.desk.solid)
        description = _description(seed, camera, texels_per_metre(camera, distance), scene)
        poses_listed = {name: pose.tolist() for name, pose in zip(names, poses, strict=True)}
        write_json(truth / "scene.json", description | {"truth_from_camera": poses_listed})
    size = files.source_video.stat().st_size
    log.info("synthetic capture: %d frames of %dx%d, %d bytes", count, width, height, size)
    return {"frames": count, "width": width, "height": height, "fps": FPS, "bytes": size}


def synthetic_camera(width: int, height: int) -> Camera:
    """The pinhole that films: centred, square pixels, no distortion."""
    focal = FOCAL_PER_WIDTH * width
    return Camera(width, height, focal, focal, width / 2, height / 2)


def _checked(spec: dict[str, Any]) -> tuple[int, int, tuple[int, int]]:
    seed, count, size = spec.get("seed", 0), spec.get("frames", 60), tuple(spec.get("size", (640, 480)))
    if not (isinstance(seed, int) and seed >= 0):
        raise UserError(f"capture.seed is {seed!r}; allowed: an integer of at least 0")
    if not (isinstance(count, int) and count >= 2):
        raise UserError(f"capture.frames is {count!r}; allowed: an integer of at least 2")
    if len(size) != 2 or not all(isinstance(s, int) and s >= 32 and s % 2 == 0 for s in size):
        raise UserError(
            f"capture.size is {list(size)}; allowed: [width, height], even, at least 32 (H.264 halves them)"
        )
    return seed, count, (size[0], size[1])


def _subject(spec: dict[str, Any]) -> str:
    subject = spec.get("subject", "card")
    if subject not in PATHS:
        raise UserError(f"capture.subject is {subject!r}; {nearest(str(subject), PATHS)}")
    return subject


def texels_per_metre(camera: Camera, distance: float) -> float:
    """Density of pictures a little finer than the pixels are at a distance in metres, as far as the desk's fits."""
    return min(round(1.15 * camera.fx / distance, 1), (ATLAS_WIDTH - 1) / (2 * DESK_HALF))


def _write_film(video: Path, truth: Path, scene: Scene, camera: Camera, poses: np.ndarray, names: list[str]) -> None:
    for folder in ("depth", "masks"):
        (truth / folder).mkdir()

    def pictures() -> Iterable[np.ndarray]:
        for name, view in zip(names, render_all(scene, camera, poses, SUPERSAMPLE), strict=True):
            np.save(truth / "depth" / f"{name}.npy", view.depth)
            Image.fromarray(view.mask).save(truth / "masks" / f"{name}.png")
            yield view.rgb

    encode(video, pictures(), camera.width, camera.height)


def encode(path: Path, pictures: Iterable[np.ndarray], width: int, height: int) -> None:
    """Write H.264 at ``FPS``, one thread and no time stamps of the day: equal pictures give equal bytes.

    Args:
        path: An ``.mp4``.
        pictures: ``[height, width, 3]`` uint8 each.
        width: Even.
        height: Even.
    """
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact", "movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _write_mesh(path: Path, scene: Scene) -> None:
    mesh = trimesh.Trimesh(scene.vertices, scene.faces, vertex_colors=scene.colours, process=False)
    path.write_bytes(mesh.export(file_type="ply"))  # type: ignore[arg-type]


def write_solid(path: Path, solid: Solid) -> None:
    """Write a closed mesh with its normals as binary PLY."""
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, vertex_normals=solid.normals, process=False)
    path.write_bytes(mesh.export(file_type="ply", vertex_normal=True))  # type: ignore[arg-type]


def _description(seed: int, camera: Camera, density: float, scene: Scene) -> dict[str, Any]:
    subject = _card_place(scene) if scene.desk.subject == "card" else _object_place(scene)
    return {
        "seed": seed,
        "units": "metres",
        "depth": "metres along the ray",
        "fps": FPS,
        "texels_per_metre": density,
        "camera": camera.to_json(),
        **subject,
        "light_direction": LIGHT_DIRECTION.tolist(),
    }


def _card_place(scene: Scene) -> dict[str, Any]:
    card, half = scene.desk.truth_from_subject, np.array([*CARD_SIZE, 0.0]) / 2
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * half @ card[:3, :3].T + card[:3, 3]
    return {
        "card_centre": card[:3, 3].tolist(),
        "card_normal": card[:3, 2].tolist(),
        "card_size": list(CARD_SIZE),
        "card_corners": corners.tolist(),
        "truth_from_card": card.tolist(),
    }


def _object_place(scene: Scene) -> dict[str, Any]:
    solid = scene.desk.solid
    return {
        "subject": "object",
        "object_centre": solid.centre.tolist(),
        "object_size": np.ptp(solid.vertices, axis=0).tolist(),
        "object_radius": solid.radius,
    }
