"""Exact nearest points on many triangles, without a tree of boxes in Python.

Triangles are gathered in *bunches*, the leaves of a k-d tree of their centroids. A bunch lies in a *disc*: within a
radius and half a thickness round a centre and a normal. The eight triangles with the nearest centroids give a point's
first bound; then all bunches with a centre within that and the largest radius are looked at, and only those whose disc
is nearer than what is known are opened, then triangles by the same rule. Triangles of very different sizes are searched
size by size, since the largest radius bounds all.

(trimesh's ``closest_point`` asks an R-tree point by point: two milliseconds for each that is ten edges away.)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from scipy.spatial import KDTree
from trimesh.triangles import closest_point

PAIRS = 1 << 20  # of points and triangles, looked at at once
BUNCH = 32  # triangles
MOST_BUNCHES = 4096  # that a point is expected to be near to
FIRST = 8
_ROUNDING = 1 + 1e-9


@dataclass(frozen=True)
class Nearest:
    """The nearest point of a surface, for each of some points.

    Attributes:
        distance: ``[n]``; infinite where there is no surface.
        index: ``[n]`` of the triangle, or of the point of a cloud; -1 where there is none.
    """

    distance: np.ndarray
    index: np.ndarray


def nearest_points(points: np.ndarray, cloud: np.ndarray) -> Nearest:
    """Nearest of ``cloud`` ``[m, 3]``, which may be empty, for each of ``points`` ``[n, 3]``."""
    if not len(cloud) or not len(points):
        return _nowhere(len(points))
    distance, index = KDTree(cloud).query(points)
    return Nearest(np.asarray(distance), np.asarray(index))


def nearest_on_triangles(points: np.ndarray, triangles: np.ndarray) -> Nearest:
    """Nearest point on ``triangles`` ``[f, 3, 3]``, of any size and shape, for each of ``points`` ``[n, 3]``."""
    found = _nowhere(len(points))
    if not len(triangles) or not len(points):
        return found
    radii = np.linalg.norm(triangles - triangles.mean(axis=1, keepdims=True), axis=2).max(axis=1)
    size = np.floor(np.log2(np.maximum(radii, max(radii.max() * 1e-6, 1e-300))) / 2).astype(int)
    sizes, counts = np.unique(size, return_counts=True)
    for kind in sizes[np.argsort(-counts)]:  # the many first: they bound what the few can be
        own = np.flatnonzero(size == kind)
        _Search(points, triangles[own], own, found).run()
    return found


def _nowhere(count: int) -> Nearest:
    return Nearest(np.full(count, np.inf), np.full(count, -1))


@dataclass(frozen=True)
class _Discs:
    """What holds something: ``[m, 3]`` centres and unit normals, ``[m]`` radii and half thicknesses."""

    centres: np.ndarray
    normals: np.ndarray
    radii: np.ndarray
    halves: np.ndarray

    def at_least(self, points: np.ndarray, disc: np.ndarray) -> np.ndarray:
        """What the distance of points ``[n, 3]`` to the contents of discs ``[n]`` cannot be below, ``[n]``."""
        offset = points - self.centres[disc]
        height = np.einsum("nk,nk->n", offset, self.normals[disc])
        aside = np.sqrt(np.maximum(np.einsum("nk,nk->n", offset, offset) - height**2, 0))
        return np.hypot(np.maximum(np.abs(height) - self.halves[disc], 0), np.maximum(aside - self.radii[disc], 0))


def _discs(corners: np.ndarray, starts: np.ndarray, normals: np.ndarray) -> _Discs:
    """Discs across ``normals`` ``[m, 3]`` round groups of ``corners`` ``[c, 3]``, which begin at ``starts`` ``[m]``."""
    counts = np.diff(starts, append=len(corners))
    centres = np.add.reduceat(corners, starts) / counts[:, None]
    group = np.repeat(np.arange(len(starts)), counts)
    offset = corners - centres[group]
    height = np.abs(np.einsum("nk,nk->n", offset, normals[group]))
    aside = np.sqrt(np.maximum(np.einsum("nk,nk->n", offset, offset) - height**2, 0))
    return _Discs(centres, normals, np.maximum.reduceat(aside, starts), np.maximum.reduceat(height, starts))


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length > 0, vectors / np.maximum(length, 1e-300), [0.0, 0.0, 1.0])


def _leaves(tree: KDTree) -> list[np.ndarray]:
    """Indices of what is in each leaf of a k-d tree."""
    waiting: list[Any] = [tree.tree]
    leaves = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, KDTree.leafnode):
            leaves.append(node.idx)
        else:
            waiting += [node.greater, node.less]
    return leaves


class _Search:
    """Improves what was found by triangles ``[f, 3, 3]`` of about one size; ``number`` is theirs among all."""

    def __init__(self, points: np.ndarray, triangles: np.ndarray, number: np.ndarray, found: Nearest):
        leaves = _leaves(KDTree(triangles.mean(axis=1), leafsize=BUNCH))
        order, sizes = np.concatenate(leaves), np.array([len(leaf) for leaf in leaves])
        self.points, self.found = points, found
        self.triangles, self.number = triangles[order], number[order]
        corners = self.triangles.reshape(-1, 3)
        crosses = np.cross(self.triangles[:, 1] - self.triangles[:, 0], self.triangles[:, 2] - self.triangles[:, 0])
        self.single = _discs(corners, np.arange(0, len(corners), 3), _unit(crosses))
        self.ends = np.cumsum(sizes)
        self.starts = self.ends - sizes
        self.bunch = _discs(corners, 3 * self.starts, _unit(np.add.reduceat(crosses, self.starts)))

    def run(self) -> None:
        """Look at the nearest triangles, then at all bunches that may hold anything nearer."""
        first = np.isinf(self.found.distance).any()  # else another size has given a bound
        open_ = self._nearest_centroids() if first else np.arange(len(self.points))
        tree = KDTree(self.bunch.centres)
        reach = float(np.hypot(self.bunch.radii, self.bunch.halves).max())
        for part in _parts(open_, min(len(self.starts), MOST_BUNCHES)):
            near: Any = tree.query_ball_point(self.points[part], self.found.distance[part] + reach, return_sorted=False)
            counts = np.array([len(bunches) for bunches in near], dtype=int)
            self._open(np.repeat(part, counts), np.fromiter(chain.from_iterable(near), int, counts.sum()))

    def _nearest_centroids(self) -> np.ndarray:
        """Look at the triangles with the nearest centroids; the points that are not done with that."""
        tree, k = KDTree(self.single.centres), min(FIRST, len(self.triangles))
        reach, left = float(self.single.radii.max()), []
        for part in _parts(np.arange(len(self.points)), k):
            distance, index = tree.query(self.points[part], k=_ranks(1, k))
            self._improve(np.repeat(part, k), index.ravel())
            left.append(part[distance[:, -1] - reach < self.found.distance[part]])
        return np.concatenate(left)

    def _open(self, point: np.ndarray, bunch: np.ndarray) -> None:
        """Look into bunches: pairs ``[p]`` of points and bunches, if the bunch may hold anything nearer."""
        worth = self.bunch.at_least(self.points[point], bunch) < self.found.distance[point] * _ROUNDING
        for some in _parts(np.flatnonzero(worth), BUNCH):
            counts = (self.ends - self.starts)[bunch[some]]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self._improve(np.repeat(point[some], counts), np.repeat(self.starts[bunch[some]], counts) + within)

    def _improve(self, point: np.ndarray, triangle: np.ndarray) -> None:
        """Look at pairs ``[p]`` of points and triangles, if the triangle may be nearer than what is known."""
        worth = self.single.at_least(self.points[point], triangle) < self.found.distance[point] * _ROUNDING
        point, triangle = point[worth], triangle[worth]
        to = self.points[point]
        close = np.linalg.norm(closest_point(self.triangles[triangle], to) - to, axis=1)
        order = np.lexsort((close, point))
        point, close, triangle = point[order], close[order], triangle[order]
        first = np.flatnonzero(np.diff(point, prepend=-1))
        first = first[close[first] < self.found.distance[point[first]]]
        self.found.distance[point[first]] = close[first]
        self.found.index[point[first]] = self.number[triangle[first]]


def _ranks(first: int, last: int) -> Any:
    """Which neighbours to ask a k-d tree for; from 1 on."""
    return np.arange(first, last + 1)


def _parts(indices: np.ndarray, each: int) -> list[np.ndarray]:
    """``indices`` in parts that make at most ``PAIRS`` pairs with ``each`` of something."""
    return np.array_split(indices, max(1, -(-len(indices) * each // PAIRS)))
