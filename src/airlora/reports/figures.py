"""Figures of the reports, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from airlora.policy import policy_specs
from airlora.reports.compare import ComparisonRow
from airlora.reports.tables import projection_column
from airlora.tasks import Metric

__all__ = [
    "STYLE",
    "draw_heat_maps",
    "new_figure",
    "rank_heat_maps",
    "reward_curve",
    "score_axis",
    "score_by_params",
    "score_by_snr",
    "styled",
    "svg_of",
]

_ORANGE, _BLUE = "#D55E00", "#0072B2"
"""Colours of the palette of Okabe and Ito, which people with colour vision deficiencies can tell apart."""

_BASELINES = {"adalora": ("#009E73", "^"), "adalora-ranks": ("#8FD4BC", "x")}
"""Colour and marker of PEFT's AdaLoRA, which is no policy of the registry."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "airlora",
    "text.parse_math": False,  # file names may contain dollar signs
}
"""Settings of matplotlib for all figures."""


def svg_of(figure: Figure) -> str:
    """Return a figure as an SVG element without a date."""
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = stream.getvalue()
    return text[text.index("<svg") :]


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row; width and height are in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = np.atleast_1d(np.asarray(figure.subplots(rows, columns))).ravel().tolist()
    return figure, axes


def styled(draw: Callable[[], Figure]) -> str:
    """Return the figure that `draw` makes in the style of the reports, as SVG."""
    with matplotlib.rc_context(STYLE):
        return svg_of(draw())


def reward_curve(metrics: Sequence[Mapping[str, Any]], metric: Metric) -> str:
    """Return the reward of every decision of a run, or the loss without decisions, and the evaluations.

    Args:
        metrics: Lines of `metrics.jsonl`.
        metric: Metric of the evaluations that is shown.
    """
    return styled(lambda: _draw_rewards(metrics, metric))


_PHASES = (("finetune", "while fine-tuning"), ("learn", "on the frozen adapter"))


def _draw_rewards(metrics: Sequence[Mapping[str, Any]], metric: Metric) -> Figure:
    by_kind = {kind: [line for line in metrics if line["kind"] == kind] for kind in ("finetune", "learn", "eval")}
    phases = [(kind, title) for kind, title in _PHASES if by_kind[kind]]
    figure, axes = new_figure(4.4 * max(1, len(phases)), 3.2, 1, max(1, len(phases)))
    for axis, (kind, title) in zip(axes, phases, strict=False):
        lines = by_kind[kind]
        quantity = "reward" if "reward" in lines[0] else "loss"
        _noisy_line(axis, [line["step"] for line in lines], [line[quantity] for line in lines], quantity)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylabel("reward R = -U - λη" if quantity == "reward" else "training loss, nats")
        if kind == "finetune" and by_kind["eval"]:
            _evaluation_line(axis, by_kind["eval"], metric)
        # Above the axes: inside, the lines would cross the legend.
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, fontsize=8)
    return figure


def _noisy_line(axis: Axes, steps: Sequence[int], values: Sequence[float], name: str) -> None:
    """Draw all values faintly, and their running mean."""
    window = max(1, len(values) // 10)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    axis.plot(steps, values, color=_ORANGE, alpha=0.18, linewidth=0.7)
    axis.plot(steps[window - 1 :], smooth, color=_ORANGE, label=f"{name}, mean of {window} steps")


def _evaluation_line(axis: Axes, evaluations: Sequence[Mapping[str, Any]], metric: Metric) -> None:
    """Draw a metric of every evaluation on a second axis."""
    other = axis.twinx()
    other.plot(
        [line["step"] for line in evaluations],
        [line[metric.name] for line in evaluations],
        color=_BLUE,
        marker="o",
        markersize=4,
    )
    score_axis(other, metric, color=_BLUE)
    other.grid(visible=False)
    other.spines["right"].set_visible(True)


def score_axis(axis: Axes, metric: Metric, color: str = "black") -> None:
    """Label the vertical axis with a metric, and show shares as percentages."""
    axis.set_ylabel(", ".join(filter(None, (metric.name, metric.unit))), color=color)
    if metric.style == "%":
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))


def rank_heat_maps(
    patterns: Mapping[str, Mapping[str, int]], modules: Mapping[str, Mapping[str, Any]], r_max: int
) -> str:
    """Return one heat map of ranks per pattern, with a row per layer and a column per projection.

    Args:
        patterns: Rank by module name, by title of the heat map.
        modules: `role` and `layer` by module name, in order.
        r_max: Largest rank of the adapter, for the label of the colour scale.
    """
    return styled(lambda: _draw_heat_maps(patterns, modules, r_max))


def _draw_heat_maps(
    patterns: Mapping[str, Mapping[str, int]], modules: Mapping[str, Mapping[str, Any]], r_max: int
) -> Figure:
    layers = {module["layer"] for module in modules.values()}
    figure, axes = new_figure(2.6 * len(patterns) + 0.6, 1.2 + 0.34 * len(layers), 1, len(patterns))
    draw_heat_maps(figure, axes, patterns, modules, r_max)
    return figure


def draw_heat_maps(
    figure: Figure,
    axes: Sequence[Axes],
    patterns: Mapping[str, Mapping[str, int]],
    modules: Mapping[str, Mapping[str, Any]],
    r_max: int,
) -> None:
    """Draw one heat map per pattern on existing axes. The other arguments are those of `rank_heat_maps`."""
    columns = _heat_map_columns(modules)
    layers = sorted({module["layer"] for module in modules.values()})
    largest = max(1, max(max(ranks.values()) for ranks in patterns.values()))
    image = None
    for index, (axis, (title, ranks)) in enumerate(zip(axes, patterns.items(), strict=True)):
        grid = np.full((len(layers), len(columns)), np.nan)
        for name, module in modules.items():
            grid[layers.index(module["layer"]), columns.index(projection_column(name, module))] = ranks[name]
        image = axis.imshow(grid, cmap="viridis", vmin=0, vmax=largest, aspect="auto", origin="lower")
        for row, column in np.argwhere(np.isfinite(grid)):
            value = int(grid[row, column])
            shade = "black" if value > 0.6 * largest else "white"
            axis.text(column, row, str(value), ha="center", va="center", fontsize=7, color=shade)
        axis.set_title(f"{title}\nmean {np.nanmean(grid):.2f}", loc="left", fontsize=10)
        axis.set_xticks(range(len(columns)), columns, fontsize=8)
        axis.set_yticks(range(len(layers)), [str(layer) for layer in layers], fontsize=8)
        axis.grid(visible=False)
        if index == 0:
            axis.set_ylabel("layer")
    if image is not None:
        figure.colorbar(image, ax=axes, label=f"rank (r_max {r_max})", shrink=0.9, pad=0.01)


def _heat_map_columns(modules: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(projection_column(name, module) for name, module in modules.items()))


def score_by_snr(rows: Sequence[ComparisonRow]) -> str:
    """Return the primary metric against SNR with a line per policy (Fig. 4 of the paper)."""

    def draw() -> Figure:
        figure, (axis,) = new_figure(5.4, 3.5)
        _lines(axis, rows, lambda row: row.snr_db)
        axis.set_xlabel("mean SNR, dB")
        axis.set_xticks(sorted({row.snr_db for row in rows}))
        return figure

    return styled(draw)


def score_by_params(rows: Sequence[ComparisonRow]) -> str:
    """Return the primary metric against sent parameters, classification head included, with a line per policy."""

    def draw() -> Figure:
        figure, (axis,) = new_figure(5.4, 3.5)
        _lines(axis, rows, lambda row: row.num_params + row.num_head_params)
        axis.set_xscale("log")
        axis.set_xlabel("parameters sent, classification head included")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}k"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        return figure

    return styled(draw)


def _lines(axis: Axes, rows: Sequence[ComparisonRow], x: Any) -> None:
    styles = {name: (spec.colour, spec.marker) for name, spec in policy_specs().items()} | _BASELINES
    for name in dict.fromkeys(row.policy for row in rows):
        colour, marker = styles.get(name, ("black", "x"))
        points = sorted((x(row), row.score) for row in rows if row.policy == name)
        axis.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            label=name,
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.6,
        )
    score_axis(axis, rows[0].metric)
    axis.legend(frameon=False, fontsize=8, loc="best")
