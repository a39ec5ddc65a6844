"""nerfstudio's methods by name, without what a headless process never uses.

Every stage of every run is a process of its own, and importing all of nerfstudio takes longer than some of them work:
its viewers (which bring splatfacto and torch's compiler) and the table of all methods (which builds the command line
of ``ns-train``) are half of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from fieldbook.errors import UserError, nearest

_VIEWERS = {"nerfstudio.viewer.viewer": "Viewer", "nerfstudio.viewer_legacy.server.viewer_state": "ViewerLegacyState"}


def _on_demand(module: str, name: str) -> Any:
    """A class that is imported when an object of it is made after all."""

    def make(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return make


@contextmanager
def _viewers_on_demand() -> Iterator[None]:
    """Let modules that are imported meanwhile find stand-ins in the viewers' places."""
    absent = {module: name for module, name in _VIEWERS.items() if module not in sys.modules}
    for module, name in absent.items():
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], name, _on_demand(module, name))
    try:
        yield
    finally:
        for module in absent:
            del sys.modules[module]


with _viewers_on_demand():
    from nerfstudio.engine.trainer import TrainerConfig
    from nerfstudio.plugins.types import MethodSpecification

__all__ = ["TrainerConfig", "method_config"]


def method_config(method: str) -> TrainerConfig:
    """A fresh copy of a registered method's config.

    Raises:
        UserError: No such method, or nerfstudio knows only its name (the package is not installed).
    """
    return deepcopy(_plugin(method) or _listed(method))


def _plugin(method: str) -> TrainerConfig | None:
    """The config behind the entry point of the method's name, which comes before a method of nerfstudio's own."""
    if "NERFSTUDIO_METHOD_CONFIGS" in os.environ:  # may put another method under the name
        return None
    for entry in entry_points(group="nerfstudio.method_configs", name=method):
        specification = entry.load()
        if isinstance(specification, MethodSpecification) and specification.config.method_name == method:
            return specification.config
    return None


def _listed(method: str) -> TrainerConfig:
    from nerfstudio.configs.external_methods import ExternalMethodDummyTrainerConfig
    from nerfstudio.configs.method_configs import all_methods

    known = {k: v for k, v in all_methods.items() if not isinstance(v, ExternalMethodDummyTrainerConfig)}
    if method in known:
        return known[method]
    if method in all_methods:
        raise UserError(f"method {method!r} is an external package that is not installed; install it first")
    raise UserError(f"no method {method!r}; {nearest(method, known)}")
