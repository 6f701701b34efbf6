"""What a curve of accuracy against bytes says: means over runs, findings, a picture, a page."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.interpolate import PchipInterpolator

from airlora.errors import SettingsError
from airlora.files import make_folder, write_bytes
from airlora.reports.figures import new_figure, styled
from airlora.reports.statistics import half_width

__all__ = [
    "CURVE_METHODS",
    "CurvePoint",
    "CurveRow",
    "Saving",
    "byte_saving",
    "curve_figure",
    "curve_findings",
    "curve_results",
    "curve_table",
    "smallest_close",
    "summarise_curve",
    "write_curve_report",
]

CURVE_METHODS = {
    "stream": "airlora's stream, polished",
    "sized": "airlora's stream made for each size, polished for the whole of it alone",
    "unpolished": "airlora's stream as trained",
    "singular": "the same in order of singular values",
    "constant": "one rank for all modules, best components first",
    "full": "the whole adapter, float32",
    "adalora": "PEFT AdaLoRA, trained at each rank",
    "lora": "PEFT LoRA, trained at each rank",
}
"""What is drawn, and what it is."""


@dataclass(frozen=True)
class CurvePoint:
    """One adapter of some size.

    Args:
        run: Folder of the run.
        job: What made it; points of one job come together.
        series: Method, and precision where it is fixed: a line of the picture.
        label: What it is in its series; the same for every run.
        payload_bytes: All that is sent; of PEFT's adapters numbers and scales alone.
        num_components: Rank-one components in it.
        accuracy: On the data.
        loss: Likewise, nats per sample.
        fingerprint: Of version, adapter and settings; a point of others does not count.
    """

    run: str
    job: str
    series: str
    label: str
    payload_bytes: int
    num_components: int
    accuracy: float
    loss: float
    fingerprint: str = ""


CLOSE = 0.005
"""A stream is as good as the whole adapter within this share of right answers."""

STREAMS = {"stream": "The stream, cut,", "sized": "A stream made for its size"}
"""Series that findings tell of, as they name them."""

SERIES = {
    "stream": ("#0072B2", "solid", "o"),
    "sized": ("#E69F00", "solid", "D"),
    "unpolished": ("#56B4E9", "solid", "o"),
    "singular": ("#CC79A7", "solid", "o"),
    "constant 32 bit": ("#555555", "solid", "v"),
    "constant 8 bit": ("#555555", (0, (5, 1.5)), "v"),
    "constant 4 bit": ("#555555", (0, (1.5, 1.2)), "v"),
    "adalora 32 bit": ("#009E73", "solid", "^"),
    "adalora 8 bit": ("#009E73", (0, (5, 1.5)), "^"),
    "adalora 4 bit": ("#009E73", (0, (1.5, 1.2)), "^"),
    "lora 32 bit": ("#D55E00", "solid", "s"),
    "lora 8 bit": ("#D55E00", (0, (5, 1.5)), "s"),
    "lora 4 bit": ("#D55E00", (0, (1.5, 1.2)), "s"),
    "full 32 bit": ("#000000", "solid", "*"),
}
"""Colour, dashes and mark: a colour per method, dashes for precision."""


@dataclass(frozen=True)
class CurveRow:
    """The mean over runs of one point.

    Args:
        series: See `CurvePoint`.
        label: Likewise.
        num_runs: Behind the means.
        payload_bytes: Mean.
        num_components: Mean.
        accuracy: Mean.
        accuracy_interval: Half width of its 95 % interval; none with one run.
        loss: Mean, nats per sample.
        loss_interval: As of accuracy.
        points: What the means are of.
    """

    series: str
    label: str
    num_runs: int
    payload_bytes: float
    num_components: float
    accuracy: float
    accuracy_interval: float | None
    loss: float
    loss_interval: float | None
    points: tuple[CurvePoint, ...] = ()


def summarise_curve(points: Sequence[CurvePoint]) -> list[CurveRow]:
    """Return the means of all points that every run has, in the order of `SERIES` and of bytes.

    Raises:
        SettingsError: There is none.
    """
    num_runs = len({point.run for point in points})
    groups: dict[tuple[str, str], list[CurvePoint]] = {}
    for point in points:
        groups.setdefault((point.series, point.label), []).append(point)
    rows = [
        CurveRow(
            series,
            label,
            len(group),
            statistics.fmean(point.payload_bytes for point in group),
            statistics.fmean(point.num_components for point in group),
            statistics.fmean(point.accuracy for point in group),
            half_width([point.accuracy for point in group]),
            statistics.fmean(point.loss for point in group),
            half_width([point.loss for point in group]),
            tuple(group),
        )
        for (series, label), group in groups.items()
        if len(group) == num_runs
    ]
    if not rows:
        raise SettingsError("curve: no size was measured on every run; ask for larger ones, or for other methods")
    order = list(SERIES)
    return sorted(rows, key=lambda row: (order.index(row.series), row.payload_bytes))


def smallest_close(rows: Sequence[CurveRow], series: str = "stream") -> CurveRow | None:
    """Return the smallest cut from which on every larger one is within `CLOSE` of the whole adapter's accuracy."""
    full = next((row for row in rows if row.series == "full 32 bit"), None)
    found = None
    if full is not None:
        for row in reversed([row for row in rows if row.series == series]):
            if row.accuracy < full.accuracy - CLOSE:
                break
            found = row
    return found


def curve_findings(rows: Sequence[CurveRow]) -> list[str]:
    """Return what the rows say, in plain sentences."""
    lines = []
    full = next((row for row in rows if row.series == "full 32 bit"), None)
    baseline = max((row for row in rows if row.series == "adalora 32 bit"), key=lambda r: r.payload_bytes, default=None)
    if full is not None:
        lines.append(f"The whole adapter in float32: {full.accuracy:.2%} with {full.payload_bytes:,.0f} bytes.")
    if baseline is not None:
        lines.append(
            f"PEFT's AdaLoRA at {baseline.label} in float32: {baseline.accuracy:.2%} with "
            f"{baseline.payload_bytes:,.0f} bytes."
        )
    for series, title in STREAMS.items():
        if full is not None and any(row.series == series for row in rows):
            close = smallest_close(rows, series)
            lines.append(_closeness(title, full, baseline, close, _cheapest(rows, close)))
    names = dict.fromkeys(row.series for row in rows)
    for other in names:
        saving = None if other == "stream" or "stream" not in names else byte_saving(rows, "stream", other)
        if saving is not None:
            word = "saves" if saving.mean >= 0 else "costs"
            width = "" if saving.interval is None else f" (± {100 * saving.interval:.0f} points)"
            share = f"{abs(saving.mean):.0%}{width}"
            lines.append(f"At equal accuracy the stream {word} {share} of the bytes of {other}, on average.")
    return lines


def _cheapest(rows: Sequence[CurveRow], close: CurveRow | None) -> CurveRow | None:
    """Return the smallest AdaLoRA of any rank and precision that is at least as accurate; none if there is none."""
    good = [row for row in rows if row.series.startswith("adalora") and close and row.accuracy >= close.accuracy]
    return min(good, key=lambda row: row.payload_bytes, default=None)


def _closeness(
    title: str, full: CurveRow, baseline: CurveRow | None, close: CurveRow | None, cheapest: CurveRow | None
) -> str:
    """Return from how many bytes on a stream is as good as the whole adapter, and how that stands to AdaLoRA."""
    if close is None:
        return f"{title} is at no size within {100 * CLOSE:g} points of the whole adapter."
    line = (
        f"{title} is within {100 * CLOSE:g} points of the whole adapter from {close.payload_bytes:,.0f} bytes on "
        f"({close.accuracy:.2%}): 1/{full.payload_bytes / close.payload_bytes:.0f} of its bytes"
    )
    if baseline is not None:
        side = "no lower" if close.accuracy >= baseline.accuracy else "lower"
        line += (
            f", and 1/{baseline.payload_bytes / close.payload_bytes:.0f} of AdaLoRA's at an accuracy that is {side} "
            f"than AdaLoRA's"
        )
    if cheapest is not None and cheapest is not baseline:
        what = f"{cheapest.series.removeprefix('adalora ')}, {cheapest.label}: {cheapest.accuracy:.2%}"
        times = cheapest.payload_bytes / close.payload_bytes
        line += f"; the cheapest AdaLoRA that is no worse than that ({what}) takes {times:.0f} times its bytes"
    return line + "."


def curve_table(rows: Sequence[CurveRow]) -> Table:
    """Return all rows as a table that 80 columns hold."""
    table = Table(title="accuracy against bytes", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("series", "size", "bytes", "parts", "accuracy, %", "loss, nats"):
        table.add_column(name, justify="left" if name in ("series", "size") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: CurveRow) -> list[str]:
    accuracy, loss = f"{100 * row.accuracy:.2f}", f"{row.loss:.3f}"
    if row.accuracy_interval is not None and row.loss_interval is not None:
        accuracy, loss = f"{accuracy} ± {100 * row.accuracy_interval:.2f}", f"{loss} ± {row.loss_interval:.3f}"
    return [row.series, row.label, f"{row.payload_bytes:,.0f}", f"{row.num_components:.0f}", accuracy, loss]


def curve_figure(rows: Sequence[CurveRow]) -> str:
    """Return accuracy and loss against bytes as SVG, a line per series, bands of 95 %."""

    def draw() -> Figure:
        figure, axes = new_figure(11.0, 4.6, 1, 2)
        for axis, name in zip(axes, ("accuracy", "loss"), strict=True):
            _draw(axis, rows, name)
        axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axes[0].set_ylabel("accuracy")
        axes[1].set_ylabel("loss, nats per sample")
        _limit_loss(axes[1], rows)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
        return figure

    return styled(draw)


def _draw(axis: Axes, rows: Sequence[CurveRow], quantity: str) -> None:
    for series, (colour, dashes, marker) in SERIES.items():
        own = [row for row in rows if row.series == series]
        if not own:
            continue
        sizes = [row.payload_bytes for row in own]
        values = [float(getattr(row, quantity)) for row in own]
        width = 2.2 if series == "stream" else 1.3
        axis.plot(
            sizes, values, color=colour, linestyle=dashes, marker=marker, markersize=3.5, linewidth=width, label=series
        )
        intervals = [getattr(row, f"{quantity}_interval") or 0.0 for row in own]
        low, high = ([v + sign * i for v, i in zip(values, intervals, strict=True)] for sign in (-1, 1))
        if series == "full 32 bit":
            axis.axhline(values[-1], color=colour, linewidth=0.8, linestyle="dotted")
        elif series in ("stream", "adalora 32 bit"):
            axis.fill_between(sizes, low, high, color=colour, alpha=0.13, linewidth=0)
    axis.set_xscale("log")
    axis.set_xlabel("bytes sent, head included")
    axis.xaxis.set_major_locator(LogLocator(numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:g} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:g} kB"


def _limit_loss(axis: Axes, rows: Sequence[CurveRow]) -> None:
    """Leave out what is worse than knowing nothing: it would press everything else flat."""
    least = min(row.loss for row in rows)
    axis.set_ylim(bottom=0.95 * least, top=min(axis.get_ylim()[1], 2.2 * least))


def write_curve_report(rows: Sequence[CurveRow], out: Path | str, *, command: str) -> Path:
    """Write `results.json`, `curve.svg` and `report.html` into `out` and return the page's path.

    Args:
        rows: Of `summarise_curve`.
        out: A folder.
        command: What makes the same again.

    Raises:
        StorageError: A file cannot be written.
    """
    folder, figure = make_folder(out), curve_figure(rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("airlora.reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("curve.html.j2").render(
        title="Accuracy against bytes",
        command=command,
        findings=curve_findings(rows),
        figure=figure,
        rows=[_cells(row) for row in rows],
        methods=CURVE_METHODS,
        num_runs=max(row.num_runs for row in rows),
        has_full=any(row.series == "full 32 bit" for row in rows),
    )
    write_bytes(folder / "results.json", (json.dumps(curve_results(rows), indent=1) + "\n").encode())
    write_bytes(folder / "curve.svg", figure.encode())
    write_bytes(folder / "report.html", page.encode())
    return folder / "report.html"


def curve_results(rows: Sequence[CurveRow]) -> dict[str, Any]:
    """Return rows, savings and findings as plain values for JSON."""
    names = list(dict.fromkeys(row.series for row in rows))
    savings = {name: byte_saving(rows, "stream", name) for name in names if name != "stream" and "stream" in names}
    close = {name: row for name in STREAMS if (row := smallest_close(rows, name)) is not None}
    return {
        "points": [{key: value for key, value in row.__dict__.items() if key != "points"} for row in rows],
        "byte_savings": {name: None if saving is None else saving.mean for name, saving in savings.items()},
        "byte_saving_intervals": {name: saving.interval for name, saving in savings.items() if saving is not None},
        "smallest_close_bytes": {name: row.payload_bytes for name, row in close.items()},
        "findings": curve_findings(rows),
    }


LEAST_SHARED = 0.01
"""Curves that share less of the accuracy than this have no average saving."""


@dataclass(frozen=True)
class Saving:
    """A share of the other one's bytes.

    Args:
        mean: Over runs, by their logarithms; below 0 it costs more.
        interval: Half width of the 95 % interval of the mean over runs; none with fewer than two.
    """

    mean: float
    interval: float | None


def byte_saving(rows: Sequence[CurveRow], series: str, other: str) -> Saving | None:
    r"""Return the share of `other`'s bytes that `series` saves at equal accuracy, averaged over runs.

    The mean, over the accuracies that both curves reach, of the difference of the logarithms of their bytes:

    $$1 - \exp\Big(\frac{1}{a_1 - a_0} \int_{a_0}^{a_1} \ln b(a) - \ln b'(a)\, da\Big)$$

    Notation: b(a), b'(a) bytes of the one and the other curve at accuracy a, ln b smooth and monotone between measured
    points; a_0 to a_1 the accuracies of both.

    Source: Bjontegaard 2001, VCEG-M33, with piecewise cubics (PCHIP) in place of one cubic, as JVET since 2020.

    None where the curves of a run hardly share any accuracy.  A curve of few points is read too low between them, so
    that a little of a saving beside one is the other's points alone.
    """
    logarithms = []
    for run in _runs(rows, series) or [None]:
        saved = _saving(_curve(rows, series, run), _curve(rows, other, run))
        if saved is None:
            return None
        logarithms.append(saved)
    width = half_width(logarithms)
    mean = statistics.fmean(logarithms)
    # Of the exponential, to first order.
    return Saving(1.0 - math.exp(mean), None if width is None else math.exp(mean) * width)


def _runs(rows: Sequence[CurveRow], series: str) -> list[str | None]:
    return list(dict.fromkeys(point.run for row in rows if row.series == series for point in row.points))


def _curve(rows: Sequence[CurveRow], series: str, run: str | None) -> tuple[list[float], list[float]]:
    """Return accuracies and the logarithms of the bytes, both rising, of a run, or of the means."""
    own = [row for row in rows if row.series == series]
    pairs = (
        [(row.payload_bytes, row.accuracy) for row in own]
        if run is None
        else [(float(p.payload_bytes), p.accuracy) for row in own for p in row.points if p.run == run]
    )
    accuracies: list[float] = []
    logarithms: list[float] = []
    for num_bytes, accuracy in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not accuracies or accuracy > accuracies[-1]:
            accuracies.append(accuracy)
            logarithms.append(math.log(num_bytes))
    return accuracies, logarithms


def _saving(one: tuple[list[float], list[float]], other: tuple[list[float], list[float]]) -> float | None:
    if min(len(one[0]), len(other[0])) < 2:
        return None
    low, high = max(one[0][0], other[0][0]), min(one[0][-1], other[0][-1])
    if high - low < LEAST_SHARED:
        return None
    at = np.linspace(low, high, 201)
    own, others = (PchipInterpolator(*curve)(at) for curve in (one, other))
    return float(np.mean(own - others))
