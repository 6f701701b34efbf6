"""Report of a curve of the primary metric against bytes: means over runs, findings, figure, HTML page."""

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
from airlora.reports.figures import new_figure, score_axis, styled
from airlora.reports.statistics import half_width
from airlora.tasks import Metric

__all__ = [
    "CURVE_METHODS",
    "PEFT_METHODS",
    "TABLE_SIZES",
    "CurvePoint",
    "CurveRow",
    "Saving",
    "best_within",
    "byte_saving",
    "curve_figure",
    "curve_findings",
    "curve_results",
    "curve_table",
    "pareto_front",
    "size_table",
    "smallest_close",
    "summarise_curve",
    "write_curve_report",
]

CURVE_METHODS = {
    "stream": "prefixes of one stream with quantisation-aware fine-tuning",
    "sized": "one stream per size, with quantisation-aware fine-tuning for receivers of the whole stream",
    "seeded": "one stream per size, of coefficients that a seed spreads over all components, trained under rounding",
    "unpolished": "prefixes of one stream without quantisation-aware fine-tuning",
    "singular": "prefixes of one stream with importance by singular value",
    "constant": "the adapter with one rank for all modules, largest singular values first",
    "full": "the whole adapter in float32",
    "adalora": "PEFT AdaLoRA, trained at each rank",
    "lora": "PEFT LoRA, trained at each rank",
    "unilora": "PEFT Uni-LoRA: one vector that all modules share, trained at each length",
    "vera": "PEFT VeRA: two scaling vectors per module, trained at each rank",
    "fourierft": "PEFT FourierFT: coefficients of a sparse spectrum per module, trained at each number",
    "tinylora": "PEFT TinyLoRA: a vector per module, trained at each length",
    "vblora": "PEFT VB-LoRA: a bank of vectors that all modules choose from, trained at each number",
    "ia3": "PEFT IA3: scales of keys, values and the FFN",
    "ln_tuning": "PEFT LayerNorm tuning",
}
"""Methods by name, with their description."""

PEFT_METHODS = tuple(name for name, text in CURVE_METHODS.items() if text.startswith("PEFT"))
"""Methods that train an adapter of PEFT."""


@dataclass(frozen=True)
class CurvePoint:
    """Primary metric and loss of one adapter at one size.

    Args:
        run: Folder of the run.
        job: Job that measured the point: a method, and the rank or size of what it trains or packs.
        series: Line of the figure: a method, and its precision if that is fixed.
        label: Name of the point within its series, equal for all runs.
        payload_bytes: Size of the payload, bytes. For PEFT's adapters, that of parameters and scales.
        num_components: Number of rank-one components.
        accuracy: Value of the primary metric of the task.
        loss: Mean loss.
        cpu_seconds: CPU time of the job's training or packing, which its points share.
        fingerprint: Digest of version, adapter, data and settings. A point with another digest is measured again.
    """

    run: str
    job: str
    series: str
    label: str
    payload_bytes: int
    num_components: int
    accuracy: float
    loss: float
    cpu_seconds: float = 0.0
    fingerprint: str = ""


TOLERANCE = 0.005
"""Largest difference of values of the primary metric that count as equal in the findings."""

STREAMS = {
    "stream": "A prefix of the stream",
    "sized": "A stream made for its size",
    "seeded": "A seeded stream",
}
"""Series that the findings compare with the whole adapter, and their names in sentences."""

_STYLES = {
    "stream": ("#0072B2", "o"),
    "sized": ("#E69F00", "D"),
    "seeded": ("#000000", "o"),
    "unpolished": ("#56B4E9", "o"),
    "singular": ("#CC79A7", "o"),
    "constant": ("#555555", "v"),
    "full": ("#777777", "*"),
    "adalora": ("#009E73", "^"),
    "lora": ("#D55E00", "s"),
    "unilora": ("#882255", "P"),
    "vera": ("#44AA99", "X"),
    "fourierft": ("#999933", "<"),
    "tinylora": ("#AA4499", ">"),
    "vblora": ("#117733", "h"),
    "ia3": ("#332288", "d"),
    "ln_tuning": ("#661100", "p"),
}
"""Colour and marker by method."""


@dataclass(frozen=True)
class CurveRow:
    """Means over runs of the points with one series and label.

    Args:
        series: Line of the figure.
        label: Name of the point within its series.
        num_runs: Number of runs.
        payload_bytes: Mean size of the payload, bytes.
        num_components: Mean number of components.
        accuracy: Mean value of the primary metric.
        accuracy_interval: Half width of its 95 % confidence interval. None for one run.
        loss: Mean loss.
        loss_interval: Half width of the 95 % confidence interval of the loss. None for one run.
        metric: Primary metric of the task.
        points: Points of the runs.
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
    metric: Metric
    points: tuple[CurvePoint, ...] = ()

    @property
    def method(self) -> str:
        """Key of `CURVE_METHODS`."""
        return self.series.split()[0]

    @property
    def bits(self) -> int:
        """Bits per parameter; 0 for a series without a fixed precision."""
        return int(self.series.split()[1]) if " " in self.series else 0

    @property
    def cpu_seconds(self) -> float:
        """Mean CPU time of the training or packing."""
        return statistics.fmean(point.cpu_seconds for point in self.points) if self.points else 0.0

    @property
    def score(self) -> float:
        """Value of the primary metric, negated if lower is better."""
        return self.metric.oriented(self.accuracy)

    @property
    def text(self) -> str:
        """Value of the primary metric as text."""
        return self.metric.text(self.accuracy)


def summarise_curve(points: Sequence[CurvePoint], metric: Metric) -> list[CurveRow]:
    """Return the means of the points that every run has, in the order of methods, precision and bytes.

    Args:
        points: Points of all runs.
        metric: Primary metric of the task.

    Raises:
        SettingsError: No point was measured on every run.
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
            metric,
            tuple(group),
        )
        for (series, label), group in groups.items()
        if len(group) == num_runs
    ]
    if not rows:
        raise SettingsError("curve: no size was measured on every run; give larger sizes or other methods")
    order = list(CURVE_METHODS)
    return sorted(rows, key=lambda row: (order.index(row.method), -row.bits, row.payload_bytes))


def pareto_front(rows: Sequence[CurveRow], quantity: str = "loss") -> list[CurveRow]:
    """Return the rows that no row of at most as many bytes excels, by increasing bytes.

    Args:
        rows: Rows to choose from.
        quantity: "loss", or "accuracy" for the primary metric.
    """
    front: list[CurveRow] = []
    for row in sorted(rows, key=lambda row: (row.payload_bytes, -_quality(row, quantity))):
        if not front or _quality(row, quantity) > _quality(front[-1], quantity):
            front.append(row)
    return front


def _quality(row: CurveRow, quantity: str) -> float:
    """Return a value that is larger for a better row."""
    return -row.loss if quantity == "loss" else row.score


TABLE_SIZES = (1500, 2000, 3000, 4000, 6000, 8000, 11_000, 16_000, 32_000)
"""Sizes at which methods are compared, bytes."""


def best_within(rows: Sequence[CurveRow], method: str, max_bytes: float) -> CurveRow | None:
    """Return the row of least loss of a method within a size, or None if the method has none so small.

    Args:
        rows: Result of `summarise_curve`.
        method: Key of `CURVE_METHODS`.
        max_bytes: Largest size, bytes.
    """
    own = [row for row in rows if row.method == method and row.payload_bytes <= max_bytes]
    return min(own, key=lambda row: row.loss, default=None)


def size_table(rows: Sequence[CurveRow], sizes: Sequence[int] = TABLE_SIZES) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of a table: the least loss of every method within each size.

    The least loss within a size is in bold type, as in Markdown.

    Args:
        rows: Result of `summarise_curve`.
        sizes: Sizes, bytes.
    """
    methods = [name for name in CURVE_METHODS if any(row.method == name for row in rows)]
    best = {(name, size): best_within(rows, name, size) for name in methods for size in sizes}
    least = {size: min((own.loss for name in methods if (own := best[name, size])), default=0.0) for size in sizes}
    lines = []
    for name in methods:
        cells = [name]
        for size in sizes:
            own = best[name, size]
            if own is None:
                cells.append("–")
                continue
            text = f"{own.loss:.3f}" + (f" ± {own.loss_interval:.3f}" if own.loss_interval is not None else "")
            cells.append(f"**{text}**" if own.loss == least[size] else text)
        lines.append(cells)
    return ["method", *(_size(size) for size in sizes)], lines


def smallest_close(rows: Sequence[CurveRow], series: str = "stream") -> CurveRow | None:
    """Return the smallest row of a series that, like all larger ones, is as good as the whole adapter.

    Values within `TOLERANCE` count as equal. The result is None if there is no such row.
    """
    full = next((row for row in rows if row.series == "full 32 bit"), None)
    found = None
    if full is not None:
        for row in reversed([row for row in rows if row.series == series]):
            if row.score < full.score - TOLERANCE:
                break
            found = row
    return found


def curve_findings(rows: Sequence[CurveRow]) -> list[str]:
    """Return sentences on the sizes and accuracies of the rows."""
    lines = []
    full = next((row for row in rows if row.series == "full 32 bit"), None)
    baseline = max((row for row in rows if row.series == "adalora 32 bit"), key=lambda r: r.payload_bytes, default=None)
    if full is not None:
        lines.append(f"The whole adapter in float32: {full.text} with {full.payload_bytes:,.0f} bytes.")
    if baseline is not None:
        lines.append(
            f"PEFT AdaLoRA at {baseline.label} in float32: {baseline.text} with {baseline.payload_bytes:,.0f} bytes."
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
            lines.append(
                f"At equal {rows[0].metric.name} the stream {word} {share} of the bytes of {other}, on average."
            )
    return lines


def _cheapest(rows: Sequence[CurveRow], close: CurveRow | None) -> CurveRow | None:
    """Return the smallest AdaLoRA of any rank and precision that is at least as good as a row."""
    good = [row for row in rows if row.series.startswith("adalora") and close and row.score >= close.score]
    return min(good, key=lambda row: row.payload_bytes, default=None)


def _closeness(
    title: str, full: CurveRow, baseline: CurveRow | None, close: CurveRow | None, cheapest: CurveRow | None
) -> str:
    """Return the sentence on the size from which a series is as good as the whole adapter."""
    tolerance = full.metric.difference(TOLERANCE)
    if close is None:
        return f"{title} is not within {tolerance} of the whole adapter at any size."
    line = (
        f"{title} is within {tolerance} of the whole adapter from {close.payload_bytes:,.0f} "
        f"bytes on ({close.text}): 1/{full.payload_bytes / close.payload_bytes:.0f} of its bytes"
    )
    if baseline is not None:
        side = "no worse" if close.score >= baseline.score else "worse"
        line += (
            f", and 1/{baseline.payload_bytes / close.payload_bytes:.0f} of AdaLoRA's bytes. Its {full.metric.name} is "
            f"{side} than that of AdaLoRA"
        )
    if cheapest is not None and cheapest is not baseline:
        name = f"{cheapest.series.removeprefix('adalora ')}, {cheapest.label}: {cheapest.text}"
        ratio = cheapest.payload_bytes / close.payload_bytes
        line += f". The smallest AdaLoRA that is no worse ({name}) has {ratio:.0f} times its bytes"
    return line + "."


def curve_table(rows: Sequence[CurveRow]) -> Table:
    """Return all rows as a table that fits into 80 columns."""
    title = f"{rows[0].metric.name} against bytes"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("series", "size", "bytes", "components", rows[0].metric.heading, "loss"):
        table.add_column(name, justify="left" if name in ("series", "size") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _cells(row: CurveRow) -> list[str]:
    score, loss = row.metric.number(row.accuracy), f"{row.loss:.3f}"
    if row.accuracy_interval is not None and row.loss_interval is not None:
        score, loss = f"{score} ± {row.metric.number(row.accuracy_interval)}", f"{loss} ± {row.loss_interval:.3f}"
    return [row.series, row.label, f"{row.payload_bytes:,.0f}", f"{row.num_components:.0f}", score, loss]


def curve_figure(rows: Sequence[CurveRow]) -> str:
    """Return primary metric and loss against bytes as SVG, with a line per method and 95 % confidence bands.

    The line of a method takes the best of its precisions at every size.
    """

    def draw() -> Figure:
        figure, axes = new_figure(11.0, 4.6, 1, 2)
        for axis, name in zip(axes, ("accuracy", "loss"), strict=True):
            _draw(axis, rows, name)
        score_axis(axes[0], rows[0].metric)
        axes[1].set_ylabel("loss")
        _limit_loss(axes[1], rows)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
        return figure

    return styled(draw)


def _draw(axis: Axes, rows: Sequence[CurveRow], quantity: str) -> None:
    """Draw a line per method: its rows that no smaller row of the same method excels."""
    for method, (colour, marker) in _STYLES.items():
        own = pareto_front([row for row in rows if row.method == method], quantity)
        if not own:
            continue
        sizes = [row.payload_bytes for row in own]
        values = [float(getattr(row, quantity)) for row in own]
        width, dashes = (2.2, "solid") if method in STREAMS else (1.2, (0, (5, 1.5)))
        axis.plot(
            sizes, values, color=colour, linestyle=dashes, marker=marker, markersize=3.5, linewidth=width, label=method
        )
        intervals = [getattr(row, f"{quantity}_interval") or 0.0 for row in own]
        low, high = ([v + sign * i for v, i in zip(values, intervals, strict=True)] for sign in (-1, 1))
        if method == "full":
            axis.axhline(values[-1], color=colour, linewidth=0.8, linestyle="dotted")
        elif method in STREAMS:
            axis.fill_between(sizes, low, high, color=colour, alpha=0.13, linewidth=0)
    axis.set_xscale("log")
    axis.set_xlabel("bytes sent, classification head included")
    axis.xaxis.set_major_locator(LogLocator(numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axis.xaxis.set_minor_formatter(NullFormatter())


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:g} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:g} kB"


def _limit_loss(axis: Axes, rows: Sequence[CurveRow]) -> None:
    """Limit the axis of the loss: very large losses would hide the differences between the others."""
    least = min(row.loss for row in rows)
    axis.set_ylim(bottom=0.95 * least, top=min(axis.get_ylim()[1], 2.2 * least))


def write_curve_report(rows: Sequence[CurveRow], out: Path | str, *, command: str) -> Path:
    """Write `results.json`, `curve.svg` and `report.html` into `out` and return the page's path.

    Args:
        rows: Result of `summarise_curve`.
        out: Folder to write to.
        command: Command line that the page shows as its origin.

    Raises:
        StorageError: A file cannot be written.
    """
    folder, figure = make_folder(out), curve_figure(rows)
    headings, lines = size_table(rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("airlora.reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("curve.html.j2").render(
        title=f"{rows[0].metric.name.capitalize()} against bytes",
        metric=rows[0].metric,
        command=command,
        findings=curve_findings(rows),
        figure=figure,
        rows=[[*_cells(row), f"{row.cpu_seconds:,.0f}"] for row in rows],
        size_headings=headings,
        size_lines=lines,
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
        "points": [
            {key: value for key, value in row.__dict__.items() if key not in ("points", "metric")}
            | {"cpu_seconds": row.cpu_seconds}
            for row in rows
        ],
        "byte_savings": {name: None if saving is None else saving.mean for name, saving in savings.items()},
        "byte_saving_intervals": {name: saving.interval for name, saving in savings.items() if saving is not None},
        "byte_savings_at_equal_loss": _loss_savings(rows),
        "smallest_close_bytes": {name: row.payload_bytes for name, row in close.items()},
        "findings": curve_findings(rows),
    }


def _loss_savings(rows: Sequence[CurveRow]) -> dict[str, float | None]:
    """Return the share of every method's bytes that the streams save at equal loss, each at its best precisions."""
    methods = dict.fromkeys(row.method for row in rows)
    own = next((name for name in ("seeded", "sized", "stream") if name in methods), None)
    if own is None:
        return {}
    found = {name: byte_saving(rows, own, name, quantity="loss") for name in methods if name != own}
    return {name: None if saving is None else saving.mean for name, saving in found.items()}


MIN_COMMON_RANGE = 0.01
"""Smallest width of the range of the primary metric or loss that two curves must share for an average saving."""


@dataclass(frozen=True)
class Saving:
    """Share of the bytes of another curve that a curve saves.

    Args:
        mean: Mean over runs, of the logarithms of the bytes. Negative if the curve needs more bytes.
        interval: Half width of the 95 % confidence interval of the mean. None for one run.
    """

    mean: float
    interval: float | None


def byte_saving(rows: Sequence[CurveRow], series: str, other: str, *, quantity: str = "accuracy") -> Saving | None:
    r"""Return the share of the bytes of `other` that `series` saves at an equal primary metric or loss, over all runs.

    $$1 - \exp\Big(\frac{1}{a_1 - a_0} \int_{a_0}^{a_1} \ln b(a) - \ln b'(a)\, da\Big)$$

    The result is None if the two curves of a run have hardly any range in common. Interpolation between few points
    underestimates the metric, which slightly favours the curve with more points.

    Notation: b(a), b'(a) bytes of `series` and `other` at metric a, with ln b monotone and smooth between measured
    points; a_0, a_1 ends of the range of the metric of both.

    Args:
        rows: Result of `summarise_curve`.
        series: Series or method whose saving is computed. A method has the best of its precisions at every size.
        other: Series or method to compare with.
        quantity: "accuracy" for the primary metric, or "loss".

    Source: Bjontegaard 2001, VCEG-M33, with piecewise cubics (PCHIP) instead of one cubic, as in JVET since 2020.
    """
    logarithms = []
    for run in _runs(rows, series) or [None]:
        saved = _saving(_curve(rows, series, run, quantity), _curve(rows, other, run, quantity))
        if saved is None:
            return None
        logarithms.append(saved)
    width = half_width(logarithms)
    mean = statistics.fmean(logarithms)
    # The interval of the exponential, to first order.
    return Saving(1.0 - math.exp(mean), None if width is None else math.exp(mean) * width)


def _runs(rows: Sequence[CurveRow], series: str) -> list[str | None]:
    return list(dict.fromkeys(point.run for row in rows if series in (row.series, row.method) for point in row.points))


def _curve(rows: Sequence[CurveRow], series: str, run: str | None, quantity: str) -> tuple[list[float], list[float]]:
    """Return qualities and logarithms of bytes of a run, or of the means over runs, both increasing."""
    own = [row for row in rows if series in (row.series, row.method)]
    if run is None:
        pairs = [(row.payload_bytes, _quality(row, quantity)) for row in own]
    else:
        pairs = [
            (float(point.payload_bytes), -point.loss if quantity == "loss" else row.metric.oriented(point.accuracy))
            for row in own
            for point in row.points
            if point.run == run
        ]
    qualities: list[float] = []
    logarithms: list[float] = []
    for num_bytes, quality in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not qualities or quality > qualities[-1]:
            qualities.append(quality)
            logarithms.append(math.log(num_bytes))
    return qualities, logarithms


def _saving(one: tuple[list[float], list[float]], other: tuple[list[float], list[float]]) -> float | None:
    if min(len(one[0]), len(other[0])) < 2:
        return None
    low, high = max(one[0][0], other[0][0]), min(one[0][-1], other[0][-1])
    if high - low < MIN_COMMON_RANGE:
        return None
    at = np.linspace(low, high, 201)
    own, others = (PchipInterpolator(*curve)(at) for curve in (one, other))
    return float(np.mean(own - others))
