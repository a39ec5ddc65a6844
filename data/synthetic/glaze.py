"""The jug's colours: a painted mosaic, drawn in space and laid onto flat charts of the surface.

Colour is a function of the point on the surface alone, so the pictures of two charts agree where they meet. A chart is
a connected piece of surface whose normals are nearest to the same axis; its picture is the view along that axis, which
stretches it by less than two. Everything is dense and irregular on purpose: structure from motion needs corners.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from data.synthetic.geometry import Patch, Solid
from data.synthetic.textures import Size, random_colour, to_uint8

TILES, SPECKS = 420, 2600  # some 9 mm and 4 mm apart
GROUT = 0.0008  # metres
FINER = 1.3  # texels of a chart over those asked for: what is seen aslant along the axis is stretched
STEEPEST = 0.3  # least cosine between axis and normal that a point's depth is corrected by


class Glaze:
    """Paint in space.

    Args:
        solid: What is painted; the pattern's pieces are spread evenly over its surface.
        rng: Draws them.
    """

    def __init__(self, solid: Solid, rng: np.random.Generator):
        self._tiles = KDTree(_spread(solid, TILES, rng))
        self._tile_colours = np.array([[random_colour(rng, 0.5, 0.9) for _ in "ab"] for _ in range(TILES)], float)
        self._stripes = rng.normal(size=(TILES, 3))
        self._stripes /= np.linalg.norm(self._stripes, axis=1, keepdims=True)
        self._periods = rng.uniform(0.0022, 0.006, TILES)
        self._specks = KDTree(_spread(solid, SPECKS, rng))
        self._speck_colours = np.array([random_colour(rng, 0.5, 0.75) for _ in range(SPECKS)], float)
        self._speck_radii = rng.uniform(0.0005, 0.0015, SPECKS)
        self._mottle = rng.normal(size=(2, 48, 48, 48))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Albedo ``[n, 3]`` in [0, 255], sRGB, at ``points`` ``[n, 3]`` in metres."""
        distance, nearest = map(np.asarray, self._tiles.query(points, k=2))
        tile = nearest[:, 0]
        along = (points * self._stripes[tile]).sum(axis=1) / self._periods[tile]
        second = np.clip(0.5 + 2 * np.sin(2 * np.pi * along), 0, 1)[:, None]
        colours = self._tile_colours[tile]
        out = colours[:, 0] * (1 - second) + colours[:, 1] * second
        out *= 1 + 0.10 * self._noise(points)[:, None]
        apart = np.linalg.norm(self._tiles.data[tile] - self._tiles.data[nearest[:, 1]], axis=1)
        to_joint = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart)
        out[to_joint < GROUT / 2] = (58, 50, 46)
        distance, speck = map(np.asarray, self._specks.query(points))
        inside = distance < self._speck_radii[speck]
        out[inside] = self._speck_colours[speck[inside]]
        return np.clip(out, 0, 255)

    def _noise(self, points: np.ndarray) -> np.ndarray:
        """Mottling ``[n]`` of about unit deviation, in two sizes."""
        fields = zip(self._mottle, (0.0015, 0.004), strict=True)
        return sum(map_coordinates(f, points.T / cell, order=1, mode="grid-wrap") for f, cell in fields)  # type: ignore


def _spread(solid: Solid, count: int, rng: np.random.Generator) -> np.ndarray:
    return solid.vertices[rng.choice(len(solid.vertices), count, replace=False)] + rng.normal(0, 2e-4, (count, 3))


def painted(
    name: str, solid: Solid, part: np.ndarray, texels_per_metre: float, rng: np.random.Generator
) -> list[Patch]:
    """The solid's surface as patches with pictures of the mosaic.

    Args:
        name: Of all patches.
        solid: Smooth, with about evenly spaced vertices.
        part: ``[v]`` integer, of each vertex; charts end between parts, where one would hide another in its picture.
        texels_per_metre: Density of the pictures; the pattern does not depend on it.
        rng: Draws the mosaic.

    Returns:
        One patch per chart; together they have the solid's faces.
    """
    glaze = Glaze(solid, rng)
    return [_patch(name, solid, faces, axis, texels_per_metre * FINER, glaze) for axis, faces in charts(solid, part)]


def charts(solid: Solid, part: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Connected groups of faces of one part whose normals are nearest to the same signed axis.

    Returns:
        The axis (0, 1, 2 for x, y, z) and the face numbers of each group.
    """
    normals = solid.normals[solid.faces].mean(axis=1)
    axis = np.abs(normals).argmax(axis=1)
    side = 6 * part[solid.faces[:, 0]] + 2 * axis + (np.take_along_axis(normals, axis[:, None], axis=1)[:, 0] > 0)
    # Each edge, from its lower vertex to its higher one, belongs to two faces.
    edges = np.sort(solid.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    order = np.lexsort(edges.T)
    first, second = order[0::2] // 3, order[1::2] // 3
    same = side[first] == side[second]
    ones = np.ones(same.sum(), np.int8)
    count = len(solid.faces)
    links = coo_array((ones, (first[same], second[same])), shape=(count, count))
    number, group = connected_components(links, directed=False)
    split = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    assert len(split) == number
    return [(int(axis[faces[0]]), faces) for faces in split]


def _patch(name: str, solid: Solid, faces: np.ndarray, axis: int, density: float, glaze: Glaze) -> Patch:
    used, local = np.unique(solid.faces[faces], return_inverse=True)
    vertices, normals = solid.vertices[used], solid.normals[used]
    across = [k for k in range(3) if k != axis]
    low, high = vertices[:, across].min(axis=0), vertices[:, across].max(axis=0)
    width, height = (max(8, round(extent * density)) for extent in high - low)
    size = (width, height)
    texture = to_uint8(glaze(_texel_points(vertices, normals, axis, low, high, size)).reshape(size[1], size[0], 3))
    return Patch(name, vertices, normals, (vertices[:, across] - low) / (high - low), local.reshape(-1, 3), texture)


def _texel_points(
    vertices: np.ndarray, normals: np.ndarray, axis: int, low: np.ndarray, high: np.ndarray, size: Size
) -> np.ndarray:
    """Points of the surface ``[w * h, 3]`` that a chart's texels show: on the tangent plane of the nearest vertex.

    Beside the chart the planes go on, so that a reduced picture takes in no other colour at its edge.
    """
    across = [k for k in range(3) if k != axis]
    u, v = np.meshgrid(*((np.arange(n) + 0.5) / n for n in size))
    flat = low + np.column_stack([u.ravel(), v.ravel()]) * (high - low)
    _, nearest = KDTree(vertices[:, across]).query(flat)
    slope = normals[nearest]
    along = np.where(np.abs(slope[:, axis]) < STEEPEST, np.inf, slope[:, axis])
    points = np.empty((len(flat), 3))
    points[:, across] = flat
    offset = flat - vertices[nearest][:, across]
    points[:, axis] = vertices[nearest, axis] - (slope[:, across] * offset).sum(axis=1) / along
    return points
