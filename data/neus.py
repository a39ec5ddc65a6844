"""NeuS's format for DTU and BlendedMVS (Wang et al. 2021), IDR's before it: matrices in one ``.npz``, and pictures.

For picture ``i``, ``world_mat_i`` ``[4, 4]`` projects homogeneous world points to pixels, and ``scale_mat_i``, a
similarity that all pictures share, takes the normalised frame to the world. What is to be seen lies in the unit sphere
of the normalised frame. Other keys, ``*_inv_i`` and ``camera_mat_i``, say nothing new.

Symbols: ``P = (world_mat @ scale_mat)[:3]``, ``P ~ K R [I | -c]`` with the intrinsic matrix ``K``, rotation ``R``
(camera from world, OpenCV axes) and centre ``c`` (Hartley and Zisserman 2004, section 6.2.4). Pixel centres are at
+0.5.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from data.given import GivenCapture, GivenView, by_number, pictures_in
from data.lens import SkewPinhole
from data.pictures import picture_size
from data.poses import Sim3, chordal_mean, matrix, opengl_from_opencv
from fieldbook.errors import UserError
from fieldbook.shapes import LARGEST

MATRICES = ("cameras_sphere.npz", "cameras.npz")
PICTURES = "image"
BOX_HALF = 1.0
"""The format keeps what is to be seen in the unit sphere."""
LARGEST_MATRIX = 1 << 12  # bytes of a stored matrix with its header, which are some 256
WORST_CONDITION = 1e13  # of P's left part; DTU's are about 1e6, and float64 has 16 digits
SIMILAR = 1e-4  # relative error up to which a matrix is a similarity, and two are the same; float32 has 1e-7
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)


def read_neus(folder: Path) -> GivenCapture:
    """Read and check matrices and pictures of a folder; of pictures, only the headers are read.

    Returns:
        Poses in the normalised frame; ``world`` is the scale matrix.

    Raises:
        UserError: The folder, its ``.npz`` or ``image`` is missing; a matrix is missing, damaged, singular, or not
            what its name says; the scale matrices differ; or matrices and pictures do not belong together.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder in NeuS's format: {folder}")
    path = next((folder / name for name in MATRICES if (folder / name).exists()), None)
    if path is None:
        raise UserError(f"{folder} has no {' or '.join(MATRICES)}; see docs/posed.md for the format")
    mats = _read_matrices(path)
    scale_mats = {i: mats[f"scale_mat_{i}"] for i in _indices(path, mats)}
    world = _shared_similarity(path, scale_mats)
    pictures = _pictures(folder / PICTURES, path, list(scale_mats))
    views = [_view(path, i, mats[f"world_mat_{i}"] @ scale_mats[i], pictures[i]) for i in scale_mats]
    _check_one_size(views)
    return GivenCapture(tuple(views), (path,), world, np.array([[-BOX_HALF] * 3, [BOX_HALF] * 3]), ball=True)


def decompose(projection: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsic matrix and pose of a camera from its projection matrix, whatever that one's scale and sign.

    Args:
        projection: ``P`` ``[3, 4]`` with a left part that is not singular.

    Returns:
        ``K`` ``[3, 3]``, upper triangular, with positive diagonal and ``K[2, 2] = 1``; and ``world_from_camera``
        ``[4, 4]`` with OpenGL axes.
    """
    projection = projection * np.sign(np.linalg.det(projection[:, :3]))  # so that the rotation is proper
    upper, rotation = scipy.linalg.rq(projection[:, :3])
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    upper, rotation = upper * signs, signs[:, None] * rotation
    centre = -np.linalg.solve(projection[:, :3], projection[:, 3])
    return upper / upper[2, 2], opengl_from_opencv(matrix(rotation.T, centre))


def _read_matrices(path: Path) -> dict[str, np.ndarray]:
    """``world_mat_i`` and ``scale_mat_i`` as float64 ``[4, 4]``, by name, finite; every index has both."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; put NeuS's matrices there")
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.infolist()}
        names = [name for name in sizes if re.fullmatch(r"(world|scale)_mat_(0|[1-9][0-9]{0,8})", name)]
        large = next((name for name in names if sizes[name] > LARGEST_MATRIX), None)
        with np.load(path, allow_pickle=False) as stored:
            mats = {} if large else {name: stored[name] for name in names}
    except _DAMAGED as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a whole file of NumPy matrices: {reason}; copy it again") from None
    if large:
        raise UserError(f"{path}: {large} has {sizes[large]} bytes, which no 4x4 matrix has; make it again")
    return {name: _checked(path, name, value) for name, value in mats.items()}


def _checked(path: Path, name: str, value: Any) -> np.ndarray:
    if value.shape != (4, 4) or value.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name} has shape {list(value.shape)} of {value.dtype}, not [4, 4] numbers; mend it")
    value = value.astype(np.float64)
    if not (np.abs(value) <= LARGEST).all():
        raise UserError(f"{path}: {name} has a number that is not finite, or above {LARGEST:g}; mend or remove it")
    return value


def _indices(path: Path, mats: dict[str, np.ndarray]) -> list[int]:
    found = sorted({int(name.rpartition("_")[2]) for name in mats})
    if not found:
        raise UserError(f"{path} has no world_mat_0 or any other number; see docs/posed.md for the format")
    for name in (f"{kind}_mat_{i}" for i in found for kind in ("world", "scale")):
        if name not in mats:
            raise UserError(f"{path} has no {name}; every picture has a world_mat and a scale_mat: make it again")
    return found


def _shared_similarity(path: Path, scale_mats: dict[int, np.ndarray]) -> Sim3:
    first, *_ = scale_mats
    for i, mat in scale_mats.items():
        scale = np.cbrt(np.linalg.det(mat[:3, :3]))
        rotation = mat[:3, :3] / scale if scale > 0 else np.zeros((3, 3))
        off = np.abs(rotation @ rotation.T - np.eye(3)).max() + np.abs(mat[3] - [0, 0, 0, 1]).max()
        if not off < SIMILAR:
            raise UserError(
                f"{path}: scale_mat_{i} is no similarity; give one positive scale, a rotation (mostly none) and a "
                "translation"
            )
        if not np.abs(mat - scale_mats[first]).max() < SIMILAR * max(scale, 1e-300):
            raise UserError(
                f"{path}: scale_mat_{i} differs from scale_mat_{first}; all pictures must share one normalised frame"
            )
    mat = scale_mats[first]
    scale = float(np.cbrt(np.linalg.det(mat[:3, :3])))
    return Sim3(scale, chordal_mean(mat[None, :3, :3]), mat[:3, 3].copy())


def _pictures(folder: Path, path: Path, indices: list[int]) -> dict[int, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; it holds the pictures, named by their numbers like 000003.png")
    pictures = by_number(pictures_in(folder))
    lacking = [i for i in indices if i not in pictures]
    if lacking:
        raise UserError(
            f"{folder} has no picture {lacking[0]:06d}.png for world_mat_{lacking[0]} of {path.name} "
            f"({len(lacking)} of {len(indices)} are missing); put it there"
        )
    unknown = [i for i in sorted(pictures) if i not in indices]
    if unknown:
        raise UserError(
            f"{path} has no world_mat_{unknown[0]} for {pictures[unknown[0]].name} ({len(unknown)} of {len(pictures)} "
            "pictures have no matrix); remove those pictures, or add their matrices"
        )
    return pictures


def _view(path: Path, index: int, product: np.ndarray, picture: Path) -> GivenView:
    projection = product[:3]
    if not np.linalg.cond(projection[:, :3]) < WORST_CONDITION:
        raise UserError(f"{path}: world_mat_{index} is singular, so it is no camera's; mend or remove it")
    k, pose = decompose(projection)
    width, height = picture_size(picture)
    lens = SkewPinhole(width, height, *(float(k[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1))))
    plausible = 0.5 < lens.fx / lens.fy < 2 and abs(lens.skew) < 0.5 * lens.fx
    if not plausible or not (0 < lens.cx < width and 0 < lens.cy < height) or not np.abs(pose).max() <= LARGEST:
        raise UserError(
            f"{path}: world_mat_{index} gives focal lengths {lens.fx:.4g} and {lens.fy:.4g}, skew {lens.skew:.3g} and "
            f"principal point ({lens.cx:.4g}, {lens.cy:.4g}), which no camera of {picture} has, {width}x{height}; the "
            "matrices must project to the pixels of these pictures"
        )
    return GivenView(index, picture.name, picture, lens, pose)


def _check_one_size(views: list[GivenView]) -> None:
    first = views[0]
    for view in views:
        if (view.lens.width, view.lens.height) != (first.lens.width, first.lens.height):
            raise UserError(
                f"{view.picture} is {view.lens.width}x{view.lens.height}, {first.picture.name} is "
                f"{first.lens.width}x{first.lens.height}; all must have one size"
            )
