"""Captures that came with their poses, as sources of frames."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.blender_source import BlenderSource
from data.colmap_capture import read_colmap
from data.colmap_model import read_given_model
from data.given import GivenCapture
from data.lens import lens_size, lens_to_json
from data.neus import read_neus
from data.readers import ImageSource, SourceFrame, check_decodes, image_luma, read_picture
from fieldbook.errors import UserError, nearest
from fieldbook.files import sha256_file


class GivenSource(ImageSource):
    """The pictures of a capture that has a camera and a pose for each, read by iterating.

    Args:
        content: What the capture says.

    Attributes:
        left_out: Pictures that are there and have no pose.
    """

    background = None

    def __init__(self, content: GivenCapture):
        self.content = content
        self.paths = [view.picture for view in content.views]
        self.left_out = content.left_out

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the pictures as they are stored, not turned, for that is how their cameras see them."""
        for view in self.content.views:
            picture = read_picture(view.picture, "RGB", upright=False)
            facts: dict[str, Any] = {"file_path": view.name}
            if "/" not in view.name:  # pictures of two folders may have one name
                facts["source"] = view.name
            facts |= {"lens": lens_to_json(view.lens), "transform_matrix": view.pose.tolist()}
            yield SourceFrame(view.index, None, picture, lambda picture=picture: image_luma(picture()), facts)

    def size(self) -> tuple[int, int]:
        """The most common ``(width, height)``; every file is decoded coarsely on the way.

        Raises:
            UserError: A file is damaged.
        """
        for path in self.paths:
            check_decodes(path)
        return Counter(lens_size(view.lens) for view in self.content.views).most_common(1)[0][0]

    def sha256(self) -> str:
        """Of the cameras' files and every picture, in hex."""
        digest = hashlib.sha256()
        for path in (*self.content.files, *self.paths):
            digest.update(f"{path.name} {sha256_file(path)}\n".encode())
        return digest.hexdigest()

    def index_facts(self, _size: tuple[int, int]) -> dict[str, Any]:
        """What ``raw.json`` says of all frames: their world, and the box that holds what is seen where there is one."""
        content = self.content
        box = {} if content.box is None else {"box": content.box.tolist(), "ball": content.ball}
        return {**box, "world": self.content.world.to_json()}

    def write_sparse(self, folder: Path, names: list[str]) -> None:
        """Write the COLMAP model that the poses are from, its images under the frames' names; nothing without one.

        Args:
            folder: Empty.
            names: Of the frames, in the order of the views.

        Raises:
            UserError: The model is damaged.
        """
        if self.content.sparse is None:
            return
        model = read_given_model(self.content.sparse)
        frames = dict(zip((view.name for view in self.content.views), names, strict=True))
        for image in model.images.values():
            image.name = frames[image.name]
        model.update_point_3d_errors()
        model.write(str(folder))


PosedSource = BlenderSource | GivenSource


def posed_source(path: Path, capture: dict[str, Any]) -> PosedSource:
    """Open a capture that came with its poses.

    Args:
        path: Its folder.
        capture: The scene's key: ``kind``, and for ``blender`` also ``background``.

    Raises:
        UserError: The folder is not what the kind says.
    """
    if capture["kind"] == "blender":
        return BlenderSource(path, capture["background"])
    return GivenSource(read_given(capture["kind"], path))


def read_given(kind: str, folder: Path) -> GivenCapture:
    """Read and check a folder whose cameras and poses are known; of pictures, only the headers are read.

    Raises:
        UserError: See ``read_neus`` and ``read_colmap``; or the kind is neither.
    """
    readers = {"neus": read_neus, "colmap": read_colmap}
    if kind not in readers:
        raise UserError(f"capture.kind {kind!r} has no poses; {nearest(kind, readers)}")
    return readers[kind](folder)
