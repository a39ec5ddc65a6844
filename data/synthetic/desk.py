"""What lies on the desk round the card, and where.

The truth frame, in metres: the desk's top is z = 0, the card lies near the origin with its picture's up along +y, and
the camera comes from -y. Low things stand all around, tall ones only behind the card, so that nothing hides it.
"""

from __future__ import annotations

import numpy as np

from data.synthetic.card import CARD_CORNER_RADIUS, CARD_SIZE, CARD_THICKNESS, card_face
from data.synthetic.geometry import Patch, Solid, closed_prism, prism, rotation_z, rounded_rectangle
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


def make_desk(seed: int, texels_per_metre: float) -> Desk:
    """Lay out the desk.

    Args:
        seed: Draws positions, colours, words and faces; the kinds of things are always the same.
        texels_per_metre: Density of the pictures; about one texel per camera pixel keeps both sharpness and speed.

    Returns:
        The desk; equal for equal arguments.
    """
    m = Maker(seed, texels_per_metre)
    card, truth_from_card, solid = _card(m)
    patches = [desk_top(m), *card, *_books(m), *mug(m, 0.125, 0.165)]
    for things in (_flat_things, _blocks, _pens, _coins, _balls, _backdrop):
        patches += things(m)
    return Desk(patches, make_room(m), "card", truth_from_card, solid)


def _card(m: Maker) -> tuple[list[Patch], np.ndarray, Solid]:
    rng = m.rng()
    yaw, (x, y) = np.radians(rng.uniform(-8, 8)), rng.uniform(-0.006, 0.006, 2)
    outline = rounded_rectangle(*CARD_SIZE, CARD_CORNER_RADIUS)
    face = card_face(m.size(*CARD_SIZE, finer=2.0), m.rng())
    edge = np.full((8, 8, 3), 225, np.uint8)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_z(yaw), (x, y, CARD_THICKNESS)
    patches = prism("card", outline, np.array([x, y, 0.0]), CARD_THICKNESS, yaw, face, edge)
    return patches, pose, closed_prism(outline, patches)


def _books(m: Maker) -> list[Patch]:
    return [
        *titled_box(m, "book", (-0.16, 0.115, 0.0), (0.15, 0.11, 0.026), 22, "Multiple Views"),
        *titled_box(m, "book", (-0.165, 0.12, 0.026), (0.128, 0.092, 0.019), 9, "Radiance"),
        *titled_box(m, "book", (0.20, -0.10, 0.0), (0.11, 0.15, 0.014), -14, "Atlas"),
        *titled_box(m, "book", (-0.25, -0.05, 0.0), (0.11, 0.15, 0.022), 12, "Gardens"),
    ]


def _flat_things(m: Maker) -> list[Patch]:
    return [
        *sheet(m, -0.115, -0.105, (0.14, 0.10), 24, "Daily Photon"),
        *sheet(m, 0.06, 0.115, (0.12, 0.085), -12, "Notes"),
        *calculator(m, 0.128, 0.018, -9),
    ]


def _blocks(m: Maker) -> list[Patch]:
    return [
        *puzzle(m, -0.02, 0.135),
        *titled_box(m, "matches", (0.035, -0.088, 0.0), (0.052, 0.034, 0.014), 33, "matches"),
        *titled_box(m, "eraser", (-0.098, 0.022, 0.0), (0.042, 0.020, 0.012), 70, "soft"),
        *titled_box(m, "notes", (-0.015, -0.185, 0.0), (0.062, 0.062, 0.018), -20, "memo"),
        *titled_box(m, "tea", (-0.30, 0.20, 0.0), (0.09, 0.07, 0.065), -18, "Green Tea"),
        *titled_box(m, "tin", (0.27, 0.10, 0.0), (0.075, 0.055, 0.04), 30, "pins"),
    ]


def _pens(m: Maker) -> list[Patch]:
    return [
        pen(m, 0.0, 0.062, 8, 0.135, 0.0045),
        pen(m, 0.085, -0.16, -52, 0.14, 0.004),
        pen(m, -0.2, -0.2, 65, 0.13, 0.005),
    ]


def _coins(m: Maker) -> list[Patch]:
    places = (
        (0.078, -0.048, 0.0116, 0), (0.079, -0.046, 0.0098, 1), (-0.066, -0.052, 0.0128, 0), (0.052, 0.048, 0.0105, 0),
        (-0.03, -0.072, 0.009, 0), (-0.085, 0.065, 0.0116, 0), (0.16, -0.2, 0.0128, 0), (-0.07, -0.19, 0.0116, 0),
    )  # fmt: skip
    return [patch for place in places for patch in coin(m, *place)]


def _balls(m: Maker) -> list[Patch]:
    return [ball(m, 0.06, 0.215, 0.03, (222, 120, 30)), ball(m, 0.285, -0.235, 0.018, (60, 120, 170))]


def _backdrop(m: Maker) -> list[Patch]:
    return [
        *titled_box(m, "carton", (-0.06, 0.36, 0.0), (0.20, 0.12, 0.13), 6, "Fragile"),
        *titled_box(m, "carton", (0.30, 0.34, 0.0), (0.16, 0.14, 0.10), -24, "Archive"),
        *titled_box(m, "carton", (-0.42, 0.36, 0.0), (0.16, 0.12, 0.16), 28, "Lenses"),
        *titled_box(m, "carton", (0.48, 0.02, 0.0), (0.12, 0.16, 0.07), 80, "Papers"),
        *titled_box(m, "carton", (-0.48, 0.02, 0.0), (0.12, 0.18, 0.06), -84, "Tools"),
    ]
