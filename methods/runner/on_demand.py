"""Imports that a headless process of ours never needs, put off until something of them is used after all.

Every stage of every run is a process of its own, and importing all that nerfstudio mentions takes longer than some of
them work: viewers, torchvision, torchmetrics, matplotlib, TensorBoard, torch's compiler.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import torch

_LOCK = threading.RLock()
_COMPILER = "torch._dynamo"
_WHOLE = ("viser", "viser.transforms", "torchvision", "torchvision.utils", "matplotlib")
_NAMES = {  # what modules take out of others by name, though few ever call it
    "nerfstudio.viewer.viewer": ("Viewer",),
    "nerfstudio.viewer_legacy.server.viewer_state": ("ViewerLegacyState",),
    "torch.utils.tensorboard": ("SummaryWriter",),
    "torchmetrics": (),
    "torchmetrics.functional": ("structural_similarity_index_measure",),
    "torchmetrics.image": ("LearnedPerceptualImagePatchSimilarity",),
    "torchmetrics.image.lpip": ("LearnedPerceptualImagePatchSimilarity",),
}


class Psnr(torch.nn.Module):
    """The peak signal-to-noise ratio that nerfstudio's models look at in every step, without torchmetrics.

    Args:
        data_range: Largest value less the smallest.
    """

    def __init__(self, data_range: float = 1.0):
        super().__init__()
        self.data_range = data_range

    def forward(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """10 log10(data_range^2 / MSE) over all elements, in dB, as ``torchmetrics.image.PeakSignalNoiseRatio``."""
        return 10 * torch.log10(self.data_range**2 / torch.nn.functional.mse_loss(preds, target))


class _Later(ModuleType):
    """Stands in a module's place, and imports it when asked for a name that is not ``given``."""

    def __init__(self, name: str, **given: Any):
        super().__init__(name)
        self.__dict__.update(given, __spec__=ModuleSpec(name, None), __path__=[])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__version__", "__all__"):  # of those who look at all of sys.modules
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


class _Submodules(MetaPathFinder, Loader):
    """Finds modules below a stand-in: in the package itself, where most of them come with it."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        parent = fullname.rpartition(".")[0]
        if not isinstance(sys.modules.get(parent), _Later):
            return None
        real = _real(parent)
        if there := sys.modules.get(fullname):
            return ModuleSpec(fullname, self, loader_state=there.__spec__)
        return PathFinder.find_spec(fullname, real.__path__)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _real(name: str) -> ModuleType:
    """Import a module itself; stand-ins make way for it, those of the packages round it too."""
    with _LOCK:
        for other, module in list(sys.modules.items()):
            if isinstance(module, _Later) and _package(other) == _package(name):
                del sys.modules[other]
        return import_module(name)


def _package(name: str) -> str:
    """What is imported as one; of packages that are there anyway, the module alone."""
    return name if name.startswith(("torch.", "nerfstudio.")) else name.partition(".")[0]


def _call(module: str, name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_real(module), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


def _stand_ins() -> dict[str, _Later]:
    found = {name: _Later(name) for name in _WHOLE}
    for name, names in _NAMES.items():
        found[name] = _Later(name, **{n: _call(name, n) for n in names})
    found["torchmetrics.image"].__dict__["PeakSignalNoiseRatio"] = Psnr
    for name, module in found.items():
        parent, _, child = name.rpartition(".")
        if parent in found:
            setattr(found[parent], child, module)
    return found


@contextmanager
def put_off() -> Iterator[None]:
    """Let what is imported and built meanwhile find stand-ins for what nobody has imported so far."""
    absent = {k: v for k, v in _stand_ins().items() if k not in sys.modules}
    finder = _Submodules()
    sys.modules |= absent
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in absent.items():
            if sys.modules.get(name) is module:
                sys.modules.pop(name, None)


def put_off_compiler() -> None:
    """Let torch's optimisers and custom operators run without importing ``torch._dynamo``, until somebody compiles.

    They ask it, at their first call, to keep its hands off them: nothing to ask while it is not there.
    """
    if _COMPILER not in sys.modules:
        sys.meta_path.insert(0, _Submodules())
        sys.modules[_COMPILER] = _Later(
            _COMPILER, disable=_disable, graph_break=_graph_break, assume_constant_result=_constant_result
        )


def _graph_break(msg: str = "") -> None:
    """What it is outside of compiled code: nothing."""


def _constant_result(fn: Callable[..., Any]) -> Callable[..., Any]:
    fn._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess] - what the compiler looks for
    return fn


def _disable(fn: Any = None, *arguments: Any, **options: Any) -> Any:
    """As torch's own call it, with a function; for whoever else asks, the real one."""
    if not inspect.isfunction(fn) or options.get("wrapping", True):
        return _real(_COMPILER).disable(fn, *arguments, **options)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if isinstance(compiler := sys.modules.get(_COMPILER), _Later):
            return fn(*args, **kwargs)
        return (compiler or _real(_COMPILER)).disable(fn, *arguments, **options)(*args, **kwargs)

    return call
