"""Plotly figures as plain dicts: quality against the number of frames, and what each stage cost.

Names come from a config and end in SVG text that knows some markup, so each of them passes ``html.escape``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from reports.records import RUN_STAGES, number
from reports.text import AXIS_WORDS, Metric, label, plural

# Okabe and Ito's colours, which the colour-blind can tell apart; yellow is too pale for lines and left out.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")
DASHES = ("solid", "dash", "dot", "dashdot")
MAX_COST_BARS = 40

Figure = dict[str, Any]
Row = dict[str, str]


def frame_curve(
    runs: Sequence[Row], cells: Sequence[Row], metrics: Sequence[Metric], axes: Sequence[str]
) -> Figure | None:
    """Quality against the number of training frames that were asked for, of one scene.

    One line per combination of the other axes through the cells' means, a dot per run, and a band of the 95 %
    interval where a cell has three runs or more. Counts with infeasible runs carry a cross.

    Args:
        runs: The scene's rows of ``runs.csv``.
        cells: The scene's rows of ``cells.csv``.
        metrics: What the menu offers, the first one shown.
        axes: Axes that name a line; the count among them is left out.

    Returns:
        A figure, or None where no cell has a number of frames and a metric.
    """
    axes = [a for a in axes if a != "count"]
    lines = _lines([c for c in cells if _frames(c) is not None], axes)
    if not lines or not metrics:
        return None
    steps = [_curve_step(lines, runs, metric) for metric in metrics]
    data = [
        trace | {key: steps[0][key][i] for key in ("x", "y", "text", "marker.symbol")}
        for i, trace in enumerate(itertools.chain(*(_line_traces(i, name) for i, name in enumerate(lines))))
    ]
    for trace in data:
        symbols = trace.pop("marker.symbol")
        if "marker" in trace:
            trace["marker"] = trace["marker"] | {"symbol": symbols}
    frames = sorted({f for c in itertools.chain(*lines.values()) if (f := _frames(c)) is not None})
    return {"data": data, "layout": _curve_layout(steps, metrics, frames, runs)}


def _lines(cells: Iterable[Row], axes: Sequence[str]) -> dict[str, list[Row]]:
    """Cells that differ in the number of frames only, by the label of their line, in ascending order."""
    lines: dict[tuple[str, ...], list[Row]] = {}
    for cell in cells:
        lines.setdefault(tuple(cell[a] for a in AXIS_WORDS if a != "count"), []).append(cell)
    return {label(line[0], axes): sorted(line, key=lambda c: _frames(c) or 0) for line in lines.values()}


def _frames(cell: Row) -> float | None:
    """Frames asked for; a percentage is known only once the poses are there."""
    asked = number(cell, "requested_mean")
    return float(cell["count"]) if asked is None and cell["count"].isdigit() else asked


def _line_traces(index: int, name: str) -> list[dict[str, Any]]:
    """Band, mean line and dots of one line, without their numbers."""
    colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
    common = {"type": "scatter", "legendgroup": str(index), "hovertemplate": "%{text}<extra></extra>"}
    band = {
        "mode": "lines",
        "fill": "toself",
        "fillcolor": colour + "26",
        "line": {"color": colour + "66", "width": 1},
    }
    line = {
        "mode": "lines+markers",
        "line": {"color": colour, "dash": dash},
        "marker": {"size": 10, "color": colour},
    }
    dots = {"mode": "markers", "marker": {"size": 5, "color": colour, "opacity": 0.6}}
    return [
        common | band | {"name": "95 % interval", "showlegend": False, "hoverinfo": "skip"},
        common | line | {"name": escape(name)},
        common | dots | {"name": "runs", "showlegend": False},
    ]


def _curve_step(lines: dict[str, list[Row]], runs: Sequence[Row], metric: Metric) -> dict[str, list[Any]]:
    """Numbers of all traces for one metric, keyed as plotly's restyle wants them."""
    step: dict[str, list[Any]] = {"x": [], "y": [], "text": [], "marker.symbol": []}
    for name, line in lines.items():
        means = [c for c in line if _drawable(metric.mean(c))]
        own = {c["cell"]: _frames(c) for c in means}
        dots = [r for r in runs if r["cell"] in own and _drawable(metric.value(r))]
        band_x, band_y = _band(means, metric)
        x = [band_x, [_frames(c) for c in means], [own[r["cell"]] for r in dots]]
        y = [band_y, [metric.mean(c) for c in means], [metric.value(r) for r in dots]]
        step["x"] += x
        step["y"] += y
        step["text"] += [
            [],
            [_mean_text(name, c, metric) for c in means],
            [_run_text(r, metric) for r in dots],
        ]
        symbols = ["circle" if c["complete"] == "1" else "circle-open" for c in means]
        step["marker.symbol"] += ["circle", symbols, "circle"]
    return step


def _drawable(value: float | None) -> bool:
    """Whether there is a place for it; the PSNR of equal pictures is infinite."""
    return value is not None and math.isfinite(value)


def _band(means: list[Row], metric: Metric) -> tuple[list[Any], list[Any]]:
    """Outlines of the interval over neighbouring counts that have one; None parts the outlines."""
    x: list[Any] = []
    y: list[Any] = []
    for has_interval, group in itertools.groupby(means, key=lambda c: metric.interval(c) is not None):
        if has_interval:
            points = [(_frames(c), metric.interval(c) or (0.0, 0.0)) for c in group]
            x += [p for p, _ in points] + [p for p, _ in reversed(points)] + [points[0][0], None]
            y += [i[0] for _, i in points] + [i[1] for _, i in reversed(points)] + [points[0][1][0], None]
    return x, y


def _mean_text(name: str, cell: Row, metric: Metric) -> str:
    runs = f"{cell['n_runs']} of {plural(int(cell['planned']), 'run')}"
    return f"{escape(name)}<br>{escape(metric.words)}: {metric.show(cell)}<br>{runs}"


def _run_text(run: Row, metric: Metric) -> str:
    value = f"{metric.value(run):.{metric.digits}f}"
    poses = f"{run['registered'] or '?'} of {run['requested'] or '?'} frames registered"
    return f"seed {escape(run['seed'])}, repeat {escape(run['repeat'])}: {value}<br>{poses}"


def _curve_layout(
    steps: list[dict[str, list[Any]]], metrics: Sequence[Metric], frames: list[float], runs: Sequence[Row]
) -> dict[str, Any]:
    wide = frames[-1] > 4 * frames[0]
    buttons = [
        {"label": metric.words, "method": "update", "args": [step, {"yaxis.title.text": metric.heading}]}
        for step, metric in zip(steps, metrics, strict=True)
    ]
    ticks = [f"{f:g}" for f in frames]
    menu = {"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "showactive": True}
    return {
        "height": 460,
        "margin": {"l": 64, "r": 16, "t": 56, "b": 56},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": -0.2},
        "xaxis": {
            "title": {"text": "Training frames asked for"},
            "type": "log" if wide else "linear",
            "range": _range(frames, wide),
            "tickvals": frames,
            "ticktext": ticks,
        },
        "yaxis": {"title": {"text": metrics[0].heading}, "automargin": True},
        "updatemenus": [menu] if len(metrics) > 1 else [],
        "annotations": _crosses(runs, wide),
    }


def _range(frames: list[float], log: bool) -> list[float]:
    """Ends of the axis: plotly would leave out counts that have nothing but an infeasible cross."""
    low, high = (math.log10(f) if log else f for f in (frames[0], frames[-1]))
    margin = 0.06 * (high - low) or 1.0
    return [low - margin, high + margin]


def _crosses(runs: Sequence[Row], log: bool) -> list[dict[str, Any]]:
    """A note at the foot of every count that has infeasible runs."""
    failed: dict[float, list[Row]] = {}
    for run in runs:
        frames = _frames(run | {"requested_mean": run["requested"]})
        if run["state"] == "infeasible" and frames is not None:
            failed.setdefault(frames, []).append(run)
    return [_cross(frames, rows, log) for frames, rows in failed.items()]


def _cross(frames: float, rows: list[Row], log: bool) -> dict[str, Any]:
    reasons = "<br>".join(dict.fromkeys(escape(r["reason"]) for r in rows))
    x = math.log10(frames) if log else frames
    place = {"x": x, "xref": "x", "y": 0, "yref": "paper", "yanchor": "bottom", "showarrow": False}
    return place | {"text": f"✕ {len(rows)} infeasible", "hovertext": reasons, "font": {"size": 11}}


def cost_bars(cells: Sequence[Row], axes: Sequence[str]) -> Figure | None:
    """Mean wall seconds per run and stage, one stacked bar per cell that has any; None without one."""
    costly = [c for c in cells if any(_wall(c, stage) for stage in RUN_STAGES)][:MAX_COST_BARS]
    if not costly:
        return None
    names = [escape(label(c, axes)) for c in costly]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": stage,
            "y": list(range(len(costly))),
            "x": [_wall(c, stage) for c in costly],
            "text": names,
            "textposition": "none",
            "hovertemplate": "%{text}: " + stage + " %{x:.3~g} s<extra></extra>",
            "marker": {"color": colour},
        }
        for stage, colour in zip(RUN_STAGES, COLOURS, strict=False)
    ]
    layout = {
        "barmode": "stack",
        "height": 130 + 26 * len(costly),
        "margin": {"l": 16, "r": 16, "t": 40, "b": 48},
        "legend": {"orientation": "h", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "xaxis": {"title": {"text": "Wall time per run (s), mean over the cell's runs"}},
        "yaxis": {
            "automargin": True,
            "autorange": "reversed",
            "tickvals": list(range(len(costly))),
            "ticktext": names,
        },
    }
    return {"data": data, "layout": layout}


def _wall(cell: Row, stage: str) -> float | None:
    return number(cell, f"wall_s:{stage}_mean")
