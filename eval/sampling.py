"""Points spread evenly over the area of a surface, the same ones for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from trimesh import Trimesh
from trimesh.sample import sample_surface

from data.meshes import Mesh
from eval.regions import Region

MOST_DRAWS = 64
"""For each point wanted: a region that hardly touches the surface gets fewer points."""
MOST_SPLITS = 16


@dataclass(frozen=True)
class Sample:
    """Points of a surface.

    Attributes:
        points: ``[n, 3]``.
        normals: ``[n, 3]`` unit, of the triangles; ``None`` of bare points.
    """

    points: np.ndarray
    normals: np.ndarray | None

    def where(self, keep: np.ndarray) -> Sample:
        """Those with ``keep`` ``[n]`` bool."""
        return Sample(self.points[keep], None if self.normals is None else self.normals[keep])


def sample(mesh: Mesh, count: int, seed: list[int], region: Region | None = None) -> Sample:
    """Draw points of a surface inside a region, evenly over its area there.

    Args:
        mesh: Triangles, also degenerate ones; or bare points, of which at most ``count`` are drawn.
        count: Points wanted; fewer where the surface has no area in the region, or hardly any.
        seed: Of the draw.
        region: ``None`` for everywhere.
    """
    if mesh.is_points:
        return Sample(_drawn(_inside(mesh.vertices, region), count, seed), None)
    triangles = mesh.vertices[mesh.faces]
    if region is not None:
        triangles = _near(triangles, region)
    normals, areas = face_normals(triangles)
    if not areas.sum() > 0:
        return Sample(np.zeros((0, 3)), np.zeros((0, 3)))
    made, found = Trimesh(triangles.reshape(-1, 3), np.arange(3 * len(triangles)).reshape(-1, 3), process=False), []
    points, drawn = 0, 0
    while points < count and drawn < MOST_DRAWS * count:
        place, face = sample_surface(made, count, face_weight=areas, seed=[*seed, drawn])[:2]
        keep = np.ones(count, bool) if region is None else region.contains(place)
        found.append((np.asarray(place)[keep], normals[face[keep]]))
        points, drawn = points + int(keep.sum()), drawn + count
    place, normal = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
    return Sample(place, normal)


def _near(triangles: np.ndarray, region: Region) -> np.ndarray:
    """The parts of ``triangles`` ``[f, 3, 3]`` that may reach into a region, none of them much larger than it."""
    longest = region.half.max() / region.own_from_points.scale
    for _ in range(MOST_SPLITS):
        triangles = triangles[region.may_touch(triangles)]
        large = np.linalg.norm(triangles - np.roll(triangles, 1, axis=1), axis=2).max(axis=1, initial=0) > longest
        if not large.any():
            break
        a, b, c = triangles[large].transpose(1, 0, 2)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        quarters = [np.stack(corners, axis=1) for corners in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        triangles = np.concatenate([triangles[~large], *quarters])
    return triangles


def face_normals(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals ``[f, 3]`` (of degenerate triangles 0) and areas ``[f]`` of triangles ``[f, 3, 3]``."""
    crosses = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(crosses, axis=1)
    return crosses / np.maximum(length, 1e-300)[:, None], length / 2


def _inside(points: np.ndarray, region: Region | None) -> np.ndarray:
    return points if region is None else points[region.contains(points)]


def _drawn(points: np.ndarray, count: int, seed: list[int]) -> np.ndarray:
    if len(points) <= count:
        return points
    return points[np.sort(np.random.default_rng(seed).choice(len(points), count, replace=False))]
