"""Rays against triangles, by embree (Wald et al. 2014, "Embree: a kernel framework for efficient CPU ray tracing")."""

from __future__ import annotations

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene


def embree_scene(vertices: np.ndarray, faces: np.ndarray) -> EmbreeScene:
    """A scene to send rays through: ``vertices`` ``[v, 3]`` and ``faces`` ``[f, 3]``."""
    scene = EmbreeScene()
    TriangleMesh(scene=scene, vertices=vertices.astype(np.float32), indices=faces.astype(np.int32))
    return scene
