"""Read a COLMAP model, checked before COLMAP sees it: one of ours in binary form, or a capture's in either form.

COLMAP believes the counts and ids in its own files: a flipped bit makes it read for ever, ask for all memory, or end
the process. So the files are walked through first, by their format (COLMAP's ``scene/reconstruction_io_binary.cc``).
Text is turned into the same bytes beforehand.

Symbols: a file starts with the number of its records; ``point_of`` gives, for every key point of an image, the point
it sees; a track lists the key points that see one point.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import pycolmap
from scipy.spatial.transform import Rotation

from data.colmap_from_text import binary_cameras, binary_images, binary_points
from data.poses import matrix, opengl_from_opencv
from fieldbook.errors import UserError
from fieldbook.files import read_text
from fieldbook.shapes import LARGEST, MAX_SIDE, is_name

NO_POINT = np.uint64(2**64 - 1)
CAMERA_SENSOR = 0
PARTS = ("cameras", "images", "points3D")
LARGEST_TEXT = 1 << 33  # bytes of a model's text file: a hundred million observations
_T = TypeVar("_T")
_TRACK = np.dtype([("image", "<u4"), ("key_point", "<u4")])
_KEY_POINT = np.dtype([("xy", "<f8", 2), ("point", "<u8")])
_PARAMETERS = {
    int(model): len(pycolmap.Camera.create_from_model_id(1, model, 1.0, 1, 1).params)
    for name, model in pycolmap.CameraModelId.__members__.items()
    if name != "INVALID"
}


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    """What is wrong with a file."""


class _Records:
    """The bytes of a file, taken from front to back; never more than there are."""

    def __init__(self, path: Path, content: bytes | None = None):
        if content is None and not path.is_file():
            raise _Damaged(f"{path.name} is missing")
        self.name, self._bytes, self._at = path.name, path.read_bytes() if content is None else content, 0

    @property
    def content(self) -> bytes:
        return self._bytes

    def take(self, form: str) -> tuple[Any, ...]:
        """Little-endian values, as ``struct`` names them."""
        form = f"<{form}"
        return struct.unpack(form, self._next(struct.calcsize(form)))

    def count(self, smallest: int) -> int:
        """A number of records of at least ``smallest`` bytes, which must be there."""
        (count,) = self.take("Q")
        if count * smallest > len(self._bytes) - self._at:
            raise _Damaged(f"{self.name} counts {count} records, which its size cannot hold")
        return count

    def array(self, kind: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer(self._next(kind.itemsize * count), kind)

    def word(self) -> str:
        end = self._bytes.find(b"\0", self._at)
        if end < 0:
            raise _Damaged(f"{self.name} breaks off in a name")
        return self._next(end + 1 - self._at)[:-1].decode(errors="replace")

    def end(self) -> None:
        if self._at != len(self._bytes):
            raise _Damaged(f"{self.name} goes on after its last record")

    def _next(self, size: int) -> bytes:
        if size > len(self._bytes) - self._at:
            raise _Damaged(f"{self.name} breaks off")
        self._at += size
        return self._bytes[self._at - size : self._at]


@dataclass(frozen=True)
class GivenImage:
    """An image of a model.

    Attributes:
        name: Its picture: a path relative to the folder of the pictures.
        pose: ``world_from_camera`` ``[4, 4]``, OpenGL axes.
        camera: Its camera's id.
    """

    name: str
    pose: np.ndarray
    camera: int


@dataclass(frozen=True)
class _Images:
    """What other files refer to: ids in the order of the file, and the points of all their key points, end to end."""

    ids: np.ndarray
    first: np.ndarray
    point_of: np.ndarray
    given: list[GivenImage]


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """Read ``cameras.bin``, ``images.bin``, ``points3D.bin`` and, where they are, ``rigs.bin`` and ``frames.bin``.

    Raises:
        UserError: A file is missing or damaged; names it.
    """

    def read() -> pycolmap.Reconstruction:
        _check(folder)
        return pycolmap.Reconstruction(str(folder))

    return _whole(folder, read, "make it again with `fieldbook reference`")


def read_given_views(folder: Path) -> tuple[dict[int, pycolmap.Camera], list[GivenImage]]:
    """Cameras by id and images of a capture's model, binary or text; its points are not looked at.

    Raises:
        UserError: See ``read_given_model``.
    """

    def read() -> tuple[dict[int, pycolmap.Camera], list[GivenImage]]:
        cameras = _cameras(_given_part(folder, "cameras"))
        return cameras, _images(_given_part(folder, "images", key_points=False), set(cameras), is_path_below).given

    return _whole(folder, read, "export it again")


def read_given_model(folder: Path) -> pycolmap.Reconstruction:
    """Read a capture's model, ``{cameras,images,points3D}.bin``, or ``.txt`` where there is no ``.bin``.

    Rigs are left out: the pose of every image says all of them.

    Raises:
        UserError: A file is missing or damaged, or names a picture outside the folder of pictures.
    """

    def read() -> pycolmap.Reconstruction:
        parts = {name: _given_part(folder, name) for name in PARTS}
        images = _images(parts["images"], set(_cameras(parts["cameras"])), is_path_below)
        _check_points(parts["points3D"], images)
        with TemporaryDirectory() as plain:  # without files that were not checked
            for name, part in parts.items():
                (Path(plain) / f"{name}.bin").write_bytes(part.content)
            return pycolmap.Reconstruction(plain)

    return _whole(folder, read, "export it again")


def given_files(folder: Path) -> list[Path]:
    """The files that ``read_given_model`` reads; empty where the folder holds no model."""
    binary = [folder / f"{name}.bin" for name in PARTS]
    return next((f for f in (binary, [p.with_suffix(".txt") for p in binary]) if all(p.is_file() for p in f)), [])


def is_path_below(name: str) -> bool:
    """Whether a name is that of a file in a folder, or in a folder below it."""
    return len(name) <= 4 * 200 and all(map(is_name, name.split("/")))


def _given_part(folder: Path, name: str, key_points: bool = True) -> _Records:
    path = next((p for p in given_files(folder) if p.stem == name), None)
    if path is None:
        raise _Damaged(f"it has not all of {', '.join(PARTS)}, as .bin or as .txt")
    if path.suffix == ".bin":
        return _Records(path)
    text = read_text(path, LARGEST_TEXT)
    try:
        if name == "cameras":
            return _Records(path, binary_cameras(text))
        return _Records(path, binary_points(text) if name == "points3D" else binary_images(text, key_points))
    except ValueError as error:
        raise _Damaged(f"{path.name}: {error}") from None


def _whole(folder: Path, read: Callable[[], _T], remedy: str) -> _T:
    try:
        return read()
    except (_Damaged, OSError, RuntimeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} is not a whole COLMAP model: {reason}; {remedy}") from None


def _check(folder: Path) -> None:
    cameras = set(_cameras(_Records(folder / "cameras.bin")))
    images = _images(_Records(folder / "images.bin"), cameras, is_name)
    _check_points(_Records(folder / "points3D.bin"), images)
    if (folder / "rigs.bin").exists() or (folder / "frames.bin").exists():
        rigs = _rig_ids(_Records(folder / "rigs.bin"), cameras)
        _check_frames(_Records(folder / "frames.bin"), rigs, cameras, images)


def _cameras(file: _Records) -> dict[int, pycolmap.Camera]:
    ids, cameras = [], {}
    for _ in range(file.count(24)):
        camera, model, width, height = file.take("IiQQ")
        if model not in _PARAMETERS:
            raise _Damaged(f"camera {camera} has the unknown model {model}")
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise _Damaged(f"camera {camera} is {width}x{height}")
        parameters = file.take(f"{_PARAMETERS[model]}d")
        _require_finite(f"camera {camera}", parameters)
        if parameters[0] <= 0:
            raise _Damaged(f"camera {camera} has the focal length {parameters[0]}")
        ids.append(camera)
        cameras[camera] = _camera(model, width, height, parameters)
    file.end()
    _distinct("camera", ids)
    return cameras


def _camera(model: int, width: int, height: int, parameters: Iterable[float]) -> pycolmap.Camera:
    camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 1.0, width, height)
    camera.params = list(parameters)
    return camera


def _images(file: _Records, cameras: set[int], is_picture: Callable[[str], bool]) -> _Images:
    ids, given, points = [], [], [np.zeros(0, np.uint64)]
    for _ in range(file.count(73)):
        image, *pose, camera = file.take("I7dI")
        _check_pose(f"image {image}", pose)
        if camera not in cameras:
            raise _Damaged(f"image {image} is of camera {camera}, which is not there")
        name = file.word()
        if not is_picture(name):
            raise _Damaged(f"image {image} is called {name!r}, not the name of a file without a path that leads out")
        seen = file.array(_KEY_POINT, file.count(_KEY_POINT.itemsize))
        _require_finite(f"image {image}", seen["xy"])
        ids.append(image)
        given.append(GivenImage(name, _pose(pose), camera))
        points.append(seen["point"])
    file.end()
    _distinct("image", ids)
    _distinct("picture", [image.name for image in given])
    first = np.cumsum([0, *map(len, points[1:])], dtype=np.int64)
    return _Images(np.array(ids, np.int64), first, np.concatenate(points), given)


def _pose(values: list[float]) -> np.ndarray:
    """``world_from_camera`` with OpenGL axes from COLMAP's ``camera_from_world``: quaternion w x y z, translation."""
    rotation = Rotation.from_quat([*values[1:4], values[0]]).as_matrix().T
    return opengl_from_opencv(matrix(rotation, -rotation @ values[4:]))


def _check_points(file: _Records, images: _Images) -> None:
    ids, tracks = [], [np.zeros(0, _TRACK)]
    for _ in range(file.count(51)):
        point, *xyz, _, _, _, error = file.take("Q3d3Bd")
        _require_finite(f"point {point}", (*xyz, max(error, -1.0)))
        tracks.append(file.array(_TRACK, file.count(_TRACK.itemsize)))
        ids.append(point)
    file.end()
    _distinct("point", ids)
    lengths = [len(track) for track in tracks[1:]]
    _check_tracks(np.concatenate(tracks), np.repeat(np.array(ids, np.uint64), lengths), images)


def _check_tracks(track: np.ndarray, point: np.ndarray, images: _Images) -> None:
    """Every entry of a track must be a key point that sees the point, and every one that sees a point in a track."""
    order = np.argsort(images.ids)
    place = np.searchsorted(images.ids[order], track["image"])
    if (np.append(images.ids[order], -1)[place] != track["image"]).any():
        raise _Damaged("a point is seen by an image that is not there")
    image = order[place]
    at = images.first[image] + track["key_point"]
    if (at >= images.first[image + 1]).any():
        raise _Damaged("a point is seen by a key point that is not there")
    if (images.point_of[at] != point).any() or len(np.unique(at)) != len(at):
        raise _Damaged("images and points disagree on what sees what")
    if len(at) != (images.point_of != NO_POINT).sum():
        raise _Damaged("an image sees a point that is not there")


def _rig_ids(file: _Records, cameras: set[int]) -> set[int]:
    ids = []
    for _ in range(file.count(8)):
        rig, sensors = file.take("II")
        for sensor in range(sensors):
            kind, camera = file.take("iI")
            if kind != CAMERA_SENSOR or camera not in cameras:
                raise _Damaged(f"rig {rig} has a camera that is not there")
            if sensor and file.take("B")[0]:
                _check_pose(f"rig {rig}", file.take("7d"))
        ids.append(rig)
    file.end()
    return set(_distinct("rig", ids))


def _check_frames(file: _Records, rigs: set[int], cameras: set[int], images: _Images) -> None:
    ids, seen, known = [], [], set(images.ids.tolist())
    for _ in range(file.count(68)):
        frame, rig, *pose, count = file.take("II7dI")
        _check_pose(f"frame {frame}", pose)
        for _ in range(count):
            kind, camera, image = file.take("iIQ")
            if kind != CAMERA_SENSOR or rig not in rigs or camera not in cameras or image not in known:
                raise _Damaged(f"frame {frame} has a rig, a camera or an image that is not there")
            seen.append(image)
        ids.append(frame)
    file.end()
    _distinct("frame", ids)
    if len(_distinct("image", seen)) != len(known):
        raise _Damaged("an image is in no frame")


def _check_pose(what: str, pose: Iterable[float]) -> None:
    """Quaternion w x y z of length 1, and a translation."""
    values = np.fromiter(pose, float)
    _require_finite(what, values)
    if abs(np.linalg.norm(values[:4]) - 1) > 1e-3:
        raise _Damaged(f"{what} has a pose that is none")


def _require_finite(what: str, values: Any) -> None:
    if not np.all(np.abs(values) <= LARGEST):
        raise _Damaged(f"{what} has a number that is not finite")


def _distinct(what: str, ids: list[Any]) -> list[Any]:
    if len(set(ids)) != len(ids):
        raise _Damaged(f"a {what} is listed twice")
    return ids
