"""Procedural pictures for the desk and the things on it.

Every function takes the size in pixels ``(width, height)`` and a generator, and gives ``[height, width, 3]`` uint8.
Strokes are in parts of the size, so that the same seed draws the same thing coarser or finer. The grain is strong on
purpose: structure from motion needs corners everywhere.
"""

from __future__ import annotations

import colorsys
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Size = tuple[int, int]
Colour = tuple[int, int, int]

WORDS = (
    *("light", "field", "camera", "mirror", "shutter", "harbour", "lemon", "archive", "window", "paper"),
    *("copper", "garden", "number", "signal", "river", "orbit", "violet", "lantern", "pixel", "needle"),
    *("theory", "marble", "comet", "anchor", "winter", "saddle", "pepper", "radius", "ticket", "meadow"),
)


def random_colour(rng: np.random.Generator, saturation: float = 0.5, value: float = 0.8) -> Colour:
    """A colour of random hue."""
    rgb = colorsys.hsv_to_rgb(
        rng.uniform(), saturation * rng.uniform(0.7, 1.3), min(1.0, value * rng.uniform(0.75, 1.2))
    )
    return tuple(int(255 * min(1.0, c)) for c in rgb)  # type: ignore[return-value]


def noise(size: Size, cells: tuple[float, float], rng: np.random.Generator, octaves: int = 4) -> np.ndarray:
    """Fractal value noise ``[height, width]`` float32, zero mean, about unit deviation.

    Args:
        size: Pixels.
        cells: Lattice cells across the width and the height in the first octave; each octave doubles them.
        rng: Generator.
        octaves: Each with 0.7 of the amplitude of the one before.
    """
    total, weight = np.zeros((size[1], size[0]), np.float32), 0.0
    for k in range(octaves):
        shape = (max(2, round(cells[1] * 2**k)), max(2, round(cells[0] * 2**k)))
        lattice = rng.standard_normal(shape).astype(np.float32)
        total += 0.7**k * cv2.resize(lattice, size, interpolation=cv2.INTER_CUBIC)
        weight += 0.49**k
    return total / np.float32(0.7 * np.sqrt(weight))


def grained(picture: np.ndarray, rng: np.random.Generator, strength: float, cells: float) -> np.ndarray:
    """The picture with mottled brightness, ``strength`` in grey levels, ``cells`` blotches across its width."""
    height, width = picture.shape[:2]
    mottle = noise((width, height), (cells, cells * height / width), rng, 3)
    return to_uint8(picture.astype(np.float32) + strength * mottle[..., None])


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """Round and clip values in [0, 255]."""
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def canvas(size: Size, colour: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A picture of one colour, and its pen."""
    image = Image.new("RGB", size, colour)
    return image, ImageDraw.Draw(image)


def font(pixels: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a height in pixels."""
    return ImageFont.load_default(max(4.0, pixels))


def wood(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Planks along x, with fibres, growth rings, knots, scratches and specks."""
    planks, y = 7, np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    row = np.minimum((y * planks).astype(int), planks - 1)
    wave = cv2.resize(_growth((max(8, size[0] // 4), max(8, size[1] // 4)), rng), size)
    shift = rng.uniform(0, 1, planks).astype(np.float32)[row]
    tone = 0.86 + rng.uniform(-0.09, 0.09, planks).astype(np.float32)[row]
    value = tone + 0.10 * np.sin(np.float32(2 * np.pi) * (y * 46 + wave + shift))
    value += 0.085 * noise(size, (size[0] / 16, size[1] / 1.8), rng, 1) + 0.075 * noise(size, (110, 320), rng, 2)
    value *= 1 - 0.6 * np.exp(-((np.abs(y * planks - np.round(y * planks)) / 0.012) ** 2))
    picture = Image.fromarray(to_uint8(value[..., None] * np.array([188, 138, 92], np.float32)))
    _scuff(picture, rng)
    return np.asarray(picture)


def _growth(size: Size, rng: np.random.Generator) -> np.ndarray:
    """How far the growth rings bend, in rings: slow waves, and bumps where branches were."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0], dtype=np.float32), np.linspace(0, 1, size[1], dtype=np.float32))
    wave = 0.7 * noise(size, (3, 14), rng, 3)
    for centre in rng.uniform(0.05, 0.95, (16, 2)).astype(np.float32):
        wave += 2.4 * np.exp(-(((x - centre[0]) / 0.03) ** 2 + ((y - centre[1]) / 0.012) ** 2))
    return wave


def _scuff(picture: Image.Image, rng: np.random.Generator) -> None:
    """Scratches, specks of paint and rings of coffee."""
    pen, side = ImageDraw.Draw(picture), picture.width
    for _ in range(700):
        (x, y), length, angle = rng.uniform(0, side, 2), side * rng.uniform(0.004, 0.03), rng.normal(0, 0.7)
        shade = int(rng.choice([70, 95, 205, 225]))
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        pen.line([(x, y), end], fill=(shade, int(shade * 0.85), int(shade * 0.7)), width=max(1, side // 1400))
    for _ in range(2600):
        x, y, r = *rng.uniform(0, side, 2), side * rng.uniform(0.0005, 0.0016)
        pen.ellipse([x - r, y - r * rng.uniform(0.5, 1), x + r, y + r], fill=random_colour(rng, 0.5, 0.55))
    for _ in range(7):
        x, y, r = *rng.uniform(0.2 * side, 0.8 * side, 2), side * rng.uniform(0.028, 0.036)
        start = rng.uniform(0, 360)
        pen.arc([x - r, y - r, x + r, y + r], start, start + rng.uniform(200, 340), (104, 66, 38), max(1, side // 500))


def cover(size: Size, rng: np.random.Generator, title: str) -> np.ndarray:
    """A book's or box's cover: a title over scattered shapes."""
    width, height = size
    image, pen = canvas(size, random_colour(rng, 0.55, 0.66))
    short = min(size)
    for _ in range(46):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        r = short * rng.uniform(0.02, 0.12)
        shape = [
            (x + r * np.cos(a), y + r * np.sin(a)) for a in rng.uniform(0, 6.28) + np.arange(int(rng.integers(3, 7)))
        ]
        if rng.uniform() < 0.5:
            pen.polygon(shape, fill=random_colour(rng), outline=random_colour(rng, 0.3, 0.95))
        else:
            pen.ellipse([x - r, y - r, x + r, y + r], outline=random_colour(rng, 0.5, 0.9), width=max(1, int(r / 4)))
    face = font(min(0.16 * height, 1.5 * width / max(len(title), 1)))
    box_ = pen.textbbox((0.08 * width, 0.12 * height), title, font=face)
    pen.rectangle([box_[0] - 4, box_[1] - 3, box_[2] + 4, box_[3] + 3], fill=(248, 243, 228))
    pen.text((0.08 * width, 0.12 * height), title, fill=(30, 30, 40), font=face)
    pen.text((0.08 * width, 0.82 * height), sentence(rng, 3), fill=(250, 250, 250), font=font(0.075 * height))
    return grained(np.asarray(image), rng, 7, 60)


def sentence(rng: np.random.Generator, count: int) -> str:
    """``count`` words."""
    return " ".join(WORDS[int(k)] for k in rng.integers(0, len(WORDS), count))


def page(size: Size, rng: np.random.Generator, lines: int, title: str, paper: Colour = (242, 240, 232)) -> np.ndarray:
    """A printed page: a headline, a picture box and lines of text."""
    width, height = size
    image, pen = canvas(size, paper)
    pen.text((0.06 * width, 0.03 * height), title, fill=(20, 20, 20), font=font(0.075 * height))
    step, face = 0.84 * height / lines, font(0.7 * 0.84 * height / lines)
    for k in range(lines):
        start = (0.06 * width, 0.13 * height + k * step)
        pen.text(start, sentence(rng, int(width / step) + 4), fill=(40, 40, 48), font=face)
    pen.rectangle([0.94 * width, 0, width, height], fill=paper)
    left, top = rng.uniform(0.1, 0.45) * width, rng.uniform(0.25, 0.55) * height
    photo = cover((max(8, int(0.42 * width)), max(8, int(0.26 * height))), rng, sentence(rng, 1))
    image.paste(Image.fromarray(photo), (int(left), int(top)))
    return grained(np.asarray(image), rng, 4, 80)


def keys(size: Size, rng: np.random.Generator) -> np.ndarray:
    """A pocket calculator: a display, then rows of labelled keys."""
    width, height = size
    image, pen = canvas(size, (52, 56, 64))
    pen.rectangle([0.08 * width, 0.05 * height, 0.92 * width, 0.22 * height], fill=(176, 190, 160))
    digits = "".join(str(d) for d in rng.integers(0, 10, 8))
    pen.text((0.2 * width, 0.09 * height), digits, fill=(30, 36, 30), font=font(0.10 * height))
    for k, label in enumerate(("MC", "MR", "M-", "M+", *"789/456x123-0.=+")):
        x, y = (0.08 + 0.215 * (k % 4)) * width, (0.28 + 0.14 * (k // 4)) * height
        fill = random_colour(rng, 0.6, 0.8) if k % 4 == 3 or k < 4 else (214, 214, 208)
        pen.rounded_rectangle([x, y, x + 0.18 * width, y + 0.11 * height], 0.02 * width, fill=fill)
        pen.text((x + 0.05 * width, y + 0.02 * height), label, fill=(24, 24, 30), font=font(0.07 * height))
    return grained(np.asarray(image), rng, 6, 40)


def stripes(size: Size, rng: np.random.Generator, count: int, label: str = "") -> np.ndarray:
    """Upright bands of random colours with dots in them, and a label."""
    width, height = size
    image, pen = canvas(size, (235, 230, 220))
    edges = np.sort(rng.uniform(0, width, count))
    for left, right in pairwise(edges):
        pen.rectangle([left, 0, right, height], fill=random_colour(rng, 0.5, 0.72))
    for _ in range(4 * count):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), min(size) * rng.uniform(0.02, 0.07)
        pen.ellipse([x - r, y - r, x + r, y + r], fill=random_colour(rng, 0.4, 0.95))
    if label:
        pen.text((0.3 * width, 0.25 * height), label, fill=(20, 20, 30), font=font(0.4 * height))
    return grained(np.asarray(image), rng, 6, 60)


def squares(size: Size, rng: np.random.Generator, count: int) -> np.ndarray:
    """A twisty puzzle's face: ``count`` x ``count`` worn stickers on black."""
    width, height = size
    image, pen = canvas(size, (22, 22, 24))
    colours = [(200, 40, 40), (40, 90, 190), (240, 240, 235), (30, 140, 70), (240, 200, 30), (235, 120, 30)]
    columns = count * max(1, round(width / height))
    for k in range(columns * count):
        x, y = (k % columns) * width / columns, (k // columns) * height / count
        corner = [x + 0.07 * width / columns, y + 0.07 * height / count]
        pen.rectangle([*corner, x + 0.93 * width / columns, y + 0.93 * height / count], fill=colours[rng.integers(6)])
    return grained(np.asarray(image), rng, 8, 30)


def speckled(size: Size, rng: np.random.Generator, colour: Colour, dots: int) -> np.ndarray:
    """Terrazzo: specks of random colours in a ground."""
    image, pen = canvas(size, colour)
    for _ in range(dots):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        a, b = min(size) * rng.uniform(0.008, 0.04, 2)
        pen.ellipse([x - a, y - b, x + a, y + b], fill=random_colour(rng, 0.6, 0.7))
    return grained(np.asarray(image), rng, 9, 50)


def coin(size: Size, rng: np.random.Generator) -> np.ndarray:
    """A coin's face: a rim, rays and a number."""
    tone = [(196, 160, 84), (184, 110, 70), (190, 190, 192)][int(rng.integers(3))]
    dark: Colour = (tone[0] // 2, tone[1] // 2, tone[2] // 2)
    image, pen = canvas(size, tone)
    w, h = size
    pen.ellipse([0.08 * w, 0.08 * h, 0.92 * w, 0.92 * h], outline=dark, width=max(1, w // 24))
    for angle in np.arange(24) * 2 * np.pi / 24:
        c, s = np.cos(angle), np.sin(angle)
        pen.line([((0.5 + 0.33 * c) * w, (0.5 + 0.33 * s) * h), ((0.5 + 0.4 * c) * w, (0.5 + 0.4 * s) * h)], dark, 2)
    pen.text((0.3 * w, 0.25 * h), str(rng.integers(1, 50)), fill=dark, font=font(0.42 * h))
    return grained(np.asarray(image), rng, 8, 14)


def wall(size: Size, rng: np.random.Generator) -> np.ndarray:
    """A room seen past the desk's edge: painted plaster, framed pictures, shelves of books."""
    width, height = size
    ground = np.array([196, 204, 206], np.float32) + 9 * noise(size, (30, 12), rng, 4)[..., None]
    image = Image.fromarray(to_uint8(ground))
    pen = ImageDraw.Draw(image)
    for shelf in (0.35, 0.62):
        x = 0.02 * width
        while x < 0.98 * width:
            thick, tall = width * rng.uniform(0.006, 0.016), height * rng.uniform(0.12, 0.2)
            pen.rectangle([x, shelf * height - tall, x + thick, shelf * height], fill=random_colour(rng, 0.55, 0.6))
            x += thick * rng.uniform(1, 1.3)
        pen.rectangle([0, shelf * height, width, (shelf + 0.018) * height], fill=(120, 84, 56))
    return np.asarray(image)
