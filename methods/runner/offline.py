"""Guards round nerfstudio: no downloads while a model is built, no chatter on the console."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import rich
import torch

from methods.runner.on_demand import put_off

LPIPS = "LearnedPerceptualImagePatchSimilarity"

# Third-party remarks that a user of Fieldbook can do nothing about.
_CHATTER = (
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"This DataLoader will create \d+ worker processes in total",
    r"Using a non-tuple sequence for multidimensional indexing is deprecated",
)


class NoLpips(torch.nn.Module):
    """Stands where nerfstudio's models hold a perceptual metric whose weights they would download."""

    def __init__(self, **_: Any):
        super().__init__()

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        """Refuse: Fieldbook's own metrics score the pictures."""
        raise RuntimeError("LPIPS is not computed inside the model; score the run with `fieldbook score`")


@contextmanager
def without_downloads(model: Any = None) -> Iterator[None]:
    """Let every model constructor find ``NoLpips`` in place of torchmetrics' LPIPS.

    Models take the class from torchmetrics when they are built, or hold it as a name of their module; both are
    covered, for plugins too.

    Args:
        model: Config of what is built. For nerfstudio's own and ours, of which it is known what they use, torchmetrics
            need not be imported.
    """
    built = getattr(getattr(model, "_target", None), "__module__", "")
    with put_off() if built.startswith(("nerfstudio.", "methods.")) else nullcontext():
        importlib.import_module("torchmetrics.image.lpip")
        holders = {m: m.__dict__[LPIPS] for m in list(sys.modules.values()) if LPIPS in getattr(m, "__dict__", {})}
        for module in holders:
            setattr(module, LPIPS, NoLpips)
        try:
            yield
        finally:
            for module, real in holders.items():
                setattr(module, LPIPS, real)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence nerfstudio's consoles and the remarks in ``_CHATTER``."""
    from nerfstudio.utils.rich_utils import CONSOLE

    consoles = [CONSOLE, rich.get_console()]
    before = [c.quiet for c in consoles]
    with warnings.catch_warnings():
        for message in _CHATTER:
            warnings.filterwarnings("ignore", message=message)
        for console in consoles:
            console.quiet = True
        try:
            yield
        finally:
            for console, was in zip(consoles, before, strict=True):
                console.quiet = was
