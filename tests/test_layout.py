"""The flat packages are ours, their arrows point one way, and the cheap entry points stay cheap."""

import ast
import importlib.util
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PACKAGES = ("fieldbook", "data", "methods", "camera_paths", "eval", "reports")
# What each package may import; fieldbook's own glue (study, scenes, cli) stands above all of them.
BASE = {
    *("files", "errors", "layout", "status", "ledger", "stage", "machine", "gpus", "versions", "shapes", "documents"),
    *("locks", "safe_yaml"),
}
MAY_IMPORT = {
    "data": {"camera_paths"},
    "camera_paths": {"data"},
    "methods": {"data", "camera_paths"},
    "eval": {"data", "camera_paths", "methods"},
    "reports": {"data", "camera_paths", "methods", "eval"},
}


@pytest.mark.parametrize("name", PACKAGES)
def test_top_level_names_resolve_to_this_checkout(name, repository):
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert Path(spec.origin).is_relative_to(repository)
    assert packages_distributions().get(name, ["radiance-fieldbook"]) == ["radiance-fieldbook"]


def imports_of(source: Path) -> list[str]:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] if node.module != "fieldbook" else [f"fieldbook.{a.name}" for a in node.names]
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages_point_one_way(package, repository):
    for source in (repository / package).rglob("*.py"):
        for name in imports_of(source):
            top, _, rest = name.partition(".")
            if top == "fieldbook":
                assert rest.split(".")[0] in BASE, f"{source}: imports {name}"
            elif top in PACKAGES and top != package:
                assert top in MAY_IMPORT[package], f"{source}: imports {name}"


def test_nobody_imports_eval_as_a_bare_name_or_the_workflow_folder(repository):
    for package in PACKAGES:
        for source in (repository / package).rglob("*.py"):
            assert "eval" not in imports_of(source)
            assert not any(name.split(".")[0] == "workflow" for name in imports_of(source))
    assert not (repository / "workflow" / "__init__.py").exists()
    assert not list((repository / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("module", ["fieldbook.cli", "fieldbook.scenes", "fieldbook.study", "methods.runner.config"])
def test_cheap_modules_import_neither_torch_nor_a_model(module):
    heavy = "('torch', 'nerfstudio.models', 'pycolmap', 'cv2', 'plotly', 'mlflow')"
    if module == "methods.runner.config":  # nerfstudio itself is loaded by then, and it imports torch and cv2
        heavy = "('nerfstudio.models', 'pycolmap', 'plotly', 'mlflow')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lock_and_environment_name_no_registry_and_agree(repository):
    lock = (repository / "requirements.lock").read_text()
    environment = (repository / "workflow/envs/fieldbook.yaml").read_text()
    pins = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert "://" not in lock + environment
    assert all("==" in pin for pin in pins)
    assert [line[8:] for line in environment.splitlines() if line.startswith("      - ")] == pins


def test_one_opencv_and_no_open3d(repository):
    lock = (repository / "requirements.lock").read_text()
    assert "\nopencv-python-headless==" in lock
    assert "\nopencv-python==" not in lock
    assert "\nopen3d==" not in lock
