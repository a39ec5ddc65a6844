"""Stage ``mesh``: the surface of a trained run as triangles with colours, in world units."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.meshes import Mesh, as_trimesh, write_mesh
from data.poses import Sim3
from data.world import IDENTITY, is_synthetic, world_from_scene
from fieldbook.errors import Infeasible, UserError
from fieldbook.files import sha256_file, write_json
from fieldbook.layout import DatasetFiles, RunFiles, SceneFiles
from methods.presets import method_entry
from methods.runner.isosurface import extract
from methods.runner.offline import quiet
from methods.runner.progress import Progress
from methods.runner.render import LoadedModel
from methods.runner.setup import out_of_memory_is_infeasible, set_threads
from methods.runner.surface import Surface
from methods.runner.transforms import scene_of

CHUNK = {"cuda": 2_097_152, "cpu": 131_072}
"""Points whose signed distance is asked for at once."""
COLOURS_AT_ONCE = 8  # times fewer: a normal needs a gradient, a colour its normal


@dataclass(frozen=True)
class MeshOptions:
    """The study's key ``mesh``.

    Attributes:
        resolution: Samples along the longest side of the box round the surface.
        min_component: Parts with fewer than this share of the largest part's faces are dropped; 0 keeps all.
    """

    resolution: int = 256
    min_component: float = 0.0


def make_mesh(run: RunFiles, dataset: DatasetFiles, spec: dict[str, Any]) -> dict[str, Any]:
    """Take a run's surface and write ``mesh.ply``, ``mesh.glb``, ``mesh.obj`` and ``mesh.json``.

    Args:
        run: A trained run of a method that has a surface.
        dataset: The dataset it was trained on.
        spec: ``mesh`` (see ``MeshOptions``), ``device`` (auto | cpu | cuda) and ``torch_threads``.

    Returns:
        The numbers of ``mesh.json`` that are one word or number, and the hash of ``mesh.ply``.

    Raises:
        UserError: The run has no checkpoint, or its method has no surface.
        Infeasible: The surface is nowhere in its box, or is not a number; out of memory.
    """
    set_threads(spec.get("torch_threads"))
    options, started = MeshOptions(**spec["mesh"]), time.perf_counter()
    with _no_mesh_but_this(run), out_of_memory_is_infeasible(lambda: ("while taking the mesh", {})), quiet():
        model = LoadedModel(run, dataset, spec.get("device", "auto"))
        surface = surface_of(model)
        with Progress(f"mesh {model.method}", 100, "%") as progress:
            mesh, facts = mesh_of(surface, options, lambda share: progress.update(int(100 * share)))
    world = _world(scene_of(dataset))
    in_world = mesh.moved(world.from_scene)
    for path in (run.mesh, run.mesh_glb, run.mesh_obj):
        write_mesh(path, in_world)
    facts |= {"seconds": round(time.perf_counter() - started, 3), "step": model.step}
    own = {"space": world.name, "unit": world.unit, "world_from_scene": world.from_scene.to_json()}
    bounds = {"bounds": _bounds(in_world.vertices), "bounds_scene": _bounds(mesh.vertices)}
    write_json(run.mesh_info, facts | own | bounds)
    plain = {name: value for name, value in facts.items() if not isinstance(value, list)}
    return plain | {"space": world.name, "sha256": sha256_file(run.mesh)}


@contextmanager
def _no_mesh_but_this(run: RunFiles) -> Iterator[None]:
    """Remove the mesh of an earlier training where there is no surface any more."""
    try:
        yield
    except Infeasible:
        for path in mesh_files(run):
            path.unlink(missing_ok=True)
        raise


def mesh_files(run: RunFiles) -> tuple[Path, ...]:
    """Everything that the stage writes."""
    return run.mesh, run.mesh_glb, run.mesh_obj, run.mesh_info


def is_meshed(run: RunFiles, numbers: dict[str, Any]) -> bool:
    """Whether the files of a finished stage are still there, and the mesh the same."""
    return all(path.is_file() for path in mesh_files(run)) and sha256_file(run.mesh) == numbers["sha256"]


def surface_of(model: LoadedModel) -> Surface:
    """The surface that a model offers.

    Raises:
        UserError: Its method has none.
        Infeasible: It has one, but not for us: a study with such a method goes on.
    """
    offered = getattr(model.model, "surface", None)
    if callable(offered):
        surface: Any = offered()
        return surface
    reason = f"{model.method} offers no surface to take a mesh of"
    if "mesh" in method_entry(model.method).gives:
        raise Infeasible(reason)
    raise UserError(f"{reason}; use a method that models a signed distance, or ns-export for a cloud of points")


def mesh_of(
    surface: Surface, options: MeshOptions, tick: Callable[[float], object] = lambda _: None
) -> tuple[Mesh, dict[str, Any]]:
    """The surface's mesh in the scene frame, and what is to be known of it.

    Raises:
        Infeasible: As ``extract``; or a normal or colour is not a number.
    """
    device = surface.aabb.device
    chunk = CHUNK[device.type if device.type in CHUNK else "cuda"]

    def sdf(points: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return surface.sdf(torch.from_numpy(points).to(device)).reshape(-1).float().cpu().numpy()

    box = surface.aabb.detach().cpu().numpy().astype(np.float64)
    found = extract(sdf, box, options.resolution, chunk, tick)
    vertices, faces, parts = keep_components(found.vertices, found.faces, options.min_component)
    normals, colours = _appearance(surface, vertices, max(chunk // COLOURS_AT_ONCE, 1))
    mesh = Mesh(vertices, faces, normals, colours)
    return mesh, {
        "vertices": len(vertices),
        "faces": len(faces),
        "components": int((parts > 0).sum()),
        "components_dropped": int((parts <= 0).sum()),
        "watertight": bool(as_trimesh(mesh).is_watertight),
        "resolution": options.resolution,
        "min_component": options.min_component,
        "level": 0.0,
        "samples": list(found.grid.shape),
        "cell_scene": found.grid.cell.tolist(),
        "aabb_scene": box.tolist(),
    }


def keep_components(vertices: np.ndarray, faces: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop the connected parts of a mesh with fewer than ``share`` of the largest part's faces.

    Args:
        vertices: ``[v, 3]``.
        faces: ``[f, 3]``, at least one; every vertex belongs to one.
        share: In [0, 1]; 0 drops nothing.

    Returns:
        Vertices and faces that are left, and of every part the number of its faces, negative where it was dropped.
    """
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    edges = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(len(vertices),) * 2)
    _, part = connected_components(edges, directed=False)
    sizes = np.bincount(part[faces[:, 0]])
    keep = sizes >= share * sizes.max()
    kept = keep[part]
    number = np.cumsum(kept) - 1
    return vertices[kept], number[faces[kept[faces[:, 0]]]], np.where(keep, sizes, -sizes)


def _appearance(surface: Surface, vertices: np.ndarray, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals ``[v, 3]`` and 8-bit colours ``[v, 3]`` of points on the surface."""
    normals, colours = np.empty((len(vertices), 3)), np.empty((len(vertices), 3), np.uint8)
    for start in range(0, len(vertices), chunk):
        part = slice(start, start + chunk)
        points = torch.from_numpy(vertices[part].astype(np.float32)).to(surface.aabb.device)
        with torch.enable_grad():
            normal = surface.normal(points).detach()
        with torch.no_grad():
            colour = surface.colour(points, normal).float().clamp(0, 1)
        if not bool(torch.isfinite(normal).all() and torch.isfinite(colour).all()):
            raise Infeasible("the model's surface has normals or colours that are not numbers: its training failed")
        normals[part] = normal.cpu().numpy()
        colours[part] = (colour * 255).round().byte().cpu().numpy()
    return normals, colours


@dataclass(frozen=True)
class _World:
    """The frame that a mesh is written in.

    Attributes:
        from_scene: Map from the scene frame.
        name: ``world``; or ``scene`` of a dataset that was copied out, without its scene.
        unit: Of lengths, where it is known.
    """

    from_scene: Sim3
    name: str
    unit: str | None


def _world(scene: SceneFiles) -> _World:
    if not scene.reference_poses.is_file():
        return _World(IDENTITY, "scene", None)
    return _World(world_from_scene(scene), "world", "metre" if is_synthetic(scene) else None)


def _bounds(vertices: np.ndarray) -> list[list[float]]:
    return [vertices.min(axis=0).tolist(), vertices.max(axis=0).tolist()]
