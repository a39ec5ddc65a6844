"""Twin of ``methods.kernels.mlp``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def mlp(x: Tensor, weights: Sequence[Tensor], shared: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """Linear layers ``[outputs, inputs]`` with a ReLU between them, of ``[x, shared[index]]``."""
    if shared is not None and index is not None:
        x = torch.cat([x, shared[index]], dim=-1)
    for weight in weights[:-1]:
        x = F.relu(F.linear(x, weight))
    return F.linear(x, weights[-1])
