"""What a model that has a surface offers to whoever takes its mesh: ``model.surface() -> Surface``.

Import-light: a method's model imports this, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Surface:
    """The zero level of a signed distance, in the scene frame.

    The functions take at most some millions of points at once, on the device of ``aabb``, and are called on a model in
    evaluation mode. ``sdf`` and ``colour`` are called without gradients, ``normal`` with them.

    Attributes:
        aabb: ``[2, 3]`` lowest and highest corner of the box that holds the surface.
        sdf: Points ``[n, 3]`` to signed distances ``[n]``, positive outside.
        normal: Points ``[n, 3]`` to unit vectors ``[n, 3]``, outward: the normalised gradient of ``sdf``.
        colour: Points ``[n, 3]`` and their normals ``[n, 3]`` to RGB ``[n, 3]`` in [0, 1], as seen along the negative
            normal.
    """

    aabb: Tensor
    sdf: Callable[[Tensor], Tensor]
    normal: Callable[[Tensor], Tensor]
    colour: Callable[[Tensor, Tensor], Tensor]
