"""The identity card: ISO/IEC 7810 ID-1 proportions, a drawn portrait, text, guilloche, a holographic seal.

Symbols: ``u, v`` in [0, 1] run right and down over the card's face; ``view`` is the unit vector from the surface to
the camera. Lengths in metres.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data.synthetic.textures import Size, canvas, font, to_uint8

CARD_SIZE = (0.08560, 0.05398)
CARD_THICKNESS = 0.00076
CARD_CORNER_RADIUS = 0.00318

SEAL_CENTRE_UV = (0.862, 0.36)
SEAL_RADIUS_U = 0.095
ASPECT = CARD_SIZE[0] / CARD_SIZE[1]

NAMES = ("MARLOWE", "OKAFOR", "LINDQVIST", "HERRERA", "TANAKA", "DUVAL", "NOVAK", "ASHBY")
GIVEN = ("ROBIN ELI", "ADA JUNE", "NOOR MAI", "SASHA LEE", "KIM ARI", "TONI RAY", "ALEX WREN", "JO EMERY")


def card_face(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Picture of the card's front ``[height, width, 3]`` uint8, drawn at twice the size and reduced."""
    width, height = 2 * size[0], 2 * size[1]
    image = Image.fromarray(_guilloche((width, height), rng))
    pen = ImageDraw.Draw(image)
    pen.rectangle([0, 0, width, 0.135 * height], fill=(34, 70, 128))
    pen.text((0.035 * width, 0.022 * height), "REPUBLIC OF UTOPIA", fill=(250, 250, 250), font=font(0.085 * height))
    pen.text((0.66 * width, 0.036 * height), "IDENTITY CARD", fill=(226, 232, 245), font=font(0.062 * height))
    portrait = _portrait((int(0.27 * width), int(0.56 * height)), rng)
    left, top = int(0.04 * width), int(0.19 * height)
    image.paste(portrait, (left, top))
    pen.rectangle([left, top, left + portrait.width, top + portrait.height], outline=(70, 84, 110), width=3)
    _fields(pen, (width, height), rng)
    return np.asarray(image.resize(size, Image.Resampling.BOX))


def _guilloche(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Security print: three families of wavy lines, and a rosette, over a pale gradient."""
    width, height = size
    u, v = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
    tints = np.array([[206, 224, 240], [240, 222, 206], [214, 238, 216]], np.float32)
    face = tints[0] * (1 - u)[..., None] + tints[1] * u[..., None]
    for k in range(3):
        a, b, phase = rng.uniform(0.02, 0.05), rng.uniform(1.5, 4), rng.uniform(0, 6.28)
        curve = v + a * np.sin(2 * np.pi * b * u + phase) * np.cos(np.pi * (v - 0.5)) + 0.02 * k * u
        face -= _lines(curve * (22 + 5 * k))[..., None] * (255 - tints[(k + 1) % 3]) * 1.6
    x, y = (u - 0.62) * ASPECT, v - 0.6
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    rosette = _lines(16 * radius * (1 + 0.16 * np.cos(12 * angle))) * (radius < 0.34)
    return to_uint8(face - rosette[..., None] * np.array([70, 34, 46], np.float32))


def _lines(phase: np.ndarray) -> np.ndarray:
    """Thin dark lines where ``phase`` passes an integer; 1 on the line, 0 between."""
    return np.clip(np.cos(2 * np.pi * phase) * 2.2 - 1.2, 0, 1)


def _portrait(size: Size, rng: np.random.Generator) -> Image.Image:
    """A drawn bust: shoulders, neck, head, hair, eyes, nose and mouth, softened a little."""
    w, h = size
    skin = [(232, 190, 160), (198, 148, 112), (150, 104, 76), (244, 208, 184)][int(rng.integers(4))]
    hair = [(50, 34, 26), (110, 66, 34), (24, 22, 26), (150, 120, 70)][int(rng.integers(4))]
    shade = tuple(int(c * 0.82) for c in skin)
    image, pen = canvas(size, (196, 206, 216))
    pen.ellipse([0.20 * w, 0.10 * h, 0.80 * w, 0.72 * h], fill=hair)
    pen.ellipse([0.02 * w, 0.74 * h, 0.98 * w, 1.5 * h], fill=(46, 60, 92))
    pen.polygon(
        [(0.38 * w, 0.62 * h), (0.62 * w, 0.62 * h), (0.66 * w, 0.82 * h), (0.5 * w, 0.9 * h), (0.34 * w, 0.82 * h)],
        shade,
    )
    pen.ellipse([0.26 * w, 0.17 * h, 0.74 * w, 0.71 * h], fill=skin)
    pen.pieslice([0.22 * w, 0.09 * h, 0.78 * w, 0.50 * h], 180, 360, fill=hair)
    pen.ellipse([0.30 * w, 0.23 * h, 0.70 * w, 0.42 * h], fill=skin)
    for x in (0.40, 0.60):
        pen.ellipse([(x - 0.062) * w, 0.395 * h, (x + 0.062) * w, 0.445 * h], fill=(250, 250, 250))
        pen.ellipse([(x - 0.028) * w, 0.395 * h, (x + 0.028) * w, 0.445 * h], fill=(44, 60, 70))
        pen.line([((x - 0.075) * w, 0.37 * h), ((x + 0.075) * w, 0.362 * h)], hair, max(1, int(0.018 * h)))
    pen.line([(0.51 * w, 0.42 * h), (0.47 * w, 0.53 * h), (0.53 * w, 0.535 * h)], shade, max(1, int(0.014 * h)))
    pen.chord([0.41 * w, 0.55 * h, 0.59 * w, 0.63 * h], 10, 170, fill=(168, 70, 74))
    pen.polygon(
        [(0.30 * w, 0.78 * h), (0.5 * w, 0.92 * h), (0.70 * w, 0.78 * h), (0.62 * w, h), (0.38 * w, h)], (238, 238, 240)
    )
    pen.polygon([(0.46 * w, 0.90 * h), (0.54 * w, 0.90 * h), (0.57 * w, h), (0.43 * w, h)], (150, 36, 48))
    return image.filter(ImageFilter.GaussianBlur(0.006 * h))


def _fields(pen: ImageDraw.ImageDraw, size: Size, rng: np.random.Generator) -> None:
    """Labelled lines beside the portrait, and the machine-readable zone below."""
    w, h = size
    name, given = NAMES[int(rng.integers(len(NAMES)))], GIVEN[int(rng.integers(len(GIVEN)))]
    number = "".join(str(d) for d in rng.integers(0, 10, 9))
    day = f"{rng.integers(1, 28):02d}.{rng.integers(1, 13):02d}.{rng.integers(1950, 2003)}"
    rows = (("Surname", name), ("Given names", given), ("Date of birth", day), ("Card No.", f"UT {number}"))
    for k, (label, value) in enumerate(rows):
        y = (0.175 + 0.145 * k) * h
        pen.text((0.35 * w, y), label, fill=(84, 96, 120), font=font(0.043 * h))
        pen.text((0.35 * w, y + 0.049 * h), value, fill=(16, 18, 28), font=font(0.078 * h))
    for k in range(2):
        text = (f"IDUTO{number}<<{name}" if k == 0 else given.replace(" ", "<") + "<<").ljust(30, "<")
        for j, letter in enumerate(text[:30]):
            pen.text(((0.05 + 0.0302 * j) * w, (0.80 + 0.085 * k) * h), letter, fill=(10, 10, 14), font=font(0.075 * h))


def seal(rgb: np.ndarray, uv: np.ndarray, view: np.ndarray, half_dot_normal: np.ndarray) -> np.ndarray:
    """Lay the holographic seal over the card's colours.

    Args:
        rgb: ``[n, 3]`` in [0, 255], the printed card.
        uv: ``[n, 2]``.
        view: ``[n, 3]`` in the card's axes (x right, y up on the card, z its normal).
        half_dot_normal: ``[n]`` cosine between the normal and the half vector of light and view, for the glint.

    Returns:
        ``[n, 3]``; unchanged outside the seal. The hue turns with the view as a grating's does: it follows the
        view's component across the grooves, which lie radially in a rosette.
    """
    x, y = (uv[:, 0] - SEAL_CENTRE_UV[0]) / SEAL_RADIUS_U, (uv[:, 1] - SEAL_CENTRE_UV[1]) / SEAL_RADIUS_U / ASPECT
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    petals = 0.5 + 0.5 * np.cos(6 * angle + 5 * radius)
    phase = 2.1 * view[:, 0] + 1.4 * view[:, 1] + 0.25 * petals + 0.35 * radius
    rainbow = 0.5 + 0.5 * np.cos(2 * np.pi * (phase[:, None] - np.array([0, 1 / 3, 2 / 3], np.float32)))
    colour = 255 * (0.18 + 0.62 * rainbow + 0.12 * petals[:, None])
    glint = 150 * np.maximum(half_dot_normal, 0) ** 60
    cover = np.clip((1 - radius) * 12, 0, 1)[:, None] * (0.72 + 0.22 * petals[:, None])
    return rgb * (1 - cover) + cover * (colour + glint[:, None])
