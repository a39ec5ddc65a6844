"""Textured surface patches, and the few shapes that the synthetic desk is made of.

A patch is a triangle mesh with one picture: ``uv`` in [0, 1]^2, u to the right and v down in the picture. Faces run
counter-clockwise seen from outside, so that normals point out. Lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import trimesh


@dataclass(frozen=True)
class Solid:
    """A closed triangle mesh.

    Attributes:
        vertices: ``[v, 3]`` metres; shared by the faces that meet there.
        faces: ``[f, 3]``, counter-clockwise from outside.
        normals: ``[v, 3]`` unit, outward.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Middle ``[3]`` of the box round it."""
        return (self.vertices.min(axis=0) + self.vertices.max(axis=0)) / 2

    @property
    def radius(self) -> float:
        """Of the ball about ``centre`` that holds it."""
        return float(np.linalg.norm(self.vertices - self.centre, axis=1).max())


@dataclass(frozen=True)
class Patch:
    """A piece of surface.

    Attributes:
        name: What it is; the subject's patches make the object mask.
        vertices: ``[v, 3]`` metres.
        normals: ``[v, 3]`` unit, outward.
        uv: ``[v, 2]`` in [0, 1].
        faces: ``[f, 3]`` indices of vertices.
        texture: ``[h, w, 3]`` uint8, sRGB.
    """

    name: str
    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    texture: np.ndarray


def surface(name: str, points: np.ndarray, texture: np.ndarray, uv: np.ndarray | None = None) -> Patch:
    """Patch over a grid of points; the outward normal is (along columns) x (along rows).

    Args:
        name: Of the patch.
        points: ``[rows, columns, 3]``; row 0 is the picture's bottom, column 0 its left edge.
        texture: ``[h, w, 3]`` uint8.
        uv: ``[rows, columns, 2]``; by default the grid's own, evenly spaced in the index.

    Returns:
        The patch, without the triangles that collapse to a line (at a sphere's poles, a disc's centre).
    """
    rows, columns = points.shape[:2]
    if uv is None:
        uv = np.stack(np.meshgrid(np.linspace(0, 1, columns), np.linspace(1, 0, rows)), axis=-1)
    corner = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
    lower = np.stack([corner, corner + 1, corner + columns + 1], axis=1)
    upper = np.stack([corner, corner + columns + 1, corner + columns], axis=1)
    faces, vertices = np.concatenate([lower, upper]), points.reshape(-1, 3)
    crosses = _crosses(vertices, faces)
    solid = np.linalg.norm(crosses, axis=1) > 1e-12
    faces, crosses = faces[solid], crosses[solid]
    return Patch(name, vertices, _vertex_normals(len(vertices), faces, crosses), uv.reshape(-1, 2), faces, texture)


def _crosses(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _vertex_normals(count: int, faces: np.ndarray, crosses: np.ndarray) -> np.ndarray:
    normals = np.zeros((count, 3))
    for k in range(3):
        np.add.at(normals, faces[:, k], crosses)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)


def rotation_z(yaw_rad: float) -> np.ndarray:
    """Rotation ``[3, 3]`` about +z."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rectangle(
    name: str, origin: np.ndarray, right: np.ndarray, up: np.ndarray, texture: np.ndarray, cell: float
) -> Patch:
    """Flat rectangle from its lower left corner; the normal is right x up, cells are at most ``cell`` metres wide."""
    columns = max(2, int(np.ceil(np.linalg.norm(right) / cell)) + 1)
    rows = max(2, int(np.ceil(np.linalg.norm(up) / cell)) + 1)
    u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
    return surface(name, origin + u[..., None] * right + v[..., None] * up, texture)


def box(
    name: str,
    bottom: np.ndarray,
    size: tuple[float, float, float],
    yaw_rad: float,
    top: np.ndarray,
    side: np.ndarray,
    cell: float,
) -> list[Patch]:
    """Upright box without its bottom face, which nobody sees.

    Args:
        name: Of all five patches.
        bottom: ``[3]`` centre of the bottom face.
        size: Extent along its own x, y and z.
        yaw_rad: Turn about +z.
        top: Picture of the top, right way up when seen from -y.
        side: Picture around the four sides.
        cell: Greatest spacing of vertices; light is stored per vertex.
    """
    x, y, z = rotation_z(yaw_rad).T * np.array(size)[:, None]
    corners = [bottom + a * x + b * y for a, b in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
    patches = [rectangle(name, corners[0] + z, x, y, top, cell)]
    bands = np.array_split(side, 4, axis=1)
    for k in range(4):
        patches.append(rectangle(name, corners[k], corners[(k + 1) % 4] - corners[k], z, bands[k], cell))
    return patches


def prism(
    name: str,
    outline: np.ndarray,
    bottom: np.ndarray,
    height: float,
    yaw_rad: float,
    top: np.ndarray,
    side: np.ndarray,
) -> list[Patch]:
    """Plate with a star-shaped outline: the top, whose picture fills the outline's bounding box, then the wall.

    Args:
        name: Of both patches.
        outline: ``[n, 2]`` counter-clockwise, about the origin, closed (first point repeated).
        bottom: ``[3]`` where the origin of the outline goes.
        height: Of the wall.
        yaw_rad: Turn about +z.
        top: Picture of the top.
        side: Picture of the wall.
    """
    low, high = outline.min(axis=0), outline.max(axis=0)
    rings = np.linspace(1, 0, 5)[:, None, None] * outline
    unit = (rings - low) / (high - low)
    uv = np.stack([unit[..., 0], 1 - unit[..., 1]], axis=-1)
    flat = np.concatenate([rings, np.full((*rings.shape[:2], 1), height)], axis=-1)
    wall = np.stack([np.column_stack([outline, np.full(len(outline), z)]) for z in np.linspace(0, height, 3)])
    turn = rotation_z(yaw_rad)
    return [
        surface(name, flat @ turn.T + bottom, top, uv),
        surface(name, wall @ turn.T + bottom, side),
    ]


def closed_prism(outline: np.ndarray, patches: list[Patch]) -> Solid:
    """What ``prism`` gives, with its underside: one watertight piece; normals are averaged along the edges."""
    top, wall = patches
    rim = wall.vertices.reshape(-1, len(outline), 3)[0]
    floor = np.stack([np.broadcast_to(rim[:-1].mean(axis=0), rim.shape), rim])  # its rows go outwards, so it faces down
    under = surface(top.name, floor, top.texture)
    offsets = np.cumsum([0, *(len(p.vertices) for p in (top, wall))])
    faces = [p.faces + o for p, o in zip((top, wall, under), offsets, strict=True)]
    mesh = trimesh.Trimesh(
        np.concatenate([p.vertices for p in (top, wall, under)]), np.concatenate(faces), process=False
    )
    mesh.merge_vertices()
    return Solid(np.array(mesh.vertices), np.array(mesh.faces), np.array(mesh.vertex_normals))


def circle(radius: float, count: int = 40) -> np.ndarray:
    """Closed outline ``[count + 1, 2]``."""
    angle = np.linspace(0, 2 * np.pi, count + 1)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def rounded_rectangle(width: float, height: float, radius: float, per_corner: int = 8) -> np.ndarray:
    """Closed outline ``[4 * per_corner + 1, 2]`` of a rectangle with round corners."""
    quarter = np.linspace(0, np.pi / 2, per_corner)
    centres = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (np.array([width, height]) / 2 - radius)
    arcs = [
        centre + radius * np.stack([np.cos(quarter + k * np.pi / 2), np.sin(quarter + k * np.pi / 2)], axis=1)
        for k, centre in enumerate(centres)
    ]
    return np.concatenate([*arcs, arcs[0][:1]])


def lathe(name: str, profile: np.ndarray, bottom: np.ndarray, texture: np.ndarray, count: int = 48) -> Patch:
    """Surface of revolution about +z; ``profile`` ``[n, 2]`` lists (radius, height) from the picture's bottom up.

    A profile that climbs faces outwards, one that descends faces inwards.
    """
    angle = np.linspace(0, 2 * np.pi, count + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    points = profile[:, None, :1] * ring + profile[:, None, 1:] * np.array([0.0, 0.0, 1.0])
    return surface(name, points + bottom, texture)


def tube(name: str, path: np.ndarray, radius: float | np.ndarray, texture: np.ndarray, count: int = 20) -> Patch:
    """Tube along ``path`` ``[n, 3]``, level or in one plane; ``radius`` may vary, ``[n]``.

    The picture's u runs along the path and v around it.
    """
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    first = np.cross(tangent, [0.0, 0.0, 1.0]) if abs(tangent[:, 2]).max() < 0.9 else np.cross(tangent, _side(path))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    angle = np.linspace(2 * np.pi, 0, count + 1)[:, None, None]
    around = np.cos(angle) * first + np.sin(angle) * second
    return surface(name, path + np.broadcast_to(np.asarray(radius), len(path))[:, None] * around, texture)


def _side(path: np.ndarray) -> np.ndarray:
    """Normal of the plane that a bent path lies in."""
    return np.linalg.svd(path - path.mean(axis=0))[2][2]
