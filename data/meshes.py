"""Surfaces as files: trimesh writes PLY, glTF and OBJ; triangles or bare points are read from PLY (Turk 1994)."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from trimesh.exchange.ply import load_ply

from data.points import Damaged, read_header
from data.poses import Sim3
from fieldbook.errors import UserError
from fieldbook.files import atomic_path
from fieldbook.shapes import LARGEST

KINDS = (".ply", ".glb", ".obj")


@dataclass(frozen=True)
class Mesh:
    """Triangles, or points alone.

    Attributes:
        vertices: ``[v, 3]`` float64.
        faces: ``[f, 3]`` int64, counter-clockwise seen from outside; no rows for bare points.
        normals: ``[v, 3]`` unit, outward, or ``None``.
        colours: ``[v, 3]`` uint8 RGB, or ``None``.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray | None = None
    colours: np.ndarray | None = None

    @property
    def is_points(self) -> bool:
        """Whether there are no triangles."""
        return not len(self.faces)

    def moved(self, a_from_b: Sim3) -> Mesh:
        """The same in frame a, of a mesh in frame b."""
        normals = None if self.normals is None else self.normals @ a_from_b.rotation.T
        return Mesh(a_from_b.points(self.vertices), self.faces, normals, self.colours)


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Write a mesh with its normals and colours, atomically.

    Args:
        path: Ends in one of ``KINDS``.
        mesh: With at least one triangle.
    """
    made = as_trimesh(mesh)
    options = {".obj": {"include_normals": True, "include_color": True}, ".ply": {"vertex_normal": True}}
    with atomic_path(path) as temporary:
        made.export(str(temporary), file_type=path.suffix[1:], **options.get(path.suffix, {"include_normals": True}))


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    """The same for trimesh, vertex by vertex and face by face."""
    return trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.normals, vertex_colors=mesh.colours, process=False
    )


def read_mesh(path: Path) -> Mesh:
    """Read the vertices and triangles of a PLY file; polygons are cut into triangles, colours and textures left alone.

    Raises:
        UserError: No such file, no PLY file, a damaged one, or vertices that are not finite.
    """
    if not path.is_file():
        raise UserError(f"no such surface: {path}; give a PLY file of triangles or points")
    content = path.read_bytes()
    try:
        if read_header(content).total > len(content):
            raise Damaged("it has fewer points and faces than its header says")
        vertices, faces = _parse(content)
        if not (np.abs(vertices) <= LARGEST).all():
            raise Damaged("it has points that are not finite")
        if len(faces) and not (faces.min() >= 0 and faces.max() < len(vertices)):
            raise Damaged("its faces name points that are not there")
    except Damaged as error:
        raise UserError(f"{path} is not a PLY file of triangles or points: {error}; make it again") from None
    return Mesh(vertices, faces)


def _parse(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    try:
        parts = load_ply(io.BytesIO(content), fix_texture=False, skip_materials=True)
        vertices = np.asarray(parts["vertices"], dtype=np.float64).reshape(-1, 3)
        faces = np.asarray(parts.get("faces", np.zeros((0, 3)))).reshape(-1, 3).astype(np.int64)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a damaged file makes trimesh stumble over
        raise Damaged(str(error) or type(error).__name__) from None
    return vertices, faces
