"""The surface of a run: its mesh, and how that compares with the true one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from fieldbook.commands.common import Again, RunDir, load_spec
from fieldbook.documents import COMPARED, RUN, read_document
from fieldbook.errors import UserError
from fieldbook.gpus import take_gpu
from fieldbook.layout import DatasetFiles, RunFiles
from fieldbook.stage import Keep, run_stage
from fieldbook.status import Status
from methods.external.template import runs_commands

Keys = Annotated[str, arg(help="The study's keys mesh, device and torch_threads, as JSON or @FILE.", metavar="JSON")]
Geometry = Annotated[str, arg(help="The study's key geometry and the scene's key surface, as JSON.", metavar="JSON")]
Resolution = Annotated[int | None, arg(help="Samples along the longest side; in place of the spec's [256].")]
Share = Annotated[float | None, arg(help="Drop parts with fewer than this share of the largest part's faces [0].")]


def mesh(
    run: RunDir, spec: Keys = "{}", resolution: Resolution = None, min_component: Share = None, again: Again = False
) -> Status:
    """Take the surface of a trained run as a mesh with colours, in world units: mesh.ply, mesh.glb and mesh.obj.

    Example: fieldbook mesh RUN --resolution 512
    """
    files, data = RunFiles(run), DatasetFiles(run.parent.parent)
    typed = {"resolution": resolution, "min_component": min_component}
    keys = _mesh_keys(spec, {name: value for name, value in typed.items() if value is not None})
    _refuse_others(files)

    def made_from() -> str:
        from methods.runner.identity import mesh_identity

        return mesh_identity(files, data, keys)

    def intact(numbers: dict[str, Any]) -> bool:
        from methods.runner.mesh import is_meshed

        return is_meshed(files, numbers)

    def work() -> dict[str, Any]:
        from methods.runner.mesh import make_mesh

        return make_mesh(files, data, keys)

    keep = None if again else Keep(made_from, intact)
    prepare = lambda: take_gpu(keys.get("device", "auto"))  # noqa: E731
    status = run_stage("mesh", run, work, [files.status("train")], keep=keep, prepare=prepare)
    return _told(status, files.mesh, "vertices", "faces", "components")


def geometry(run: RunDir, spec: Geometry | None = None) -> Status:
    """Compare a run's mesh with the scene's true surface: distances, F-scores, normals, into geometry.json.

    Without a spec it is compared as at the last time, if there was one.

    Example: fieldbook geometry RUN --spec '{"surface": {"path": "truth.ply", "space": "world"}}'
    """
    files, data = RunFiles(run), DatasetFiles(run.parent.parent)
    keys = _geometry_keys(spec, files)

    def work() -> dict[str, Any]:
        from eval.geometry_stage import compare_run

        return compare_run(files, data, keys)

    return _told(run_stage("geometry", run, work, [files.status("mesh")]), files.geometry, "chamfer_world", "fscore")


def _mesh_keys(spec: str, typed: dict[str, Any]) -> dict[str, Any]:
    from fieldbook.config import study_keys

    keys = study_keys(load_spec(spec), "mesh")
    return study_keys(keys | {"mesh": keys["mesh"] | typed})


def _geometry_keys(spec: str | None, files: RunFiles) -> dict[str, Any]:
    from fieldbook.config import scene_keys, study_keys

    keys = {} if spec is None else load_spec(spec)
    if spec is None and files.geometry.is_file():  # a study's comparison is not to be lost by a look at it
        keys = read_document(files.geometry, COMPARED).get("settings", {})
    return scene_keys(study_keys(keys, "geometry"), "surface")


def _told(status: Status, path: Path, *names: str) -> Status:
    """The status; a person who typed the command reads where the result is and its main numbers."""
    if status.ok:
        numbers = [f"{name} {status.numbers[name]:.6g}" for name in names if status.numbers.get(name) is not None]
        print(f"{path}: {', '.join(numbers) or status.numbers.get('geometry')}")
    return status


def _refuse_others(files: RunFiles) -> None:
    """Refuse runs that no model of ours is behind.

    Raises:
        UserError: It is a nerfstudio run of another origin, or one of commands.
    """
    if not files.run.is_file():
        if files.config.is_file():
            text = f"{files.root} is a nerfstudio run that Fieldbook did not train"
            raise UserError(f"{text}: its surface cannot be read without running its config.yml; use ns-export")
        return
    if runs_commands(read_document(files.run, RUN).get("spec", {})):
        raise UserError(f"{files.root} is a run of an external method: only its commands know its surface")
