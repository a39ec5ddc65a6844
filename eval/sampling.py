"""Points spread evenly over the area of a surface, the same ones for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from trimesh import Trimesh
from trimesh.sample import sample_surface

from data.meshes import Mesh
from eval.regions import Region

MOST_DRAWS = 64
"""For each point wanted: a region that a large triangle only grazes gets fewer points."""


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
    faces = mesh.faces if region is None else mesh.faces[region.may_touch(mesh.vertices[mesh.faces])]
    normals, areas = face_normals(mesh.vertices[faces])
    if not areas.sum() > 0:
        return Sample(np.zeros((0, 3)), np.zeros((0, 3)))
    made, found = Trimesh(mesh.vertices, faces, process=False), []
    points, drawn = 0, 0
    while points < count and drawn < MOST_DRAWS * count:
        place, face = sample_surface(made, count, face_weight=areas, seed=[*seed, drawn])[:2]
        keep = np.ones(count, bool) if region is None else region.contains(place)
        found.append((np.asarray(place)[keep], normals[face[keep]]))
        points, drawn = points + int(keep.sum()), drawn + count
    place, normal = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
    return Sample(place, normal)


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
