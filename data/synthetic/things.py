"""Things that lie on a desk, the desk's top and the room around it; a layout says what goes where.

Lengths in metres, turns in degrees; a thing stands on z = 0 unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.synthetic import textures as draw
from data.synthetic.geometry import (
    Patch,
    Solid,
    box,
    circle,
    lathe,
    prism,
    rectangle,
    rotation_z,
    surface,
    tube,
)

DESK_HALF = 0.62
ROOM_HALF, ROOM_FLOOR, ROOM_CEILING = 2.0, -0.75, 1.75


@dataclass(frozen=True)
class Desk:
    """The scene's surfaces, and where its subject is.

    Attributes:
        patches: What casts shadows and receives light: the desk and the things on it.
        room: Walls, floor and ceiling; they close the scene, so every ray ends somewhere.
        subject: Name of the subject's patches: ``card`` or ``object``.
        truth_from_subject: ``[4, 4]``: the origin is what the camera looks at, for the card the centre of its face with
            z as its normal, for an object the middle of the box round it.
        solid: The subject alone, closed.
    """

    patches: list[Patch]
    room: list[Patch]
    subject: str
    truth_from_subject: np.ndarray
    solid: Solid


class Maker:
    """Draws pictures at one density in texels per metre.

    Every thing has a seed of its own, so that one more thing changes no other.
    """

    def __init__(self, seed: int, texels_per_metre: float):
        self.seed, self.density, self.made = seed, texels_per_metre, 0
        # Light is stored per vertex: this far apart, penumbras are smooth at the pictures' own sharpness.
        self.cell = max(0.0035, 2 / texels_per_metre)

    def rng(self) -> np.random.Generator:
        """The next thing's own generator."""
        self.made += 1
        return np.random.default_rng([self.seed, 2, self.made])

    def size(self, width: float, height: float, finer: float = 1.0) -> draw.Size:
        """Texels of a picture that covers ``width`` by ``height`` metres."""
        return max(8, round(width * self.density * finer)), max(8, round(height * self.density * finer))


def desk_top(m: Maker) -> Patch:
    """The desk's top, at z = 0."""
    # Dense under the things, where shadows are, and coarse beyond.
    inner, outer = np.linspace(-0.30, 0.30, round(0.60 / m.cell)), np.linspace(0.315, DESK_HALF, 16)
    line = np.concatenate([-outer[::-1], inner, outer])
    x, y = np.meshgrid(line, line)
    uv = np.stack([x, -y], axis=-1) / (2 * DESK_HALF) + 0.5
    picture = draw.wood(m.size(2 * DESK_HALF, 2 * DESK_HALF), m.rng())
    return surface("desk", np.stack([x, y, 0 * x], axis=-1), picture, uv)


def titled_box(
    m: Maker, name: str, at: tuple[float, float, float], size: tuple[float, float, float], yaw_deg: float, title: str
) -> list[Patch]:
    """A book or a carton with a title on it, its place and turn shaken a little; ``at`` is its bottom's centre."""
    rng = m.rng()
    w, d, h = size
    top = draw.cover(m.size(w, d), rng, title)
    side = draw.stripes(m.size(2 * (w + d), h), rng, int(30 + 60 * (w + d)), title)
    bottom = np.array(at)
    bottom[:2] += rng.uniform(-0.004, 0.004, 2)
    return box(name, bottom, size, np.radians(yaw_deg + rng.uniform(-6, 6)), top, side, 2 * m.cell)


def mug(m: Maker, x: float, y: float) -> list[Patch]:
    """A mug of coffee, 9 cm high, its handle somewhere towards +x."""
    rng, at = m.rng(), np.array([x, y, 0.0])
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


def sheet(m: Maker, x: float, y: float, size: tuple[float, float], yaw_deg: float, title: str) -> list[Patch]:
    """A few printed pages."""
    rng = m.rng()
    picture, edge = draw.page(m.size(*size, 1.3), rng, 13, title), np.full((8, 32, 3), 230, np.uint8)
    turn = np.radians(yaw_deg + rng.uniform(-5, 5))
    return box("paper", np.array([x, y, 0.0]), (*size, 0.0012), turn, picture, edge, 2 * m.cell)


def calculator(m: Maker, x: float, y: float, yaw_deg: float) -> list[Patch]:
    """A pocket calculator."""
    rng = m.rng()
    face, edge = draw.keys(m.size(0.068, 0.112, 1.2), rng), draw.speckled(m.size(0.36, 0.01), rng, (60, 62, 70), 60)
    return box("calculator", np.array([x, y, 0.0]), (0.068, 0.112, 0.011), np.radians(yaw_deg), face, edge, 2 * m.cell)


def puzzle(m: Maker, x: float, y: float) -> list[Patch]:
    """A twisty cube."""
    rng = m.rng()
    return box(
        "puzzle",
        np.array([x, y, 0.0]),
        (0.046, 0.046, 0.046),
        np.radians(rng.uniform(15, 45)),
        draw.squares(m.size(0.046, 0.046), rng, 3),
        draw.squares(m.size(0.184, 0.046), rng, 3),
        2 * m.cell,
    )


def pen(m: Maker, x: float, y: float, yaw_deg: float, length: float, r: float) -> Patch:
    """A pen of radius ``r``, lying."""
    rng = m.rng()
    angle = np.radians(yaw_deg + rng.uniform(-8, 8))
    along = np.linspace(-0.5, 0.5, 24)[:, None] * length * np.array([np.cos(angle), np.sin(angle), 0.0])
    radius = r * np.clip(np.minimum((np.arange(24)) / 3, 1.0), 0.12, 1)
    radius[-1] = 0.0
    picture = draw.stripes(m.size(length, 2 * np.pi * r, 1.2), rng, 14, "HB 2")
    return tube("pen", along + np.array([x, y, r]), radius, picture)


def coin(m: Maker, x: float, y: float, r: float, level: int) -> list[Patch]:
    """A coin of radius ``r`` on ``level`` others."""
    rng = m.rng()
    face, edge = draw.coin(m.size(2 * r, 2 * r, 2.0), rng), draw.speckled((64, 8), rng, (150, 130, 90), 30)
    dx, dy = rng.uniform(-0.003, 0.003, 2)
    bottom = np.array([x + dx, y + dy, 0.0022 * level])
    return prism("coin", circle(r, 32), bottom, 0.0022, rng.uniform(0, 6.28), face, edge)


def ball(m: Maker, x: float, y: float, r: float, colour: draw.Colour) -> Patch:
    """A ball of radius ``r``."""
    rng = m.rng()
    height = np.linspace(-np.pi / 2, np.pi / 2, 28)
    profile = np.column_stack([r * np.cos(height), r * (1 + np.sin(height))])
    picture = draw.speckled(m.size(2 * np.pi * r, np.pi * r), rng, colour, 500)
    return lathe("ball", profile, np.array([x, y, 0.0]), picture)


def make_room(m: Maker) -> list[Patch]:
    """Four walls with shelves, floor and ceiling."""
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
