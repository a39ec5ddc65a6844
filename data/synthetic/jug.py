"""The jug: a small object with round, flat, hollow and thin parts, for judging surfaces from all sides.

It is the zero set of one signed distance function: a foot with flat sides, an ellipsoid belly, a neck that widens to a
bowl, a thin handle; a flat medallion is cut from the belly, and a hollow pressed into it. All joints are smooth, so the
surface has a normal everywhere. The mesh of it is the truth; the function is only how it was made.

Symbols: ``p`` is a point in the truth frame (metres, z up, the jug stands on z = 0 about the origin); distances are
negative inside; ``rho`` is the distance from the z axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from skimage.measure import marching_cubes

from data.synthetic.geometry import Solid, rotation_z

CELL = 0.001  # metres; linear interpolation on this grid is off by 0.03 mm on the handle, the most bent part
CLEARANCE = 0.01 * CELL
GRID_LOW, GRID_HIGH = np.array([-0.0743, -0.0743, -0.0061]), np.array([0.075, 0.075, 0.1423])


@dataclass(frozen=True)
class JugShape:
    """Measures of one jug, metres and radians.

    Attributes:
        belly: ``[3]`` half axes across and up, then the height of the centre.
        neck: Least radius of the neck, then the height of the rim.
        rim: Radius of the rim.
        bowl: Depth of the bowl below the rim.
        foot: Distance from the axis to the flat sides, then the height.
        foot_sides: How many flat sides.
        handle: Radius of the handle's loop, then of its rod.
        medallion: Distance from the axis to the flat medallion.
        hollow: Depth of the hollow.
        turns_rad: ``[3]`` of the handle, the medallion and the hollow about the axis.
    """

    belly: tuple[float, float, float]
    neck: tuple[float, float]
    rim: float
    bowl: float
    foot: tuple[float, float]
    foot_sides: int
    handle: tuple[float, float]
    medallion: float
    hollow: float
    turns_rad: tuple[float, float, float]

    @staticmethod
    def of_seed(seed: int) -> JugShape:
        """A jug of random measures; one seed gives one jug, whatever it is filmed with."""
        rng = np.random.default_rng([seed, 3])
        across, turn = rng.uniform(0.038, 0.043), rng.uniform(0, 2 * np.pi)
        return JugShape(
            belly=(across, rng.uniform(0.032, 0.037), 0.048),
            neck=(rng.uniform(0.017, 0.021), rng.uniform(0.122, 0.132)),
            rim=rng.uniform(0.027, 0.032),
            bowl=rng.uniform(0.014, 0.019),
            foot=(rng.uniform(0.030, 0.034), rng.uniform(0.018, 0.022)),
            foot_sides=int(rng.integers(5, 9)),
            handle=(rng.uniform(0.024, 0.028), rng.uniform(0.0036, 0.0044)),
            medallion=across - rng.uniform(0.006, 0.008),
            hollow=rng.uniform(0.006, 0.009),
            turns_rad=(turn, turn + rng.uniform(2.0, 2.6), turn - rng.uniform(1.9, 2.5)),
        )


def signed_distance(shape: JugShape, p: np.ndarray) -> np.ndarray:
    """Distance to the jug's surface, negative inside; exact nowhere but on the surface, and of slope about 1.

    Args:
        shape: Measures.
        p: ``[..., 3]`` metres.

    Returns:
        ``[...]``.
    """
    body = smooth_min(_body(shape, p), _handle(shape, p), 0.006)
    radius = 0.024
    ball = np.array([shape.belly[0] - shape.hollow + radius, 0.0, shape.belly[2]])
    hollow = np.linalg.norm(p @ rotation_z(shape.turns_rad[2]) - ball, axis=-1) - radius
    body = smooth_max(body, -hollow, 0.004)
    return smooth_max(body, -_bowl(shape, np.hypot(p[..., 0], p[..., 1]), p[..., 2]), 0.003)


def on_handle(seed: int, p: np.ndarray) -> np.ndarray:
    """Which points of the surface, ``p`` ``[n, 3]``, belong to the handle, ``[n]`` bool."""
    shape = JugShape.of_seed(seed)
    return _handle(shape, p) < _body(shape, p)


def smooth_min(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """Union of two solids, blended where their distances differ by less than ``reach``.

    Quilez's quadratic polynomial ("Smooth minimum", iquilezles.org, 2013).
    """
    blend = np.clip(0.5 + 0.5 * (b - a) / reach, 0.0, 1.0)
    return b + (a - b) * blend - reach * blend * (1 - blend)


def smooth_max(a: np.ndarray, b: np.ndarray, reach: float) -> np.ndarray:
    """Common part of two solids, with an edge that is rounded over ``reach``."""
    return -smooth_min(-a, -b, reach)


def _body(shape: JugShape, p: np.ndarray) -> np.ndarray:
    rho, z = np.hypot(p[..., 0], p[..., 1]), p[..., 2]
    body = smooth_min(_belly(shape, rho, z), _neck(shape, rho, z), 0.012)
    body = smooth_min(body, _foot(shape, p), 0.006)
    return smooth_max(body, (p @ rotation_z(shape.turns_rad[1]))[..., 0] - shape.medallion, 0.003)


def _belly(shape: JugShape, rho: np.ndarray, z: np.ndarray) -> np.ndarray:
    across, up, centre = shape.belly
    return (np.hypot(rho / across, (z - centre) / up) - 1) * min(across, up)


def _neck(shape: JugShape, rho: np.ndarray, z: np.ndarray) -> np.ndarray:
    narrow, top = shape.neck
    low = shape.belly[2] + 0.02
    rise = np.clip((z - low - 0.01) / (top - low - 0.01), 0, 1)
    return smooth_max(rho - narrow - (shape.rim - narrow) * rise**2, np.maximum(z - top, low - z), 0.003)


def _foot(shape: JugShape, p: np.ndarray) -> np.ndarray:
    side, height = shape.foot
    angles = 2 * np.pi * np.arange(shape.foot_sides) / shape.foot_sides
    out = np.full(p.shape[:-1], -1.0)
    for angle in angles:
        out = smooth_max(out, p[..., 0] * np.cos(angle) + p[..., 1] * np.sin(angle) - side, 0.002)
    return smooth_max(out, np.maximum(p[..., 2] - height, -p[..., 2]), 0.003)


def _handle(shape: JugShape, p: np.ndarray) -> np.ndarray:
    loop, rod = shape.handle
    p = p @ rotation_z(shape.turns_rad[0])
    x, z = p[..., 0] - shape.belly[0] + 0.004, p[..., 2] - shape.belly[2] - 0.022
    return np.hypot(np.hypot(x, z) - loop, p[..., 1]) - rod


def _bowl(shape: JugShape, rho: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Ball that hollows the top: it passes the rim 3 mm inside its edge, and is ``bowl`` deep."""
    edge, deep = shape.rim - 0.003, shape.bowl
    radius = (edge**2 + deep**2) / (2 * deep)
    return np.hypot(rho, z - (shape.neck[1] - deep + radius)) - radius


@lru_cache(maxsize=2)
def make_jug(seed: int) -> Solid:
    """The jug of a seed: marching cubes (Lorensen and Cline 1987) on a grid of ``CELL``, normals of the function.

    Returns:
        A watertight mesh of one piece, equal for equal seeds.
    """
    shape = JugShape.of_seed(seed)
    x, y, z = (np.arange(low, high, CELL) for low, high in zip(GRID_LOW, GRID_HIGH, strict=True))
    plane = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    slabs = [signed_distance(shape, np.dstack([plane, np.full(plane.shape[:2], level)])) for level in z]
    grid = np.stack(slabs, axis=-1)
    # A surface that all but touches a grid point makes needles of triangles, whose normals are noise.
    grid = np.where(np.abs(grid) < CLEARANCE, np.where(grid < 0, -CLEARANCE, CLEARANCE), grid).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(grid, 0.0, spacing=(CELL,) * 3, gradient_direction="descent")
    vertices = vertices.astype(np.float64) + GRID_LOW
    return Solid(vertices, faces.astype(np.int64), _normals(shape, vertices))


def _normals(shape: JugShape, p: np.ndarray) -> np.ndarray:
    """Unit gradients of the distance at ``p`` ``[n, 3]``, by central differences."""
    steps = 1e-5 * np.eye(3)
    slopes = np.stack([signed_distance(shape, p + s) - signed_distance(shape, p - s) for s in steps], axis=-1)
    return slopes / np.linalg.norm(slopes, axis=-1, keepdims=True)
