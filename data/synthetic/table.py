"""What stands on the desk round the jug, and where.

The truth frame as in ``desk``; the jug stands at the origin, and the camera goes all round it. Low things lie near the
jug, nothing taller than a mug stands below the camera's path, and cartons beyond it close the view on every side.
"""

from __future__ import annotations

import numpy as np

from data.synthetic.geometry import Patch, Solid
from data.synthetic.glaze import painted
from data.synthetic.jug import make_jug, on_handle
from data.synthetic.things import (
    Desk,
    Maker,
    ball,
    calculator,
    coin,
    desk_top,
    make_room,
    mug,
    pen,
    puzzle,
    sheet,
    titled_box,
)


def make_table(seed: int, texels_per_metre: float) -> Desk:
    """Lay out the desk round the jug.

    Args:
        seed: Draws the jug, positions, colours and words; the kinds of things are always the same.
        texels_per_metre: Density of the pictures; the jug's shape and pattern do not depend on it.

    Returns:
        The desk; equal for equal arguments.
    """
    m = Maker(seed, texels_per_metre)
    jug, room = _jug(m), make_room(m)
    patches = [desk_top(m), *jug]
    for things in (_books, _papers, _blocks, _small_things, _cartons):
        patches += things(m)
    return _desk(patches, room, make_jug(seed))


def make_jug_alone(seed: int, texels_per_metre: float) -> Desk:
    """The same jug floating in the room: nothing hides it, and nothing but itself shades it."""
    m = Maker(seed, texels_per_metre)
    jug, room = _jug(m), make_room(m)
    return _desk(jug, room, make_jug(seed))


def _desk(patches: list[Patch], room: list[Patch], solid: Solid) -> Desk:
    pose = np.eye(4)
    pose[:3, 3] = solid.centre
    return Desk(patches, room, "object", pose, solid)


def _jug(m: Maker) -> list[Patch]:
    solid = make_jug(m.seed)
    return painted("object", solid, on_handle(m.seed, solid.vertices).astype(int), m.density, m.rng())


def _books(m: Maker) -> list[Patch]:
    return [
        *titled_box(m, "book", (-0.185, 0.10, 0.0), (0.15, 0.11, 0.026), 22, "Multiple Views"),
        *titled_box(m, "book", (-0.19, 0.105, 0.026), (0.128, 0.092, 0.014), 9, "Radiance"),
        *titled_box(m, "book", (0.20, -0.10, 0.0), (0.11, 0.15, 0.014), -14, "Atlas"),
        *titled_box(m, "book", (-0.13, -0.19, 0.0), (0.15, 0.11, 0.022), -28, "Gardens"),
        *titled_box(m, "book", (0.10, 0.215, 0.0), (0.15, 0.11, 0.018), 10, "Surfaces"),
    ]


def _papers(m: Maker) -> list[Patch]:
    return [
        *sheet(m, 0.045, -0.135, (0.14, 0.10), 24, "Daily Photon"),
        *sheet(m, -0.05, 0.13, (0.12, 0.085), -12, "Notes"),
        *sheet(m, -0.15, -0.03, (0.085, 0.12), 15, "Letters"),
        *sheet(m, -0.30, -0.16, (0.14, 0.10), 70, "Field Notes"),
        *calculator(m, 0.135, 0.06, -14),
    ]


def _blocks(m: Maker) -> list[Patch]:
    return [
        *puzzle(m, 0.01, 0.245),
        *titled_box(m, "matches", (0.095, -0.045, 0.0), (0.052, 0.034, 0.014), 33, "matches"),
        *titled_box(m, "eraser", (-0.085, -0.062, 0.0), (0.042, 0.020, 0.012), 70, "soft"),
        *titled_box(m, "notes", (0.07, 0.105, 0.0), (0.05, 0.05, 0.016), -20, "memo"),
        *titled_box(m, "tea", (-0.35, 0.02, 0.0), (0.09, 0.07, 0.065), -18, "Green Tea"),
        *titled_box(m, "tin", (0.33, 0.03, 0.0), (0.075, 0.055, 0.04), 30, "pins"),
    ]


def _small_things(m: Maker) -> list[Patch]:
    coins = (
        (0.072, -0.012, 0.0116, 0), (-0.05, -0.075, 0.0128, 0), (-0.085, 0.035, 0.0105, 0), (0.015, 0.088, 0.009, 0),
        (-0.045, -0.11, 0.0116, 0), (0.075, 0.052, 0.0098, 0), (0.16, -0.215, 0.0128, 0), (-0.02, -0.25, 0.0116, 0),
    )  # fmt: skip
    return [
        pen(m, -0.015, -0.083, 8, 0.11, 0.0045),
        pen(m, 0.12, -0.20, -52, 0.14, 0.004),
        pen(m, -0.26, -0.05, 65, 0.13, 0.005),
        *(patch for place in coins for patch in coin(m, *place)),
        ball(m, -0.22, 0.27, 0.03, (222, 120, 30)),
        ball(m, 0.285, -0.235, 0.018, (60, 120, 170)),
        *mug(m, 0.27, 0.22),
    ]


def _cartons(m: Maker) -> list[Patch]:
    return [
        *titled_box(m, "carton", (0.46, 0.14, 0.0), (0.14, 0.16, 0.10), 80, "Papers"),
        *titled_box(m, "carton", (0.20, 0.47, 0.0), (0.18, 0.12, 0.14), -10, "Archive"),
        *titled_box(m, "carton", (-0.16, 0.49, 0.0), (0.22, 0.12, 0.11), 12, "Fragile"),
        *titled_box(m, "carton", (-0.46, 0.24, 0.0), (0.16, 0.14, 0.17), 62, "Lenses"),
        *titled_box(m, "carton", (-0.47, -0.17, 0.0), (0.16, 0.12, 0.12), -74, "Tools"),
        *titled_box(m, "carton", (-0.20, -0.47, 0.0), (0.20, 0.13, 0.09), -160, "Cables"),
        *titled_box(m, "carton", (0.15, -0.48, 0.0), (0.16, 0.12, 0.15), 174, "Mirrors"),
        *titled_box(m, "carton", (0.47, -0.20, 0.0), (0.14, 0.18, 0.12), 112, "Glass"),
    ]
