"""What makes a training go on as if it had not stopped, besides what nerfstudio's checkpoints hold.

nerfstudio stores parameters, buffers, optimisers, schedulers and the gradient scaler. Its models and data managers also
count in plain attributes (the proposal sampler's steps since its last update, the number of rays the pixel sampler
draws), and all of them draw from the global generators.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from nerfstudio.data.pixel_samplers import PixelSampler
from torch import nn

EXACT = ("nerfacto", "mipnerf", "vanilla-nerf", "tensorf", "hash-nerf", "neus-hash")
"""Methods for which resuming on a CPU is tested to change nothing; others may keep state of their own elsewhere."""


@dataclass(frozen=True)
class Moment:
    """What a forward pass changes besides gradients, as it is before one.

    Attributes:
        step: The next step, 0-based.
        begun: Whether that step's first callbacks have run.
        generators: States of Python's, NumPy's and torch's generators.
        attributes: Plain attributes that differ from a fresh build's, by the holder's name.
        gradients: Of parameters that a later step will add to, by name; empty without accumulation.
    """

    step: int
    begun: bool
    generators: dict[str, Any]
    attributes: dict[str, dict[str, Any]]
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Everything but the step, for a checkpoint."""
        return {name: getattr(self, name) for name in ("begun", "generators", "attributes", "gradients")}


def generators() -> dict[str, Any]:
    """States of the global generators as plain values and tensors."""
    version, words, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    state = {
        "python": [version, list(words), gauss],
        "numpy": {
            "key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "pos": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_generators(state: dict[str, Any]) -> None:
    """Put the global generators back to ``generators()``."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy = state["numpy"]
    key = numpy["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def attributes(root: nn.Module) -> dict[str, dict[str, Any]]:
    """Numbers, words and lists of them that modules and pixel samplers keep outside their state dict, by name."""
    return {name: found for name, holder in _holders(root) if (found := _plain_attributes(holder))}


def changed(now: dict[str, dict[str, Any]], fresh: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What differs between two results of ``attributes``: values of the first."""
    found = {}
    for name, values in now.items():
        before = fresh.get(name, {})
        if new := {k: v for k, v in values.items() if k not in before or not _same(before[k], v)}:
            found[name] = new
    return found


def set_attributes(root: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Put attributes back."""
    for name, holder in _holders(root):
        for key, value in state.get(name, {}).items():
            own = vars(holder).get(key)
            if isinstance(own, random.Random):
                version, words, gauss = value["random"]
                own.setstate((version, tuple(words), gauss))
            elif isinstance(value, dict):
                vars(holder)[key] = np.dtype(value["numpy"]).type(value["value"])
            else:
                vars(holder)[key] = value


def fit_shapes(root: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Give parameters that grow or shrink in training the shapes they are to be loaded with."""
    for name, parameter in list(root.named_parameters()):
        if name in state and state[name].shape != parameter.shape:
            path, _, leaf = name.rpartition(".")
            value = torch.empty(state[name].shape, dtype=parameter.dtype, device=parameter.device)
            root.get_submodule(path)._parameters[leaf] = nn.Parameter(value)


def _holders(root: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in root.named_modules():
        yield name, module
        for key, value in vars(module).items():
            if isinstance(value, PixelSampler):
                yield f"{name}:{key}", value


def _plain_attributes(holder: Any) -> dict[str, Any]:
    found = {}
    for key, value in vars(holder).items():
        if isinstance(value, random.Random):
            version, words, gauss = value.getstate()
            found[key] = {"random": [version, list(words), gauss]}
        elif isinstance(value, np.bool_ | np.number):  # as np.clip leaves them, in nerfacto's annealing for one
            found[key] = {"numpy": value.dtype.name, "value": value.item()}
        elif key != "training" and _is_plain(value):
            found[key] = list(value) if isinstance(value, list) else value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and (a == b or (a != a and b != b))
