"""Coloured points as PLY files (Turk 1994): written in binary, read in every form of the format.

trimesh writes them. It does not read them: it goes by the file's name, which may stand in a file that was downloaded,
opens archives and a dozen other formats under it, and takes a header's count for memory to be had.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from fieldbook.errors import UserError
from fieldbook.files import atomic_path
from fieldbook.shapes import LARGEST

LARGEST_HEADER = 1 << 16
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


@dataclass(frozen=True)
class PlyHeader:
    """What a PLY file says of its points.

    Attributes:
        order: Of bytes, as NumPy writes it; empty for text.
        fields: NumPy's type of every property, in order.
        count: How many points.
        alone: Whether nothing follows the points.
        size: Bytes of the header.
        total: How many points, faces and whatever else there are in all.
    """

    order: str
    fields: dict[str, str]
    count: int
    alone: bool
    size: int
    total: int


class Damaged(Exception):  # noqa: N818 - never leaves what reads files
    """What is wrong with a file."""


def write_points(path: Path, points: np.ndarray, colours: np.ndarray) -> None:
    """Write points ``[n, 3]`` with colours ``[n, 3]`` uint8 as a binary PLY; no points, no file.

    Args:
        path: Ends in ``.ply``; an old file is replaced or, for no points, removed.
        points: In the frame the reader expects.
        colours: RGB.
    """
    path.unlink(missing_ok=True)
    if len(points):
        with atomic_path(path) as temporary:
            trimesh.PointCloud(points, colors=colours).export(str(temporary))


def read_points(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the points of a PLY file; what else it holds is left alone.

    Returns:
        Points ``[n, 3]`` float64, and colours ``[n, 3]`` uint8 RGB, or ``None`` where it has none.

    Raises:
        UserError: No such file, no PLY file, a damaged one, or a point that is not finite.
    """
    if not path.is_file():
        raise UserError(f"no such file of points: {path}; make it again")
    content = path.read_bytes()
    try:
        header = read_header(content)
        values = _from_text(content, header) if header.order == "" else _from_bytes(content, header)
        with np.errstate(invalid="ignore"):  # of a NaN that signals; looked for below
            points = np.stack([values[name].astype(np.float64) for name in "xyz"], axis=1)
        if not (np.abs(points) <= LARGEST).all():
            raise Damaged("it has points that are not finite")
    except Damaged as error:
        raise UserError(f"{path} is not a file of points: {error}; make it again") from None
    colour = [header.fields.get(name) for name in ("red", "green", "blue")]
    if colour != ["u1"] * 3:
        return points, None
    return points, np.stack([values[name].astype(np.uint8) for name in ("red", "green", "blue")], axis=1)


def read_header(content: bytes) -> PlyHeader:
    """What a PLY file says of itself.

    Raises:
        Damaged: It is none, or says what no file of points or triangles does.
    """
    end = content.find(b"end_header", 0, LARGEST_HEADER)
    if not content.startswith(b"ply") or end < 0:
        raise Damaged("it has no PLY header")
    size = content.find(b"\n", end) + 1
    lines = [line.split() for line in content[:end].decode("ascii", errors="replace").splitlines()[1:]]
    order, elements = None, []
    for line in filter(None, lines):
        match line:
            case ["comment" | "obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in _ORDERS and order is None:
                order = _ORDERS[name]
            case ["element", name, count] if count.isdecimal() and len(count) < 16:
                elements.append((name, int(count), {}))
            case ["property", kind, name] if elements and kind in _TYPES and name not in elements[-1][2]:
                elements[-1][2][name] = _TYPES[kind]
            case ["property", "list", _, _, name] if elements:
                elements[-1][2][name] = "list"
            case _:
                raise Damaged(f"its header has the line {' '.join(line)[:80]!r}")
    if order is None or size == 0 or not elements or elements[0][0] != "vertex":
        raise Damaged("its header does not start with a format and the element vertex")
    _, count, fields = elements[0]
    if not {"x", "y", "z"} <= fields.keys() or "list" in fields.values():
        raise Damaged("its vertices are not x, y, z and other single values")
    return PlyHeader(order, fields, count, len(elements) == 1, size, sum(number for _, number, _ in elements))


def _from_bytes(content: bytes, header: PlyHeader) -> dict[str, np.ndarray]:
    kind = np.dtype([(name, header.order + field) for name, field in header.fields.items()])
    _check_length(header, header.count * kind.itemsize, len(content) - header.size)
    table = np.frombuffer(content, kind, header.count, header.size)
    return {name: table[name] for name in header.fields}


def _from_text(content: bytes, header: PlyHeader) -> dict[str, np.ndarray]:
    words = content[header.size :].split()
    needed = header.count * len(header.fields)
    _check_length(header, needed, len(words))
    try:
        table = np.array(words[:needed], dtype=np.float64).reshape(header.count, len(header.fields))
    except ValueError:
        raise Damaged("a value is not a number") from None
    columns = {name: table[:, k] for k, name in enumerate(header.fields)}
    for name, column in columns.items():
        if header.fields[name] == "u1" and not ((column >= 0) & (column <= 255)).all():
            raise Damaged(f"{name} is not a number from 0 to 255")
    return columns


def _check_length(header: PlyHeader, needed: int, there: int) -> None:
    if needed > there:
        raise Damaged(f"it has fewer points than the {header.count} of its header")
    if header.alone and needed < there:
        raise Damaged(f"it goes on after the {header.count} points of its header")
