"""Marching cubes of a signed distance in two passes, in slabs: the memory does not grow with the third dimension.

First a coarse pass over the whole box, to see where the surface may be; then a fine one over that part of it, a tenth
larger, as in instant-nsr-pl. The cubes are scikit-image's (Lewiner et al. 2003, "Efficient implementation of marching
cubes' cases with topological guarantees"); here slabs are cut, and their meshes sewn together.

Symbols: a *cell* is the cube between eight samples; a *layer* all samples of one x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

from fieldbook.errors import Infeasible

Sdf = Callable[[np.ndarray], np.ndarray]
"""Points ``[n, 3]`` float32 to signed distances ``[n]``, positive outside."""

COARSEST, FINEST_COARSE = 64, 256
MARGIN = 0.1  # of the refitted box's size, on each side
LAYERS = 64  # of a slab
_NUDGE = 1e-3  # cells: a sample nearer to the surface is moved, so that no two vertices coincide
_SAME = 3e-4  # cells: what two slabs say of one vertex differs by less, two vertices by more


@dataclass(frozen=True)
class Grid:
    """Samples on a box, its corners included.

    Attributes:
        box: ``[2, 3]`` lowest and highest corner.
        shape: Samples along x, y and z.
    """

    box: np.ndarray
    shape: tuple[int, int, int]

    @staticmethod
    def over(box: np.ndarray, resolution: int) -> Grid:
        """``resolution`` samples along the longest side, and cells as cubic as they fit."""
        size = box[1] - box[0]
        counts = np.ceil((resolution - 1) * size / size.max() - 1e-6).astype(int) + 1
        x, y, z = np.maximum(counts, 2).tolist()
        return Grid(box, (x, y, z))

    @property
    def cell(self) -> np.ndarray:
        """``[3]`` sides of a cell."""
        return (self.box[1] - self.box[0]) / (np.array(self.shape) - 1)

    def points(self, first: int, last: int) -> np.ndarray:
        """``[last - first, 3]`` float32: some of the samples in C order."""
        index = np.stack(np.unravel_index(np.arange(first, last), self.shape), axis=1)
        return (self.box[0] + index * self.cell).astype(np.float32)


@dataclass(frozen=True)
class Isosurface:
    """A mesh and what it was taken from.

    Attributes:
        vertices: ``[v, 3]`` float64, in the frame of the box.
        faces: ``[f, 3]``; counter-clockwise seen from where the distance is positive.
        grid: Of the fine pass.
    """

    vertices: np.ndarray
    faces: np.ndarray
    grid: Grid


def extract(
    sdf: Sdf, box: np.ndarray, resolution: int, chunk: int, tick: Callable[[float], object] = lambda _: None
) -> Isosurface:
    """Take the zero level of a signed distance.

    The fine pass covers where the coarse one, with a quarter of the resolution but at least 64 samples a side, finds a
    change of sign or a distance below half a cell's diagonal: of a true distance nothing is lost, however thin. A part
    of a surface that is none, thinner than a coarse cell and apart from the rest, may be left out.

    Args:
        sdf: The signed distance.
        box: ``[2, 3]`` where to look. A surface that goes on beyond it is cut open there.
        resolution: Samples along the longest side of the refitted box.
        chunk: Points that ``sdf`` takes at once.
        tick: Called with the share in [0, 1] of the fine pass that is done.

    Raises:
        Infeasible: The signed distance is not finite, or has one sign in the whole box.
    """
    coarse = Grid.over(box, min(max(COARSEST, resolution // 4), FINEST_COARSE))
    values = _values(sdf, coarse, 0, coarse.shape[0], chunk)
    slope = _slope(values, coarse)
    grid = Grid.over(_refit(values, coarse, slope), resolution)
    tiny = _NUDGE * float(grid.cell.min()) * slope
    pieces, low, high = [], float(values.min()), float(values.max())
    for start, slab in _slabs(sdf, grid, chunk):
        low, high = min(low, float(slab.min())), max(high, float(slab.max()))
        pieces.append((start, *_march(slab, tiny)))
        tick((start + len(slab)) / grid.shape[0])
    vertices, faces = _sew(pieces)
    if not len(faces):
        raise Infeasible(*_nothing(low, high))
    return Isosurface(grid.box[0] + vertices * grid.cell, faces, grid)


def _nothing(low: float, high: float) -> tuple[str, dict[str, float]]:
    span, numbers = f"from {low:.4g} to {high:.4g}", {"sdf_min": low, "sdf_max": high}
    if low < 0 < high:
        return f"the model's surface is smaller than a cell: its signed distance goes {span}; raise resolution", numbers
    side = "inside" if low < 0 else "outside"
    return f"the model has no surface: its signed distance is {side} everywhere in its box, {span}", numbers


def _values(sdf: Sdf, grid: Grid, first_layer: int, last_layer: int, chunk: int) -> np.ndarray:
    """``[layers, ny, nz]`` float32 distances of some layers."""
    layer = grid.shape[1] * grid.shape[2]
    first, last = first_layer * layer, last_layer * layer
    out = np.empty(last - first, np.float32)
    for start in range(first, last, chunk):
        end = min(start + chunk, last)
        out[start - first : end - first] = sdf(grid.points(start, end))
    if not np.isfinite(out).all():
        wrong = int((~np.isfinite(out)).sum())
        raise Infeasible(
            f"the model's signed distance is not a finite number at {wrong} of {len(out)} points: its training failed",
            {"not_finite": wrong},
        )
    return out.reshape(last_layer - first_layer, *grid.shape[1:])


def _slope(values: np.ndarray, grid: Grid) -> float:
    """Typical length of the gradient; 1 for a true distance."""
    steps = [np.diff(values, axis=k) / side for k, side in enumerate(grid.cell)]
    least = (steps[0][:, :-1, :-1] ** 2 + steps[1][:-1, :, :-1] ** 2 + steps[2][:-1, :-1] ** 2).ravel()
    return max(float(np.sqrt(np.median(least))), 1e-12)


def _refit(values: np.ndarray, grid: Grid, slope: float) -> np.ndarray:
    """``[2, 3]``: the box of all samples that may belong to a cell with surface in it, larger by the margin."""
    near = np.abs(values) <= slope * np.linalg.norm(grid.cell) / 2
    for axis in range(3):
        low, high = (np.moveaxis(a, axis, 0) for a in (near, values > 0))
        crosses = high[1:] != high[:-1]
        low[1:] |= crosses
        low[:-1] |= crosses
    found = np.argwhere(near)
    if not len(found):
        raise Infeasible(*_nothing(float(values.min()), float(values.max())))
    low, high = (grid.box[0] + corner * grid.cell for corner in (found.min(axis=0), found.max(axis=0)))
    margin = np.maximum(MARGIN * (high - low), grid.cell)
    return np.stack([np.maximum(low - margin, grid.box[0]), np.minimum(high + margin, grid.box[1])])


def _slabs(sdf: Sdf, grid: Grid, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    """First layer and distances of each slab; the layer that two share is asked for once, so that they agree."""
    count, shared = grid.shape[0], None
    for start in range(0, count - 1, LAYERS):
        end = min(start + LAYERS, count - 1) + 1
        if shared is None:
            slab = _values(sdf, grid, start, end, chunk)
        else:
            slab = np.concatenate([shared, _values(sdf, grid, start + 1, end, chunk)])
        shared = slab[-1:].copy()
        yield start, slab


def _march(slab: np.ndarray, tiny: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in cells from the slab's first sample, and faces."""
    slab = np.where(np.abs(slab) < tiny, np.float32(tiny), slab)
    if not slab.min() < 0 < slab.max():
        return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
    vertices, faces, _, _ = marching_cubes(slab, 0.0, gradient_direction="descent")
    return vertices.astype(np.float64), faces.astype(np.int64)


def _sew(pieces: list[tuple[int, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One mesh of the slabs' meshes; what two of them have on their common layer becomes one vertex."""
    all_vertices, all_faces, count, seam = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0, None
    for start, vertices, faces in pieces:
        number = np.full(len(vertices), -1)
        first = np.flatnonzero(vertices[:, 0] < _SAME)
        if seam is not None and len(first) and len(seam[0]):
            distance, partner = KDTree(seam[0]).query(vertices[first, 1:])
            number[first] = np.where(distance < _SAME, seam[1][partner.clip(max=len(seam[1]) - 1)], -1)
        new = number < 0
        number[new] = count + np.arange(new.sum())
        last = np.flatnonzero(vertices[:, 0] > LAYERS - _SAME)
        seam = vertices[last, 1:], number[last]
        count += int(new.sum())
        all_vertices.append(vertices[new] + [start, 0, 0])
        all_faces.append(number[faces])
    return np.concatenate(all_vertices), np.concatenate(all_faces)
