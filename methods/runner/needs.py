"""What a method needs of the scene and of the machine, checked before anything is loaded."""

from __future__ import annotations

import importlib
import importlib.util

from fieldbook.errors import Infeasible
from methods.presets import SCENE_NEEDS, method_entry

KERNELS = {"gsplat": "gsplat.cuda._backend", "nerfacc": "nerfacc.cuda._backend"}
"""Where a package keeps its compiled extension, as ``_C``."""


def check_needs(method: str, device: str, gives: frozenset[str]) -> None:
    """Check what the method needs of the scene and of the machine.

    Args:
        method: Name in nerfstudio's registry.
        device: ``cpu`` or ``cuda``.
        gives: What the dataset has, of ``SCENE_NEEDS``.

    Raises:
        Infeasible: The scene lacks something, or a GPU or a compiled package is missing.
    """
    lacks = [n for n in method_entry(method).needs if n in SCENE_NEEDS and n not in gives]
    if lacks:
        words = " and ".join(SCENE_NEEDS[n] for n in lacks)
        numbers = {"lacks": lacks, "gives": sorted(gives)}
        raise Infeasible(f"{method} needs {words}, which this scene does not have", numbers)
    check_machine(method, device)


def check_machine(method: str, device: str) -> None:
    """Check what the method needs of the machine.

    Raises:
        Infeasible: A GPU or a compiled package is missing.
    """
    needs = method_entry(method).needs
    if "tinycudann" in needs and importlib.util.find_spec("tinycudann") is None:
        raise Infeasible(f"{method} needs tiny-cuda-nn, which no package registry has; build it from source")
    packages = [k for k in KERNELS if k in needs]
    if "gpu" in needs and device != "cuda":
        kernels = f" ({packages[0]}'s kernels)" if packages else ""
        raise Infeasible(f"{method} needs a CUDA GPU{kernels}; the device is {device}", {"device": device})
    for package in packages if device == "cuda" else ():
        problem = kernels_problem(package)
        if problem:
            raise Infeasible(f"{method} needs {package}'s CUDA kernels: {problem}", {"device": device})


def kernels_problem(package: str) -> str:
    """Why a package's compiled extension cannot be used; empty where it can.

    Where no compiled one came with the package and the CUDA toolkit is there, the import builds it, once per machine.

    Args:
        package: One of ``KERNELS``.
    """
    try:
        backend = importlib.import_module(KERNELS[package])
    except (ImportError, OSError, RuntimeError) as error:  # what a missing, a foreign and a failed build raise
        return (str(error).splitlines() or [type(error).__name__])[0]
    if backend._C is None:
        return "they are not compiled, and there is no CUDA toolkit (nvcc) to do it with"
    return ""
