"""Figures of the paper, redrawn for print: lines with intervals over seeds, heat maps, and differences by claim.

Figures are 3.5 in wide for one column or 7.16 in for two, with text of 8 pt. Colour, marker and line style all differ
between series, so that a figure can be read without colour. All intervals are 95 % intervals over seeds by Student's t.
Equal data give equal files.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from airlora.errors import DataError
from airlora.files import make_folder, write_bytes
from airlora.reports.figures import STYLE, new_figure, svg_of
from airlora.reproduce.statistics import Estimate, mean_estimate
from airlora.reproduce.tables import csv_text

__all__ = [
    "COLUMN_INCHES",
    "PAGE_INCHES",
    "Difference",
    "DrawnFigure",
    "Series",
    "forest_figure",
    "heat_map_figure",
    "line_figure",
    "paired_line_figure",
    "write_figure",
]

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.16
"""Widths of one and of two columns of an IEEE page, inches."""

_PRINT: dict[Any, Any] = STYLE | {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
}

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Palette of Okabe and Ito, which people with colour vision deficiencies can tell apart; its yellow is too pale."""

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")

_LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)))

_CUT_NOTE = "Intervals that are much wider than the differences between the seeds are cut off at the axis."


@dataclass(frozen=True)
class DrawnFigure:
    """A finished figure.

    Args:
        svg: SVG element.
        pdf: PDF file.
        numbers: Drawn numbers, one mapping per point.
        width: Width, inches.
        notes: Sentences that a caption needs.
    """

    svg: str
    pdf: bytes
    numbers: Sequence[Mapping[str, Any]]
    width: float
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Series:
    """A line of a figure.

    Args:
        label: Name in the legend.
        x: Positions, float [num_points].
        y_by_seed: Values, float [num_seeds, num_points].
        colour: Colour. None takes the next of the palette.
        marker: Marker. None takes the next of a list.
        line: Line style of matplotlib. None takes the next of a list.
        shows_interval: Whether the interval is drawn.
    """

    label: str
    x: Sequence[float]
    y_by_seed: ArrayLike
    colour: str | None = None
    marker: str | None = None
    line: Any = None
    shows_interval: bool = True

    def points(self) -> list[tuple[float, Estimate]]:
        """Return position, mean over seeds and interval of every point.

        Raises:
            DataError: A value is missing or not finite, or the numbers of positions and values differ.
        """
        values = np.atleast_2d(np.asarray(self.y_by_seed, dtype=np.float64))
        if values.ndim != 2 or values.shape[1] != len(self.x) or not len(self.x):
            raise DataError.of(
                f"shape of series {self.label}",
                values.shape,
                f"[num_seeds, {max(1, len(self.x))}], a value per position",
            )
        points = [(float(x), mean_estimate(column)) for x, column in zip(self.x, values.T, strict=True)]
        if self.shows_interval:
            return points
        return [(x, replace(point, interval=None)) for x, point in points]


def line_figure(
    panels: Mapping[str, Sequence[Series]],
    *,
    xlabel: str,
    ylabel: str | Mapping[str, str],
    width: float = COLUMN_INCHES,
    height: float = 2.2,
    percent: bool = False,
    intervals: Literal["band", "bars"] = "band",
) -> DrawnFigure:
    """Return a row of panels of lines with means over seeds and 95 % intervals.

    All panels share the horizontal axis and the legend. They share the vertical axis if they share its label.

    Args:
        panels: Series by title of the panel. One panel may have the title "".
        xlabel: Label of the horizontal axis, with the unit.
        ylabel: Label of the vertical axis, with the unit, or a label by title of the panel.
        width: Width, inches.
        height: Height without the legend, inches.
        percent: Whether values are shares, shown as percentages.
        intervals: Kind of the drawn intervals. "bars" are moved sideways a little, so that they do not overlap.

    Raises:
        DataError: There is no panel, or a series has no value for a position, or one that is not finite.
    """
    points = {title: [(series, series.points()) for series in group] for title, group in panels.items()}
    if not points or not all(points.values()):
        raise DataError.of("panels", list(panels), "at least one panel, each with at least one series")
    shared = [list(points)] if isinstance(ylabel, str) else [[title] for title in points]
    limits: dict[str, tuple[float, float]] = {}
    is_cut = False
    for titles in shared:
        lines = [own for title in titles for own in points[title]]
        own_limits, own_cut = _limits([point for _, line in lines for _, point in line], [own for own, _ in lines])
        limits |= dict.fromkeys(titles, own_limits)
        is_cut |= own_cut
    labels = list(dict.fromkeys(series.label for group in panels.values() for series in group))
    styles = {series.label: _style(labels.index(series.label), series) for group in panels.values() for series in group}

    def draw() -> Figure:
        figure, axes = new_figure(width, height, 1, len(points))
        for axis, (title, group) in zip(axes, points.items(), strict=True):
            if not isinstance(ylabel, str):
                axis.set_ylabel(ylabel[title])
            elif axis is axes[0]:
                axis.set_ylabel(ylabel)
            for series, line in group:
                index = labels.index(series.label) - (len(labels) - 1) / 2
                _draw_line(axis, line, styles[series.label], index if intervals == "bars" else None)
            _finish_panel(axis, title, group, percent=percent)
            axis.set_ylim(*limits[title])
            axis.set_xlabel(xlabel)
        if len(labels) > 1 or labels[0]:
            _legend(figure, [Line2D([], [], label=label, **styles[label]) for label in labels])
        return figure

    numbers = [
        {"panel": title, "series": series.label, "x": x, **_numbers(point, np.atleast_2d(series.y_by_seed).shape[0])}
        for title, group in points.items()
        for series, line in group
        for x, point in line
    ]
    return _drawn(draw, numbers, width, (_CUT_NOTE,) if is_cut else ())


def paired_line_figure(
    series: Sequence[Series], *, base: str, xlabel: str, ylabel: str, height: float = 2.8
) -> DrawnFigure:
    """Return the means over seeds, and beside them the differences to one of the series with 95 % intervals.

    Each seed draws its own links, and these move all lines of the seed together. Intervals of the values would show
    little else, so the differences are taken seed by seed.

    Args:
        series: Lines with equal positions and seeds.
        base: Label of the series that is subtracted.
        xlabel: Label of the horizontal axis, with the unit.
        ylabel: Name of the values, with the unit.
        height: Height without the legend, inches.

    Raises:
        DataError: A series has no value for a position, or one that is not finite.
    """
    own = np.asarray(next(line.y_by_seed for line in series if line.label == base), dtype=np.float64)
    panels = {
        "mean over seeds": [replace(line, shows_interval=False) for line in series],
        f"beside {base}, same seed": [replace(line, y_by_seed=np.asarray(line.y_by_seed) - own) for line in series],
    }
    labels = dict(zip(panels, (ylabel, f"difference in {ylabel}"), strict=True))
    return line_figure(panels, xlabel=xlabel, ylabel=labels, width=PAGE_INCHES, height=height)


def _limits(points: Sequence[Estimate], lines: Sequence[Series]) -> tuple[tuple[float, float], bool]:
    """Return the limits of the vertical axis, and whether they cut intervals.

    The intervals of two or three seeds can be many times wider than all differences between the methods, which could
    not be seen on an axis that contains the intervals.
    """
    values = np.concatenate([np.ravel(np.asarray(own.y_by_seed, float)) for own in lines])
    low, high = float(values.min()), float(values.max())
    room = 0.5 * (high - low) or 0.05 * abs(high) or 1.0
    least = min(point.interval[0] if point.interval else point.value for point in points)
    most = max(point.interval[1] if point.interval else point.value for point in points)
    bottom, top = max(min(least, low), low - room), min(max(most, high), high + room)
    margin = 0.04 * (top - bottom) or room
    return (bottom - margin, top + margin), least < bottom or most > top


def _style(index: int, series: Series) -> dict[str, Any]:
    """Return colour, marker and line style by the place of a series."""
    return {
        "color": series.colour or _COLOURS[index % len(_COLOURS)],
        "marker": series.marker or _MARKERS[index % len(_MARKERS)],
        "linestyle": series.line or _LINES[index % len(_LINES)],
    }


def _draw_line(
    axis: Axes, points: Sequence[tuple[float, Estimate]], style: Mapping[str, Any], shift: float | None
) -> None:
    """Draw a line with a band, or with bars if there is a shift, in hundredths of the axis."""
    x = np.asarray([place for place, _ in points])
    mean = np.asarray([point.value for _, point in points])
    low, high = (
        np.asarray([point.value if point.interval is None else point.interval[side] for _, point in points])
        for side in (0, 1)
    )
    if shift is None:
        axis.plot(x, mean, markevery=max(1, len(x) // 8), **style)
        if (high > low).any():
            axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        return
    x = x + 0.012 * shift * (x.max() - x.min())
    axis.errorbar(x, mean, yerr=[mean - low, high - mean], capsize=1.5, elinewidth=0.8, capthick=0.8, **style)


def _finish_panel(
    axis: Axes,
    title: str,
    group: Sequence[tuple[Series, Sequence[tuple[float, Estimate]]]],
    *,
    percent: bool,
) -> None:
    if title:
        axis.set_title(title, loc="left")
    places = sorted({x for _, line in group for x, _ in line})
    if len(places) <= 8:
        axis.set_xticks(places, [f"{x:g}".replace("-", "\N{MINUS SIGN}") for x in places])
    if percent:
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Draw one legend above all panels, with as many columns as fit, and make the figure higher by its rows."""
    width, height = figure.get_size_inches()
    handle_length = 2.6
    longest = max(len(str(handle.get_label())) for handle in handles)
    fitting = max(1, int(width / (0.25 + 0.11 * handle_length + 0.062 * longest)))
    num_rows = math.ceil(len(handles) / fitting)
    # Rows of equal length look better than a full row above a single entry.
    num_columns = math.ceil(len(handles) / num_rows)
    figure.set_size_inches(width, height + 0.16 * num_rows)
    figure.legend(
        handles=list(handles),
        loc="outside upper center",
        ncols=num_columns,
        columnspacing=1.2,
        handlelength=handle_length,
    )


@dataclass(frozen=True)
class Difference:
    """A row of `forest_figure`.

    Args:
        label: Name of the row.
        value: Difference.
        interval: 95 % interval of the difference.
        group: Name in the legend. Rows of a group share colour and marker.
    """

    label: str
    value: float
    interval: tuple[float, float]
    group: str


def forest_figure(
    differences: Sequence[Difference],
    *,
    colours: Mapping[str, str],
    xlabel: str,
    width: float = PAGE_INCHES,
) -> DrawnFigure:
    """Return differences with their 95 % intervals, one below the other.

    Args:
        differences: Rows from top to bottom.
        colours: Colour by group, in the order of the legend.
        xlabel: Label of the horizontal axis, with the unit.
        width: Width, inches.

    Raises:
        DataError: There is no row, or a value is not finite.
    """
    numbers = np.asarray([(own.value, *own.interval) for own in differences], dtype=np.float64)
    if not numbers.size or not np.isfinite(numbers).all():
        raise DataError.of("differences", numbers.tolist(), "at least one row of finite values")
    styles: dict[str, dict[str, Any]] = {
        group: {"color": colour, "marker": _MARKERS[index], "linestyle": "none"}
        for index, (group, colour) in enumerate(colours.items())
        if any(own.group == group for own in differences)
    }

    def draw() -> Figure:
        figure, (axis,) = new_figure(width, 0.5 + 0.16 * len(differences))
        axis.axvline(0.0, color="#555555", linewidth=0.8)
        for place, own in enumerate(differences):
            below, above = own.value - own.interval[0], own.interval[1] - own.value
            axis.errorbar(own.value, place, xerr=[[below], [above]], elinewidth=1.0, **styles[own.group])
        axis.set_yticks(range(len(differences)), [own.label for own in differences])
        axis.set_ylim(len(differences) - 0.4, -0.6)
        axis.grid(visible=False, axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.set_xlabel(xlabel)
        _legend(figure, [Line2D([], [], label=group, **style) for group, style in styles.items()])
        return figure

    rows = [
        {"label": own.label, "group": own.group, "value": own.value, "low": own.interval[0], "high": own.interval[1]}
        for own in differences
    ]
    return _drawn(draw, rows, width)


def heat_map_figure(
    maps: Mapping[str, ArrayLike],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    colour_label: str,
    xlabel: str = "",
    ylabel: str = "",
    width: float = COLUMN_INCHES,
    digits: int = 1,
    percent: bool = False,
) -> DrawnFigure:
    """Return heat maps side by side with one colour scale, for example ranks by layer and projection.

    Args:
        maps: Values by title, float [num_rows, num_columns] from bottom to top. NaN leaves a cell empty.
        rows: Names of the rows, from bottom to top.
        columns: Names of the columns.
        colour_label: Label of the colour scale, with the unit.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis.
        width: Width, inches.
        digits: Digits after the decimal point of the numbers in the cells.
        percent: Whether values are shares, shown as percentages.

    Raises:
        DataError: There is no map, one has another shape, or a map has no finite value.
    """
    grids = {title: np.asarray(values, dtype=np.float64) for title, values in maps.items()}
    for title, grid in grids.items():
        if grid.shape != (len(rows), len(columns)) or not np.isfinite(grid).any():
            allowed = f"{(len(rows), len(columns))}, rows and columns, with at least one finite value"
            raise DataError.of(f"shape of map {title or 'without title'}", grid.shape, allowed)
    if not grids:
        raise DataError.of("maps", grids, "at least one map")
    low = min(float(np.nanmin(grid)) for grid in grids.values())
    high = max(float(np.nanmax(grid)) for grid in grids.values())
    scale = 100.0 if percent else 1.0

    def draw() -> Figure:
        figure, axes = new_figure(width, 0.7 + 0.17 * len(rows), 1, len(grids))
        axes[0].set_ylabel(ylabel)
        image = None
        for axis, (title, grid) in zip(axes, grids.items(), strict=True):
            image = axis.imshow(
                scale * grid, cmap="cividis", vmin=scale * low, vmax=scale * high, aspect="auto", origin="lower"
            )
            _cell_texts(axis, scale * grid, scale * low, scale * high, digits)
            if title:
                axis.set_title(title, loc="left")
            axis.set_xticks(range(len(columns)), columns)
            axis.set_yticks(range(len(rows)), rows)
            axis.tick_params(length=0)
            axis.grid(visible=False)
            axis.set_xlabel(xlabel)
        if image is not None:
            figure.colorbar(image, ax=axes, label=colour_label, pad=0.01, fraction=0.05)
        return figure

    numbers = [
        {"panel": title, "row": rows[row], "column": columns[column], "value": float(grid[row, column])}
        for title, grid in grids.items()
        for row, column in itertools.product(range(len(rows)), range(len(columns)))
        if np.isfinite(grid[row, column])
    ]
    return _drawn(draw, numbers, width)


def _cell_texts(axis: Axes, grid: NDArray[np.float64], low: float, high: float, digits: int) -> None:
    for row, column in np.argwhere(np.isfinite(grid)):
        value = grid[row, column]
        shade = "black" if value > low + 0.55 * (high - low) else "white"
        axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=6, color=shade)


def _numbers(point: Estimate, num_seeds: int) -> dict[str, Any]:
    low, high = point.interval or (None, None)
    return {"mean": point.value, "low": low, "high": high, "num_seeds": num_seeds}


def _drawn(
    draw: Callable[[], Figure], numbers: Sequence[Mapping[str, Any]], width: float, notes: Sequence[str] = ()
) -> DrawnFigure:
    with matplotlib.rc_context(_PRINT):
        figure, stream = draw(), io.BytesIO()
        FigureCanvasPdf(figure).print_pdf(stream, metadata={"CreationDate": None})  # type: ignore[no-untyped-call]
        return DrawnFigure(svg_of(figure), stream.getvalue(), numbers, width, notes)


def write_figure(folder: Path | str, name: str, figure: DrawnFigure, *, numbers_name: str | None = None) -> list[Path]:
    """Write `NAME.svg`, `NAME.pdf` and the drawn numbers as `NAME.csv`, and return their paths.

    Args:
        folder: Folder to write to.
        name: Stem of the files, such as "fig4".
        figure: Finished figure.
        numbers_name: Stem of the CSV file. None takes `name`.

    Raises:
        StorageError: A file cannot be written.
    """
    out = make_folder(folder)
    files = {
        f"{name}.svg": f'<?xml version="1.0" encoding="utf-8"?>\n{figure.svg}'.encode(),
        f"{name}.pdf": figure.pdf,
        f"{numbers_name or name}.csv": csv_text(figure.numbers).encode(),
    }
    for file_name, content in files.items():
        write_bytes(out / file_name, content)
    return [out / file_name for file_name in files]
