"""Pictures, depth and masks of a synthetic scene from any camera, by ray casting.

Depth is the **distance along the ray** from the camera's centre to the surface, in metres, for the ray through the
pixel's centre; it is not the depth along the optical axis.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from data.poses import Camera
from data.synthetic.card import seal
from data.synthetic.scene import LEVELS, LIGHT_DIRECTION, Scene, build_scene
from fieldbook.documents import TRUTH, read_document

LEVEL_BIAS = -0.35  # towards the finer reduction: bilinear look-up blurs, too


@dataclass(frozen=True)
class View:
    """What one camera sees.

    Attributes:
        rgb: ``[height, width, 3]`` uint8, sRGB.
        depth: ``[height, width]`` float32, metres along the ray through the pixel's centre.
        mask: ``[height, width]`` uint8, 255 where that ray meets the subject.
    """

    rgb: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


def load_scene(truth: Path) -> Scene:
    """Build the scene again from ``truth/scene.json``.

    Raises:
        UserError: No such file, or not JSON.
    """
    made = read_document(truth / "scene.json", TRUTH)
    return build_scene(made["seed"], made["texels_per_metre"], made.get("subject", "card"))


def render_views(
    truth: Path, camera: Camera, truth_from_camera: np.ndarray, supersample: int = 2
) -> Iterator[np.ndarray]:
    """True pictures, one after the other.

    Args:
        truth: Folder that ``make_capture`` filled; only its ``scene.json`` is read.
        camera: Pinhole, any size.
        truth_from_camera: ``[n, 4, 4]``, OpenGL axes, metres.
        supersample: Rays per axis in pixels where two surfaces meet; within a surface the picture is filtered.

    Yields:
        ``[height, width, 3]`` uint8, sRGB.
    """
    return (view.rgb for view in render_all(load_scene(truth), camera, truth_from_camera, supersample))


def render_depths(
    truth: Path, camera: Camera, truth_from_camera: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """True depth and subject mask for the arguments of ``render_views``.

    Yields:
        Distance along the ray ``[height, width]`` float32 in metres, and ``[height, width]`` uint8, 255 on the subject.
    """
    return ((v.depth, v.mask) for v in render_all(load_scene(truth), camera, truth_from_camera, 1))


def render_all(scene: Scene, camera: Camera, truth_from_camera: np.ndarray, supersample: int = 2) -> Iterator[View]:
    """Views in order, made on a few threads (embree and OpenCV release the interpreter), a few ahead of the reader."""
    threads = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        jobs = (pool.submit(render_view, scene, camera, pose, supersample) for pose in truth_from_camera)
        running = deque(islice(jobs, threads + 1))
        while running:
            yield running.popleft().result()
            running.extend(islice(jobs, 1))


def render_view(scene: Scene, camera: Camera, pose: np.ndarray, supersample: int) -> View:
    """One view; arguments as for ``render_views``."""
    shape = (camera.height, camera.width)
    y, x = (axis.ravel() + 0.5 for axis in np.indices(shape))
    colours, patch, depth = _shade(scene, camera, pose, x, y, 1 / camera.fx)
    edges = np.flatnonzero(_borders(patch.reshape(shape)))
    if supersample > 1 and len(edges):
        colours[edges] = _refined(scene, camera, pose, x[edges], y[edges], supersample)[0].mean(axis=1)
    return View(
        rgb=(colours + 0.5).astype(np.uint8).reshape(*shape, 3),
        depth=depth.reshape(shape),
        mask=np.where(scene.subject[patch], np.uint8(255), np.uint8(0)).reshape(shape),
    )


def render_cutout(scene: Scene, camera: Camera, pose: np.ndarray, supersample: int = 4) -> np.ndarray:
    """The subject alone, over nothing.

    Args:
        scene: Of any layout; what stands before the subject hides it.
        camera: Pinhole, any size.
        pose: ``truth_from_camera`` ``[4, 4]``, OpenGL axes, metres.
        supersample: Rays per axis in pixels where surfaces meet.

    Returns:
        ``[height, width, 4]`` uint8, sRGB with straight alpha, the share of a pixel's rays that meet the subject.
    """
    shape = (camera.height, camera.width)
    y, x = (axis.ravel() + 0.5 for axis in np.indices(shape))
    colours, patch, _ = _shade(scene, camera, pose, x, y, 1 / camera.fx)
    alpha = scene.subject[patch].astype(np.float32)
    edges = np.flatnonzero(_borders(patch.reshape(shape)))
    if len(edges):
        fine, fine_patch = _refined(scene, camera, pose, x[edges], y[edges], supersample)
        met = scene.subject[fine_patch].astype(np.float32)
        alpha[edges] = met.mean(axis=1)
        colours[edges] = (fine * met[..., None]).sum(axis=1) / np.maximum(met.sum(axis=1), 1)[:, None]
    colours[alpha == 0] = 0
    return (np.column_stack([colours, 255 * alpha]) + 0.5).astype(np.uint8).reshape(*shape, 4)


def _borders(patch: np.ndarray) -> np.ndarray:
    """Pixels ``[h, w]`` bool with a neighbour that shows another patch."""
    out = np.zeros(patch.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = patch[a] != patch[b]
        out[a] |= differs
        out[b] |= differs
    return out


def _refined(
    scene: Scene, camera: Camera, pose: np.ndarray, x: np.ndarray, y: np.ndarray, supersample: int
) -> tuple[np.ndarray, np.ndarray]:
    """Colours ``[n, s, 3]`` and patch index ``[n, s]`` of ``s = supersample ** 2`` rays round each pixel centre."""
    offsets = (np.arange(supersample) + 0.5) / supersample - 0.5
    dy, dx = (o.ravel() for o in np.meshgrid(offsets, offsets, indexing="ij"))
    fine_x, fine_y = ((a[:, None] + d).ravel() for a, d in ((x, dx), (y, dy)))
    colours, patch, _ = _shade(scene, camera, pose, fine_x, fine_y, 1 / camera.fx / supersample)
    return colours.reshape(len(x), -1, 3), patch.reshape(len(x), -1)


def ray_directions(camera: Camera, pose: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit directions ``[n, 3]`` float32 through picture points ``x``, ``y`` ``[n]`` (pixel centres at +0.5)."""
    rays = np.stack([(x - camera.cx) / camera.fx, (camera.cy - y) / camera.fy, np.full(len(x), -1.0)], axis=1)
    rays /= np.sqrt((rays**2).sum(axis=1, keepdims=True))
    return (rays @ pose[:3, :3].T).astype(np.float32)


def _hit(scene: Scene, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Face hit ``[n]`` and distance ``[n]`` float32; the distance is to the face's plane, finer than embree's own."""
    origins = np.ascontiguousarray(np.broadcast_to(origin, directions.shape))
    face = scene.tracer.run(origins, directions)
    missed = face < 0
    if missed.any():  # a ray through the hairline between two triangles: it gets its neighbour's face
        found = np.flatnonzero(~missed)
        face[missed] = face[found[np.searchsorted(found, np.flatnonzero(missed)).clip(max=len(found) - 1)]]
    plane = scene.plane[face]
    slope = np.einsum("nk,nk->n", plane[:, :3], directions)
    distance = (plane[:, 3] - plane[:, :3] @ origin) / np.where(np.abs(slope) < 1e-9, 1e-9, slope)
    return face, np.abs(distance)


def _shade(
    scene: Scene, camera: Camera, pose: np.ndarray, x: np.ndarray, y: np.ndarray, pixel_angle: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colours ``[n, 3]`` float32 in [0, 255], patch index ``[n]`` and distance ``[n]`` seen at picture points."""
    origin, directions = pose[:3, 3].astype(np.float32), ray_directions(camera, pose, x, y)
    face, distance = _hit(scene, origin, directions)
    points = origin + distance[:, None] * directions
    chart, patch = scene.chart[face], scene.patch[face]
    u, v, light = (np.einsum("nk,nk->n", chart[:, k : k + 3], points) + chart[:, k + 3] for k in (0, 4, 8))
    cosine = np.abs(np.einsum("nk,nk->n", scene.plane[face, :3], directions))
    footprint = distance * pixel_angle * scene.density[patch] / np.sqrt(np.maximum(cosine, 0.02))
    colours = _texture(scene, patch, u, v, np.log2(np.maximum(footprint, 1e-6)) + LEVEL_BIAS) * light[:, None]
    on_card = np.flatnonzero(patch == scene.seal_patch)
    if len(on_card):
        colours[on_card] = _sealed(scene, colours[on_card], u[on_card], v[on_card], directions[on_card])
    return np.clip(colours, 0, 255), patch, distance


def _texture(scene: Scene, patch: np.ndarray, u: np.ndarray, v: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Trilinear look-up in the atlas (Williams 1983, "Pyramidal parametrics"), ``[n, 3]`` float32."""
    level = np.clip(level, 0, LEVELS - 1.001)
    lower = level.astype(np.int64)
    weight = (level - lower)[:, None]
    near, far = (_bilinear(scene, scene.levels[patch, lower + k], u, v) for k in (0, 1))
    return near + (far - near) * weight


def _bilinear(scene: Scene, place: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    # Texel centres are at +0.5; clamped half a texel inside, so that no neighbour in the atlas bleeds in.
    x = place[:, 0] + np.clip(u * place[:, 2] - 0.5, 0, place[:, 2] - 1)
    y = place[:, 1] + np.clip(v * place[:, 3] - 0.5, 0, place[:, 3] - 1)
    # OpenCV keeps pictures narrower than 2^15 on each side: rays go in as a picture, too.
    shape, count = (-1, 1024), len(x)
    pad = -count % 1024
    maps = [np.pad(m, (0, pad)).reshape(shape).astype(np.float32) for m in (x, y)]
    picture = cv2.remap(scene.atlas, maps[0], maps[1], cv2.INTER_LINEAR)
    return picture.reshape(-1, 3)[:count].astype(np.float32)


def _sealed(scene: Scene, colours: np.ndarray, u: np.ndarray, v: np.ndarray, directions: np.ndarray) -> np.ndarray:
    card = scene.desk.truth_from_subject[:3, :3].astype(np.float32)
    view = -directions @ card
    half = view + (LIGHT_DIRECTION @ card).astype(np.float32)
    half_dot_normal = half[:, 2] / np.maximum(np.linalg.norm(half, axis=1), 1e-6)
    return seal(colours, np.column_stack([u, v]), view, half_dot_normal)
