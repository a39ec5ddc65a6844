"""Words and numbers as a reader sees them: headings, cell labels, means with intervals, times, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reports.records import number

# What a reader calls the axes of a study, in the order of the tables.
AXIS_WORDS = {
    "count": "Frames",
    "policy": "Poses",
    "mask": "Mask",
    "method": "Method",
    "variant": "Variant",
    "preset": "Preset",
    "mapper": "Mapper",
    "sfm_mask": "SfM mask",
    "sfm_seed": "SfM seed",
    "subset_draw": "Subset draw",
}
# The same as parts of a label that stands alone.
_PHRASES = {
    "count": "{} frames",
    "policy": "{} poses",
    "mask": "mask {}",
    "mapper": "{} mapper",
    "sfm_mask": "SfM mask {}",
    "sfm_seed": "SfM seed {}",
    "subset_draw": "subset draw {}",
}
# Always shown, even where the study has one value only.
MAIN_AXES = ("count", "policy", "method")
NONE = "–"


@dataclass(frozen=True)
class Metric:
    """A value that the report shows.

    Attributes:
        column: Its name in ``runs.csv``.
        name: What it is called.
        where: Which views it is about, or empty.
        unit: Its unit, or empty.
        digits: Decimals shown.
        scale: Factor from the table's unit to the shown one.
        higher_is_better: None where neither is better.
    """

    column: str
    name: str
    where: str = ""
    unit: str = ""
    digits: int = 2
    scale: float = 1.0
    higher_is_better: bool | None = True

    @property
    def words(self) -> str:
        """Name, and which views it is about."""
        return f"{self.name}, {self.where}" if self.where else self.name

    @property
    def short_heading(self) -> str:
        """Name with the unit and an arrow to where better is."""
        arrow = {True: " ↑", False: " ↓", None: ""}[self.higher_is_better]
        return (f"{self.name} ({self.unit})" if self.unit else self.name) + arrow

    @property
    def heading(self) -> str:
        """The same, with the views."""
        return f"{self.short_heading}, {self.where}" if self.where else self.short_heading

    def mean(self, cell: dict[str, str]) -> float | None:
        """A cell's mean in the shown unit."""
        return self._scaled(number(cell, f"{self.column}_mean"))

    def interval(self, cell: dict[str, str]) -> tuple[float, float] | None:
        """A cell's 95 % interval in the shown unit; None for fewer than three runs."""
        low = self._scaled(number(cell, f"{self.column}_lo95"))
        high = self._scaled(number(cell, f"{self.column}_hi95"))
        return None if low is None or high is None else (low, high)

    def value(self, run: dict[str, str]) -> float | None:
        """A run's value in the shown unit."""
        return self._scaled(number(run, self.column))

    def parts(self, cell: dict[str, str]) -> tuple[str, str]:
        """``("23.41", "± 0.32")``; without an interval the second is empty, without a mean the first a dash."""
        mean, interval = self.mean(cell), self.interval(cell)
        if mean is None:
            return NONE, ""
        half = f"± {(interval[1] - interval[0]) / 2:.{self.digits}f}" if interval else ""
        return f"{mean:.{self.digits}f}", half

    def show(self, cell: dict[str, str]) -> str:
        """Both parts in one."""
        return " ".join(filter(None, self.parts(cell)))

    def _scaled(self, value: float | None) -> float | None:
        return None if value is None else value * self.scale


def _image_metrics(prefix: str, where: str) -> tuple[Metric, ...]:
    lower = {"digits": 3, "higher_is_better": False}
    return (
        Metric(f"{prefix}psnr_float", "PSNR", where, "dB"),
        Metric(f"{prefix}ssim_float", "SSIM", where, digits=3),
        Metric(f"{prefix}lpips_alex_float", "LPIPS (Alex)", where, **lower),
        Metric(f"{prefix}lpips_vgg_float", "LPIPS (VGG)", where, **lower),
    )


_OF_IMAGES = (
    *_image_metrics("test_", "test views"),
    *_image_metrics("novel_", "novel views"),
    *_image_metrics("test_masked_", "test views, in mask"),
)
SURFACE = (
    Metric("chamfer_world", "Chamfer", "mesh, world units", digits=5, higher_is_better=False),
    Metric("fscore", "F-score", "mesh", digits=3),
    Metric("normal_consistency", "Normals", "mesh, mean |cos|", digits=3),
)
# The two networks of LPIPS rank alike; the table keeps one, the curve's menu and the CSV files both.
QUALITY = (*_OF_IMAGES, *SURFACE)
TABLE_QUALITY = tuple(m for m in QUALITY if m.name != "LPIPS (VGG)")
COST = (
    Metric("wall_s:train", "Training", "per run", "s", digits=1, higher_is_better=False),
    Metric("render_rays_per_s", "Rendering", "all views", "1000 rays/s", digits=1, scale=1e-3),
    Metric("seconds_per_novel_view", "Rendering", "per novel view", "s", higher_is_better=False),
    Metric("peak_rss_bytes", "Peak memory", "host", "GiB", higher_is_better=False, scale=1 / 2**30),
)
RANKED_BY = QUALITY[0]
RANKED_BY_IN_MASK = next(m for m in QUALITY if m.column == "test_masked_psnr_float")


def present(metrics: Iterable[Metric], cells: Sequence[dict[str, str]]) -> list[Metric]:
    """The metrics that any of the cells has, so that no empty column is shown."""
    return [m for m in metrics if any(m.mean(cell) is not None for cell in cells)]


def shown_axes(cells: Sequence[dict[str, str]]) -> list[str]:
    """Axes worth a column: the main ones, and whatever takes more than one value."""
    varying = {axis for axis in AXIS_WORDS if len({c[axis] for c in cells}) > 1}
    # Preset and variant overlap: the variant is shown only where method and preset leave two cells alike.
    if len({(c["method"], c["preset"], c["variant"]) for c in cells}) == len(
        {(c["method"], c["preset"]) for c in cells}
    ):
        varying -= {"variant"}
    else:
        varying = (varying - {"preset"}) | {"variant"}
    return [axis for axis in AXIS_WORDS if axis in varying or axis in MAIN_AXES]


def axis_value(cell: dict[str, str], axis: str) -> str:
    """An axis's value in words."""
    value = cell[axis]
    if axis == "count" and value.endswith("pct"):
        return f"{value.removesuffix('pct')} %"
    return value


def axis_phrase(cell: dict[str, str], axis: str) -> str:
    """An axis's value as part of a label, understandable without a heading."""
    value = axis_value(cell, axis)
    return "1 frame" if (axis, value) == ("count", "1") else _PHRASES.get(axis, "{}").format(value)


def label(cell: dict[str, str], axes: Iterable[str]) -> str:
    """One line that tells a cell from the others."""
    return ", ".join(axis_phrase(cell, axis) for axis in axes)


def plural(count: int, noun: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def significant(value: float | None, digits: int) -> str:
    """A number with that many significant digits and no exponent, or a dash."""
    if value is None:
        return NONE
    decimals = max(0, digits - len(str(int(abs(value))))) if abs(value) >= 1 else digits
    return f"{value:.{decimals}f}"


def gibibytes(value: float | None) -> str:
    """Bytes as GiB with two decimals, or a dash."""
    return NONE if value is None else f"{value / 2**30:.2f}"


def vector(value: Sequence[Any] | None) -> str:
    """Coordinates with three decimals, or a dash."""
    return NONE if not value else "(" + ", ".join(f"{float(v):.3f}" for v in value) + ")"
