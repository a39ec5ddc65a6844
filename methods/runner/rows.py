"""One strip of everything that a model shows of a view, to be looked at: ``<name>.row.jpg``."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.alpha import read_shown, to_uint8
from methods.runner.renders import Picture, normal_colours
from methods.runner.views import View

LONG_SIDE = 320  # pixels of a panel at most
GAP, CAPTION = 4, 18
INK, PAPER = (30, 30, 30), (255, 255, 255)
QUALITY = 90


def write_row(folder: Path, view: View, picture: Picture) -> None:
    """Write ``<name>.row.jpg``: truth where there is one, prediction, foreground, background, depth, normal, opacity.

    Raises:
        UserError: The true picture is damaged or missing.
    """
    panels = row_panels(view, picture)
    height, width = picture.opacity.shape
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    strip = Image.new("RGB", ((size[0] + GAP) * len(panels) - GAP, size[1] + CAPTION), PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=12)
    for index, (caption, panel) in enumerate(panels.items()):
        left = index * (size[0] + GAP)
        strip.paste(Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS), (left, CAPTION))
        draw.text((left, 2), caption, INK, font)
    strip.save(folder / f"{view.name}.row.jpg", quality=QUALITY)


def row_panels(view: View, picture: Picture) -> dict[str, np.ndarray]:
    """Captions and uint8 ``[h, w, 3]`` pictures of a row, in order; those that the model does not have are left out."""
    truth = None
    if view.truth is not None and view.truth.is_file():  # a dataset may be moved without its pictures
        truth = read_shown(view.truth, view.background)
    shown = {
        "truth": truth,
        "prediction": to_uint8(picture.rgb),
        "foreground": picture.foreground if picture.foreground is None else _colours(picture.foreground),
        "background": picture.background if picture.background is None else _colours(picture.background),
        "depth": depth_colours(picture.depth, picture.opacity),
        "normal": None
        if picture.normal is None
        else to_uint8(normal_colours(picture.normal * picture.opacity[..., None])),
        "opacity": np.repeat(to_uint8(picture.opacity)[..., None], 3, axis=2),
    }
    return {caption: panel for caption, panel in shown.items() if panel is not None}


def _colours(values: np.ndarray) -> np.ndarray:
    return to_uint8(np.clip(np.nan_to_num(values), 0, 1))


def depth_colours(depth: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Depth ``[h, w]`` as colours, near red and far blue, between the 2 and 98 percentiles of what is opaque.

    What has an opacity ``[h, w]`` below 1 fades into black: its depth is that of little.
    """
    opaque = depth[(opacity > 0.5) & np.isfinite(depth)]
    low, high = np.percentile(opaque, [2, 98]) if len(opaque) else (0.0, 1.0)
    share = np.clip((np.nan_to_num(depth) - low) / max(high - low, 1e-9), 0, 1)
    colours = cv2.applyColorMap(to_uint8(1 - share), cv2.COLORMAP_TURBO)[..., ::-1]
    return to_uint8(colours / 255 * opacity[..., None])
