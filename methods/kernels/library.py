"""The compiled libraries, loaded when first needed; without one, the torch twins run."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

from methods.kernels.build import BuildError, Kind, build

log = logging.getLogger(__name__)


@functools.cache
def load(kind: Kind) -> Any:
    """The op namespace of a library, built if it is not in the cache.

    Raises:
        BuildError: It could not be built or loaded.
    """
    if kind == "cuda" and not torch.cuda.is_available():
        raise BuildError("torch finds no CUDA device")
    path = build(kind)
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load: {error}") from error
    return getattr(torch.ops, f"fieldbook_{kind}")


@functools.cache
def compiled(device: str) -> Any:
    """The op namespace for a device type, or None with one warning where there is none: the twins run then.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    if device not in ("cpu", "cuda"):
        return None
    try:
        return load(device)
    except BuildError as error:
        log.warning("kernels for %s: %s; the slower torch versions run instead", device, error)
        return None


@torch.compiler.assume_constant_result
def has_kernels(device: str) -> bool:
    """Whether the compiled kernels run on a device type; a constant to ``torch.compile``."""
    return compiled(device) is not None
