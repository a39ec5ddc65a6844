"""nerfstudio's methods by name, without the rest of nerfstudio."""

from __future__ import annotations

import ast
import builtins
import os
from copy import deepcopy
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fieldbook.errors import UserError, nearest
from methods.runner.on_demand import put_off, put_off_compiler

put_off_compiler()
with put_off():
    from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
    from nerfstudio.engine.optimizers import Optimizers
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.plugins.types import MethodSpecification

__all__ = ["Optimizers", "TrainerConfig", "TrainingCallbackAttributes", "TrainingCallbackLocation", "method_config"]


def method_config(method: str) -> TrainerConfig:
    """A fresh copy of a registered method's config.

    Raises:
        UserError: No such method, or nerfstudio knows only its name (the package is not installed).
    """
    return deepcopy(_plugin(method) or _alone(method) or _listed(method))


def _plugin(method: str) -> TrainerConfig | None:
    """The config behind the entry point of the method's name, which comes before a method of nerfstudio's own."""
    if "NERFSTUDIO_METHOD_CONFIGS" in os.environ:  # may put another method under the name
        return None
    for entry in entry_points(group="nerfstudio.method_configs", name=method):
        specification = entry.load()
        if isinstance(specification, MethodSpecification) and specification.config.method_name == method:
            return specification.config
    return None


def _alone(method: str) -> TrainerConfig | None:
    """The config of one of nerfstudio's own methods, from its statement and its imports in nerfstudio's table.

    Importing the table imports every model, every plugin and torch's compiler, and builds the command line of
    ``ns-train``. None where the table does not consist of such statements, or others have a say.
    """
    spec = find_spec("nerfstudio.configs.method_configs")
    if "NERFSTUDIO_METHOD_CONFIGS" in os.environ or spec is None or spec.origin is None:
        return None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    target = f"method_configs[{method!r}]"
    made = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == target]
    if len(made) != 1:
        return None
    names = {node.id for node in ast.walk(made[0].value) if isinstance(node, ast.Name)} - set(dir(builtins))
    imports = [n for n in body if isinstance(n, ast.Import | ast.ImportFrom) and names & set(map(_bound, n.names))]
    if names - {_bound(alias) for node in imports for alias in node.names}:
        return None
    found: dict[str, Any] = {"method_configs": {}}
    with put_off():
        exec(compile(ast.Module([*imports, made[0]], []), spec.origin, "exec"), found)  # nerfstudio's own source
    return found["method_configs"][method]


def _bound(alias: ast.alias) -> str:
    """The name that an import gives to what it imports."""
    return alias.asname or alias.name.partition(".")[0]


def _listed(method: str) -> TrainerConfig:
    from nerfstudio.configs.external_methods import ExternalMethodDummyTrainerConfig
    from nerfstudio.configs.method_configs import all_methods

    known = {k: v for k, v in all_methods.items() if not isinstance(v, ExternalMethodDummyTrainerConfig)}
    if method in known:
        return known[method]
    if method in all_methods:
        raise UserError(f"method {method!r} is an external package that is not installed; install it first")
    raise UserError(f"no method {method!r}; {nearest(method, known)}")
