"""Near and far: the planes a run was trained with, moved with the distance of views that are not the capture's.

Whatever opens a run's ``config.yml``, Fieldbook or one of nerfstudio's own tools, builds the model through
``KeptPlanes`` and so renders the same pictures.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

CAPTURE = "capture_poses"
"""Of a dataset's metadata: ``[n, 3, 4]`` float32, where the capture's cameras stood, held-out ones too."""

OBJECT_BOX = "object_box"
"""Of a dataset's metadata: ``[2, 3]`` float32, corners of the box that a capture says holds its object."""


@dataclass(frozen=True)
class KeptPlanes:
    """Stands in a config in place of a method's model, which it builds.

    Attributes:
        target: The method's own model, or what builds it.
    """

    target: Any

    def __call__(self, config: Any, **kwargs: Any) -> Any:
        """The model, whose ``get_outputs_for_camera`` renders between the planes described at ``Planes``."""
        model = self.target(config, **kwargs)
        planes = Planes(model, (kwargs.get("metadata") or {}).get(CAPTURE))
        own = model.get_outputs_for_camera

        @functools.wraps(own)
        def between_planes(camera: Any, *args: Any, **more: Any) -> Any:
            with planes.follow(camera.camera_to_worlds):
                return own(camera, *args, **more)

        model.get_outputs_for_camera = between_planes
        return model


def keep_planes(model: Any) -> None:
    """Let a nerfstudio ``ModelConfig`` build its model through ``KeptPlanes``."""
    if not isinstance(model._target, KeptPlanes):
        model._target = KeptPlanes(model._target)


class Planes:
    """The near and far planes between which a model samples rays, moved with a novel view's distance.

    The scene's unit is the median distance of the capture's cameras from the point of interest, the origin: a novel
    view that is closer takes the near plane with it, one that is further away pushes the far plane back. The capture's
    own cameras gave ``scene.json`` its near and far, and are rendered between them.

    Args:
        model: nerfstudio model; its collider or its config may hold ``near_plane`` and ``far_plane``. Models that
            intersect rays with the scene's box, or rasterise, have no such planes and are left alone.
        capture: Poses of the capture's cameras; ``None`` where they are not known: no view is then a novel one.
    """

    def __init__(self, model: Any, capture: torch.Tensor | None):
        collider: Any = getattr(model, "collider", None)
        candidates: tuple[Any, ...] = (collider, model.config)
        self._holders = [h for h in candidates if hasattr(h, "near_plane") and hasattr(h, "far_plane")]
        self._capture = capture
        # nerfstudio's collider drops the near plane to 0 outside training, where no ray was ever supervised: what
        # floats there would be rendered. Keep the plane the run was trained with.
        if hasattr(collider, "reset_near_plane"):
            collider.reset_near_plane = False

    @contextmanager
    def follow(self, poses: torch.Tensor) -> Iterator[None]:
        """Set the planes for a camera ``[1, 3, 4]``, and back afterwards."""
        distance = float(poses[0, :, 3].norm()) if self.is_novel(poses) else 1.0
        before = [(holder, holder.near_plane, holder.far_plane) for holder in self._holders]
        for holder, near, far in before:
            holder.near_plane, holder.far_plane = near * min(1.0, distance), far + max(0.0, distance - 1.0)
        try:
            yield
        finally:
            for holder, near, far in before:
                holder.near_plane, holder.far_plane = near, far

    def is_novel(self, poses: torch.Tensor) -> bool:
        """Whether no camera of the capture stood at ``[1, 3, 4]``."""
        if self._capture is None:
            return False
        return not bool((self._capture.to(poses) == poses).flatten(1).all(dim=1).any())
