"""Write coloured points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from fieldbook.files import atomic_path


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
