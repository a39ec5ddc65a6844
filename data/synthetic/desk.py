"""What lies on the desk, and where: the layout of the synthetic scene.

The truth frame, in metres: the desk's top is z = 0, the card lies near the origin with its picture's up along +y, and
the camera comes from -y. Low things stand all around, tall ones only behind the card, so that nothing hides it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic import textures as draw
from data.synthetic.card import CARD_CORNER_RADIUS, CARD_SIZE, CARD_THICKNESS, card_face
from data.synthetic.geometry import (
    Patch,
    box,
    circle,
    lathe,
    prism,
    rectangle,
    rotation_z,
    rounded_rectangle,
    surface,
    tube,
)

DESK_HALF = 0.62
ROOM_HALF, ROOM_FLOOR, ROOM_CEILING = 2.0, -0.75, 1.75


@dataclass(frozen=True)
class Desk:
    """The scene's surfaces and where the card is.

    Attributes:
        patches: What casts shadows and receives light: the desk and the things on it.
        room: Walls, floor and ceiling; they close the scene, so every ray ends somewhere.
        truth_from_card: ``[4, 4]``: the origin is the centre of the card's face, z its normal.
    """

    patches: list[Patch]
    room: list[Patch]
    truth_from_card: np.ndarray


class _Maker:
    """Draws textures at one density; seeds every thing apart, so that one more thing changes no other."""

    def __init__(self, seed: int, texels_per_metre: float):
        self.seed, self.density, self.made = seed, texels_per_metre, 0
        # Light is stored per vertex: this far apart, penumbras are smooth at the pictures' own sharpness.
        self.cell = max(0.0035, 2 / texels_per_metre)

    def rng(self) -> np.random.Generator:
        self.made += 1
        return np.random.default_rng([self.seed, 2, self.made])

    def size(self, width: float, height: float, finer: float = 1.0) -> draw.Size:
        return max(8, round(width * self.density * finer)), max(8, round(height * self.density * finer))


def make_desk(seed: int, texels_per_metre: float) -> Desk:
    """Lay out the desk.

    Args:
        seed: Draws positions, colours, words and faces; the kinds of things are always the same.
        texels_per_metre: Density of the pictures; about one texel per camera pixel keeps both sharpness and speed.

    Returns:
        The desk; equal for equal arguments.
    """
    m = _Maker(seed, texels_per_metre)
    card, truth_from_card = _card(m)
    patches = [_top(m), *card]
    for things in (_books, _mug, _flat_things, _blocks, _pens, _coins, _balls, _backdrop):
        patches += things(m)
    return Desk(patches, _room(m), truth_from_card)


def _top(m: _Maker) -> Patch:
    # Dense under the things, where shadows are, and coarse beyond.
    inner, outer = np.linspace(-0.30, 0.30, round(0.60 / m.cell)), np.linspace(0.315, DESK_HALF, 16)
    line = np.concatenate([-outer[::-1], inner, outer])
    x, y = np.meshgrid(line, line)
    uv = np.stack([x, -y], axis=-1) / (2 * DESK_HALF) + 0.5
    picture = draw.wood(m.size(2 * DESK_HALF, 2 * DESK_HALF), m.rng())
    return surface("desk", np.stack([x, y, 0 * x], axis=-1), picture, uv)


def _card(m: _Maker) -> tuple[list[Patch], np.ndarray]:
    rng = m.rng()
    yaw, (x, y) = np.radians(rng.uniform(-8, 8)), rng.uniform(-0.006, 0.006, 2)
    outline = rounded_rectangle(*CARD_SIZE, CARD_CORNER_RADIUS)
    face = card_face(m.size(*CARD_SIZE, finer=2.0), m.rng())
    edge = np.full((8, 8, 3), 225, np.uint8)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_z(yaw), (x, y, CARD_THICKNESS)
    return prism("card", outline, np.array([x, y, 0.0]), CARD_THICKNESS, yaw, face, edge), pose


def _box(
    m: _Maker, name: str, at: tuple[float, float, float], size: tuple[float, float, float], yaw_deg: float, title: str
) -> list[Patch]:
    rng = m.rng()
    w, d, h = size
    top = draw.cover(m.size(w, d), rng, title)
    side = draw.stripes(m.size(2 * (w + d), h), rng, int(30 + 60 * (w + d)), title)
    bottom = np.array(at)
    bottom[:2] += rng.uniform(-0.004, 0.004, 2)
    return box(name, bottom, size, np.radians(yaw_deg + rng.uniform(-6, 6)), top, side, 2 * m.cell)


def _books(m: _Maker) -> list[Patch]:
    return [
        *_box(m, "book", (-0.16, 0.115, 0.0), (0.15, 0.11, 0.026), 22, "Multiple Views"),
        *_box(m, "book", (-0.165, 0.12, 0.026), (0.128, 0.092, 0.019), 9, "Radiance"),
        *_box(m, "book", (0.20, -0.10, 0.0), (0.11, 0.15, 0.014), -14, "Atlas"),
        *_box(m, "book", (-0.25, -0.05, 0.0), (0.11, 0.15, 0.022), 12, "Gardens"),
    ]


def _mug(m: _Maker) -> list[Patch]:
    rng, at = m.rng(), np.array([0.125, 0.165, 0.0])
    r, h = 0.036, 0.088
    glaze = draw.stripes(m.size(2 * np.pi * r, h), rng, 26, "coffee?")
    outside = np.array([[r, 0.0], *[[r, z] for z in np.linspace(0.004, h, 16)]])
    rim = np.array([[r, h], [r - 0.0035, h]])
    inside = np.column_stack([np.full(12, r - 0.0035), np.linspace(h, 0.02, 12)])
    coffee = draw.speckled(m.size(2 * r, 2 * r), rng, (70, 42, 26), 60)
    turn = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 20)
    loop = np.column_stack([r + 0.024 * np.cos(turn), 0 * turn, h / 2 + 0.027 * np.sin(turn)])
    handle = loop @ rotation_z(rng.uniform(-1.2, 0.3)).T + at
    plain = draw.speckled(m.size(0.08, 0.03), rng, (226, 220, 206), 40)
    disc = circle(r - 0.0035)
    return [
        lathe("mug", outside, at, glaze),
        lathe("mug", rim, at, plain),
        lathe("mug", inside, at, plain),
        tube("mug", handle, 0.0048, plain),
        *prism("mug", disc, at, h - 0.018, 0.0, coffee, plain),
    ]


def _flat_things(m: _Maker) -> list[Patch]:
    patches: list[Patch] = []
    sheets = (((-0.115, -0.105), (0.14, 0.10), 24, "Daily Photon"), ((0.06, 0.115), (0.12, 0.085), -12, "Notes"))
    for (x, y), (w, d), yaw, title in sheets:
        rng = m.rng()
        sheet, edge = draw.page(m.size(w, d, 1.3), rng, 13, title), np.full((8, 32, 3), 230, np.uint8)
        turn = np.radians(yaw + rng.uniform(-5, 5))
        patches += box("paper", np.array([x, y, 0.0]), (w, d, 0.0012), turn, sheet, edge, 2 * m.cell)
    rng = m.rng()
    face, edge = draw.keys(m.size(0.068, 0.112, 1.2), rng), draw.speckled(m.size(0.36, 0.01), rng, (60, 62, 70), 60)
    at, size = np.array([0.128, 0.018, 0.0]), (0.068, 0.112, 0.011)
    patches += box("calculator", at, size, np.radians(-9), face, edge, 2 * m.cell)
    return patches


def _blocks(m: _Maker) -> list[Patch]:
    rng = m.rng()
    puzzle = box(
        "puzzle",
        np.array([-0.02, 0.135, 0.0]),
        (0.046, 0.046, 0.046),
        np.radians(rng.uniform(15, 45)),
        draw.squares(m.size(0.046, 0.046), rng, 3),
        draw.squares(m.size(0.184, 0.046), rng, 3),
        2 * m.cell,
    )
    return [
        *puzzle,
        *_box(m, "matches", (0.035, -0.088, 0.0), (0.052, 0.034, 0.014), 33, "matches"),
        *_box(m, "eraser", (-0.098, 0.022, 0.0), (0.042, 0.020, 0.012), 70, "soft"),
        *_box(m, "notes", (-0.015, -0.185, 0.0), (0.062, 0.062, 0.018), -20, "memo"),
        *_box(m, "tea", (-0.30, 0.20, 0.0), (0.09, 0.07, 0.065), -18, "Green Tea"),
        *_box(m, "tin", (0.27, 0.10, 0.0), (0.075, 0.055, 0.04), 30, "pins"),
    ]


def _pens(m: _Maker) -> list[Patch]:
    patches = []
    for x, y, yaw, length, r in (
        (0.0, 0.062, 8, 0.135, 0.0045),
        (0.085, -0.16, -52, 0.14, 0.004),
        (-0.2, -0.2, 65, 0.13, 0.005),
    ):
        rng = m.rng()
        angle = np.radians(yaw + rng.uniform(-8, 8))
        along = np.linspace(-0.5, 0.5, 24)[:, None] * length * np.array([np.cos(angle), np.sin(angle), 0.0])
        radius = r * np.clip(np.minimum((np.arange(24)) / 3, 1.0), 0.12, 1)
        radius[-1] = 0.0
        picture = draw.stripes(m.size(length, 2 * np.pi * r, 1.2), rng, 14, "HB 2")
        patches.append(tube("pen", along + np.array([x, y, r]), radius, picture))
    return patches


def _coins(m: _Maker) -> list[Patch]:
    patches: list[Patch] = []
    for x, y, r, level in (
        (0.078, -0.048, 0.0116, 0), (0.079, -0.046, 0.0098, 1), (-0.066, -0.052, 0.0128, 0), (0.052, 0.048, 0.0105, 0),
        (-0.03, -0.072, 0.009, 0), (-0.085, 0.065, 0.0116, 0), (0.16, -0.2, 0.0128, 0), (-0.07, -0.19, 0.0116, 0),
    ):  # fmt: skip
        rng = m.rng()
        face, edge = draw.coin(m.size(2 * r, 2 * r, 2.0), rng), draw.speckled((64, 8), rng, (150, 130, 90), 30)
        dx, dy = rng.uniform(-0.003, 0.003, 2)
        bottom = np.array([x + dx, y + dy, 0.0022 * level])
        patches += prism("coin", circle(r, 32), bottom, 0.0022, rng.uniform(0, 6.28), face, edge)
    return patches


def _balls(m: _Maker) -> list[Patch]:
    patches = []
    for x, y, r, colour in ((0.06, 0.215, 0.03, (222, 120, 30)), (0.285, -0.235, 0.018, (60, 120, 170))):
        rng = m.rng()
        height = np.linspace(-np.pi / 2, np.pi / 2, 28)
        profile = np.column_stack([r * np.cos(height), r * (1 + np.sin(height))])
        picture = draw.speckled(m.size(2 * np.pi * r, np.pi * r), rng, colour, 500)
        patches.append(lathe("ball", profile, np.array([x, y, 0.0]), picture))
    return patches


def _backdrop(m: _Maker) -> list[Patch]:
    return [
        *_box(m, "carton", (-0.06, 0.36, 0.0), (0.20, 0.12, 0.13), 6, "Fragile"),
        *_box(m, "carton", (0.30, 0.34, 0.0), (0.16, 0.14, 0.10), -24, "Archive"),
        *_box(m, "carton", (-0.42, 0.36, 0.0), (0.16, 0.12, 0.16), 28, "Lenses"),
        *_box(m, "carton", (0.48, 0.02, 0.0), (0.12, 0.16, 0.07), 80, "Papers"),
        *_box(m, "carton", (-0.48, 0.02, 0.0), (0.12, 0.18, 0.06), -84, "Tools"),
    ]


def _room(m: _Maker) -> list[Patch]:
    r, low, high = ROOM_HALF, ROOM_FLOOR, ROOM_CEILING
    size = (max(64, round(0.4 * m.density)), max(32, round(0.25 * m.density)))
    ring = [np.array(c) for c in ((r, r, low), (-r, r, low), (-r, -r, low), (r, -r, low))]
    up = np.array([0.0, 0.0, high - low])
    # Seen from inside, the four walls run clockwise from above, so their normals point inwards.
    walls = [
        rectangle("wall", ring[(k + 1) % 4], ring[k] - ring[(k + 1) % 4], up, draw.wall(size, m.rng()), 4.0)
        for k in range(4)
    ]
    x, y = np.array([2 * r, 0.0, 0.0]), np.array([0.0, 2 * r, 0.0])
    floor = draw.speckled((size[0], size[0]), m.rng(), (126, 120, 112), 900)
    ceiling = np.full((16, 16, 3), 235, np.uint8)
    return [
        *walls,
        rectangle("floor", ring[2], x, y, floor, 4.0),
        rectangle("ceiling", np.array([-r, r, high]), x, -y, ceiling, 4.0),
    ]
