"""What a method needs of a scene or machine is said before anything is loaded, as a result with its reason."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from fieldbook.errors import Infeasible
from methods.runner.needs import KERNELS, check_needs, kernels_problem

POSES = frozenset({"poses"})
BACKENDS = [("splatfacto", "gsplat"), ("splatfacto-big", "gsplat"), ("instant-ngp", "nerfacc")]


def _put_backend(patch: pytest.MonkeyPatch, package: str, extension: object) -> None:
    backend = ModuleType(KERNELS[package])
    backend._C = extension  # pyright: ignore[reportAttributeAccessIssue]
    patch.setitem(sys.modules, KERNELS[package], backend)


@pytest.mark.parametrize(
    ("method", "lacks", "words"),
    [
        ("depth-nerfacto", ["depth"], "depth maps"),
        ("dnerf", ["time"], "a time for every picture"),
        ("generfacto", ["prompt"], "a text prompt"),
        ("phototourism", ["photo-collection"], "a collection of photographs"),
        ("semantic-nerfw", ["semantics"], "semantic label maps"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_the_scene_lacks_is_the_reason(method: str, lacks: list[str], words: str, device: str):
    gives = POSES | {"masks"}
    with pytest.raises(Infeasible, match=f"^{method} needs {words}.*, which this scene does not have$") as caught:
        check_needs(method, device, gives)
    assert caught.value.numbers == {"lacks": lacks, "gives": ["masks", "poses"]}
    if method != "generfacto" or device == "cuda":
        check_needs(method, device, gives | set(lacks))


@pytest.mark.parametrize("method", ["nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "somebodys-nerf"])
def test_a_method_that_needs_poses_alone_runs_anywhere(method: str):
    check_needs(method, "cpu", POSES)
    with pytest.raises(Infeasible, match="a pose for every picture"):
        check_needs(method, "cpu", frozenset())


@pytest.mark.parametrize(("method", "package"), BACKENDS)
def test_a_gpu_without_the_compiled_extension_is_infeasible(monkeypatch: pytest.MonkeyPatch, method: str, package: str):
    _put_backend(monkeypatch, package, None)
    with pytest.raises(Infeasible, match=f"^{method} needs {package}'s CUDA kernels: they are not compiled"):
        check_needs(method, "cuda", POSES)
    _put_backend(monkeypatch, package, SimpleNamespace())
    check_needs(method, "cuda", POSES)


@pytest.mark.parametrize("package", list(KERNELS))
@pytest.mark.parametrize(
    "error", [ImportError("undefined symbol: x\nmore"), RuntimeError("Error building extension"), OSError("CUDA_HOME")]
)
def test_an_extension_that_fails_to_load_says_why_in_one_line(
    monkeypatch: pytest.MonkeyPatch, package: str, error: Exception
):
    def fail(_: str) -> ModuleType:
        raise error

    monkeypatch.setattr("methods.runner.needs.importlib.import_module", fail)
    assert kernels_problem(package) == str(error).splitlines()[0]


@pytest.mark.parametrize("package", list(KERNELS))
def test_the_package_that_is_installed_keeps_its_extension_where_we_look(package: str):
    found = find_spec(package)
    assert found is not None
    assert found.submodule_search_locations is not None
    module = Path(found.submodule_search_locations[0], *KERNELS[package].split(".")[1:]).with_suffix(".py")
    assert "import csrc as _C" in module.read_text()


@pytest.mark.parametrize(("method", "package"), BACKENDS)
def test_without_a_gpu_no_extension_is_looked_for(monkeypatch: pytest.MonkeyPatch, method: str, package: str):
    monkeypatch.setattr("methods.runner.needs.kernels_problem", lambda _: pytest.fail("looked"))
    with pytest.raises(Infeasible, match=f"needs a CUDA GPU \\({package}'s kernels\\); the device is cpu"):
        check_needs(method, "cpu", POSES)
