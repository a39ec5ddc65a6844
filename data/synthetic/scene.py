"""The desk made ready for rays: one atlas of pictures with their reductions, baked light, and tables per triangle.

Within a triangle the picture's coordinates and the baked light are affine in the point hit, so a hit needs one row
of a table and no barycentric coordinates. Lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from embreex.rtcore_scene import EmbreeScene

from data.synthetic.desk import make_desk
from data.synthetic.geometry import Patch
from data.synthetic.table import make_jug_alone, make_table
from data.synthetic.things import Desk
from data.tracing import embree_scene

LIGHT_DIRECTION = np.array([-0.42, 0.30, 0.86]) / np.linalg.norm([-0.42, 0.30, 0.86])
LIGHT_SPREAD = 0.11  # radius of the lamp over its distance: how soft shadows are
DIFFUSE, AMBIENT = 0.78, 0.42
AMBIENT_REACH = 0.12  # metres within which things darken a corner
ATLAS_WIDTH = 8192
LEVELS = 7


@dataclass(frozen=True)
class Scene:
    """Everything a ray needs.

    Attributes:
        desk: The layout it was made from.
        vertices: ``[v, 3]`` float64 metres, of all patches.
        faces: ``[f, 3]``.
        colours: ``[v, 3]`` uint8, lit.
        tracer: Embree's scene of these faces.
        plane: ``[f, 4]`` float32, unit normal and offset: normal . x = offset.
        chart: ``[f, 12]`` float32, affine maps to u, v (in [0, 1]) and light: each a gradient, then a constant.
        patch: ``[f]`` index of the patch.
        levels: ``[patches, LEVELS, 4]`` float32, left, top, width, height of each reduction in the atlas.
        density: ``[patches]`` float32 texels per metre at full size.
        atlas: ``[h, w, 3]`` uint8.
        subject: ``[patches]`` bool, of the subject: the card, or the object.
        seal_patch: Index of the patch with the card's printed face, whose seal shines; -1 where there is none.
    """

    desk: Desk
    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    tracer: EmbreeScene
    plane: np.ndarray
    chart: np.ndarray
    patch: np.ndarray
    levels: np.ndarray
    density: np.ndarray
    atlas: np.ndarray
    subject: np.ndarray
    seal_patch: int


LAYOUTS = {"card": make_desk, "object": make_table, "object alone": make_jug_alone}


@lru_cache(maxsize=2)
def build_scene(seed: int, texels_per_metre: float, layout: str = "card") -> Scene:
    """Make the scene of a seed; kept, because views of the same scene are asked for again and again.

    Args:
        seed: Of everything in it.
        texels_per_metre: Density of its pictures.
        layout: ``card``, ``object``, or ``object alone``, which floats in the room.
    """
    return _ready(LAYOUTS[layout](seed, texels_per_metre))


def _ready(desk: Desk) -> Scene:
    patches = [*desk.patches, *desk.room]
    vertices, faces, owner = _merge(patches)
    light = np.concatenate([_bake(desk.patches), np.ones(sum(len(p.vertices) for p in desk.room))])
    atlas, levels = _pack([p.texture for p in patches])
    plane, chart = _tables(vertices, faces, np.concatenate([p.uv for p in patches]), light)
    colours = np.concatenate([_vertex_colours(p) for p in patches]) * light[:, None]
    names = [p.name for p in patches]
    return Scene(
        desk=desk,
        vertices=vertices,
        faces=faces,
        colours=np.clip(colours, 0, 255).astype(np.uint8),
        tracer=embree_scene(vertices, faces),
        plane=plane,
        chart=chart,
        patch=owner,
        levels=levels,
        density=np.array([_density(p) for p in patches], np.float32),
        atlas=atlas,
        subject=np.array([name == desk.subject for name in names]),
        seal_patch=names.index("card") if desk.subject == "card" else -1,
    )


def _merge(patches: list[Patch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    offsets = np.cumsum([0, *(len(p.vertices) for p in patches)])
    faces = np.concatenate([p.faces + o for p, o in zip(patches, offsets[:-1], strict=True)])
    owner = np.repeat(np.arange(len(patches)), [len(p.faces) for p in patches])
    return np.concatenate([p.vertices for p in patches]), faces, owner


def _bake(patches: list[Patch]) -> np.ndarray:
    """Light per vertex: a soft lamp with shadows, and ambient light less what stands near.

    The same rays serve every vertex, so there is no noise, only steps, finer than the eye sees in a penumbra. Values
    are square roots, because they scale sRGB pictures, whose values are about square roots of light.
    """
    vertices, faces, _ = _merge(patches)
    normals = np.concatenate([p.normals for p in patches])
    origins = (vertices + 4e-4 * normals).astype(np.float32)
    tracer = embree_scene(vertices, faces)
    lamp = _disc_directions(16, LIGHT_SPREAD)
    lit = sum((tracer.run(origins, _repeat(d, origins)) < 0).astype(float) for d in lamp) / len(lamp)
    direct = np.clip(normals @ LIGHT_DIRECTION, 0, None) * lit
    open_sky, weight = np.zeros(len(origins)), np.zeros(len(origins))
    for d in _sphere_directions(40):
        cosine = np.clip(normals @ d, 0, None)
        facing = np.flatnonzero(cosine > 0)
        reach = tracer.run(origins[facing], _repeat(d, facing), query="DISTANCE")
        open_sky[facing] += cosine[facing] * np.clip(reach / AMBIENT_REACH, 0, 1)
        weight += cosine
    return np.sqrt(DIFFUSE * direct + AMBIENT * open_sky / np.maximum(weight, 1e-9))


def _repeat(direction: np.ndarray, like: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(direction.astype(np.float32), (len(like), 3)))


def _sphere_directions(count: int) -> np.ndarray:
    """Spherical Fibonacci points ``[count, 3]``."""
    k = np.arange(count)
    z, angle = 1 - (2 * k + 1) / count, k * np.pi * (3 - np.sqrt(5))
    return np.column_stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z])


def _disc_directions(count: int, radius: float) -> np.ndarray:
    """Directions to points of a disc around the light's, a sunflower ``[count, 3]``."""
    k = np.arange(count)
    r, angle = radius * np.sqrt((k + 0.5) / count), k * np.pi * (3 - np.sqrt(5))
    first = np.cross(LIGHT_DIRECTION, [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    second = np.cross(LIGHT_DIRECTION, first)
    out = LIGHT_DIRECTION + (r * np.cos(angle))[:, None] * first + (r * np.sin(angle))[:, None] * second
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def _tables(
    vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, light: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Plane ``[f, 4]`` and affine charts ``[f, 12]`` (u, v, light: gradient, constant) of every triangle."""
    a, e1, e2 = vertices[faces[:, 0]], *(vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2))
    cross = np.cross(e1, e2)
    area2 = (cross**2).sum(axis=1, keepdims=True)
    # Gradients of the barycentric coordinates of corners 1 and 2.
    g1, g2 = np.cross(e2, cross) / area2, np.cross(cross, e1) / area2
    normal = cross / np.sqrt(area2)
    plane = np.column_stack([normal, (normal * a).sum(axis=1)])
    columns = []
    for value in (uv[:, 0], uv[:, 1], light):
        f0, f1, f2 = (value[faces[:, k]] for k in range(3))
        gradient = (f1 - f0)[:, None] * g1 + (f2 - f0)[:, None] * g2
        columns += [gradient, (f0 - (gradient * a).sum(axis=1))[:, None]]
    return plane.astype(np.float32), np.concatenate(columns, axis=1).astype(np.float32)


def _density(patch: Patch) -> float:
    """Texels per metre: root of the picture's texels used over the surface's area."""
    corners, uv = patch.vertices[patch.faces], patch.uv[patch.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum()
    (ax, ay), (bx, by) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    height, width = patch.texture.shape[:2]
    return float(np.sqrt(np.abs(ax * by - ay * bx).sum() * width * height / area))


def _vertex_colours(patch: Patch) -> np.ndarray:
    height, width = patch.texture.shape[:2]
    column = np.clip((patch.uv[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip((patch.uv[:, 1] * height).astype(int), 0, height - 1)
    return patch.texture[row, column].astype(float)


def _pack(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Put all pictures and their halvings on shelves of one atlas; returns it and each one's place."""
    pieces = []
    for k, picture in enumerate(pictures):
        level = picture
        for j in range(LEVELS):
            pieces.append((k, j, level))
            level = cv2.resize(level, [max(2, s // 2) for s in level.shape[1::-1]], interpolation=cv2.INTER_AREA)
    pieces.sort(key=lambda piece: (-piece[2].shape[0], piece[0], piece[1]))
    x = y = shelf = 0
    places = np.zeros((len(pictures), LEVELS, 4), np.float32)
    for k, j, level in pieces:
        height, width = level.shape[:2]
        if x + width > ATLAS_WIDTH:
            x, y, shelf = 0, y + shelf, 0
        places[k, j] = x, y, width, height
        x, shelf = x + width, max(shelf, height)
    atlas = np.zeros((y + shelf, ATLAS_WIDTH, 3), np.uint8)
    for k, j, level in pieces:
        left, top, width, height = places[k, j].astype(int)
        atlas[top : top + height, left : left + width] = level
    return atlas, places
