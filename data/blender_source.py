"""Pictures and poses of a folder in Blender format, as frames of a capture."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.alpha import blend_uint8
from data.blender import BOX_HALF, read_blender
from data.given import IDENTITY
from data.pictures import has_alpha
from data.poses import Camera
from data.readers import ImageSource, SourceFrame, image_luma, read_picture
from fieldbook.files import sha256_file


class BlenderSource(ImageSource):
    """The training frames, then the test frames, read by iterating.

    Args:
        folder: In Blender format.
        background: What the pictures are to be seen before, where they have an alpha channel.

    Attributes:
        background: The same, or ``None`` where no picture has an alpha channel.
        left_out: Pictures that have no pose and would be passed over; there are none, for the files list them.

    Raises:
        UserError: See ``read_blender``; or a picture is damaged.
    """

    left_out = 0

    def __init__(self, folder: Path, background: str):
        self.content = read_blender(folder)
        self.paths = [frame.picture for frame in self.content.frames]
        self.background = background if any(map(has_alpha, self.paths)) else None

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames, ``[h, w, 4]`` with straight alpha if any of them has alpha, with what their file says."""
        for index, frame in enumerate(self.content.frames):
            picture = read_picture(frame.picture, "RGBA" if self.background else "RGB")
            facts = {"file_path": frame.file_path, "split": frame.split, "transform_matrix": frame.matrix}
            yield SourceFrame(index, None, picture, lambda picture=picture: image_luma(self._seen(picture())), facts)

    def _seen(self, picture: np.ndarray) -> np.ndarray:
        return blend_uint8(picture, self.background) if self.background else picture

    def sha256(self) -> str:
        """Of both files and every picture, in hex."""
        digest = hashlib.sha256()
        for path in (*self.content.transforms, *self.paths):
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
        return digest.hexdigest()

    def index_facts(self, size: tuple[int, int]) -> dict[str, Any]:
        """What ``raw.json`` says of all frames: the camera, the box that holds what is seen, and the background.

        Args:
            size: ``(width, height)`` of the pictures.
        """
        width, height = size
        focal = 0.5 * width / math.tan(0.5 * self.content.camera_angle_x)
        camera = Camera(width, height, focal, focal, width / 2, height / 2)
        box = [[-BOX_HALF] * 3, [BOX_HALF] * 3]
        return {"camera": camera.to_json(), "box": box, "background": self.background, "world": IDENTITY.to_json()}
