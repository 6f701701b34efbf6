"""Report of a curve of the primary metric against bytes: findings, tables, figure, HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table

from airlora.files import make_folder, write_bytes
from airlora.reports.curve_points import (
    CURVE_METHODS,
    PEFT_METHODS,
    CurveRow,
    Saving,
    best_within,
    byte_saving,
    lead_within,
    pareto_front,
)
from airlora.reports.figures import new_figure, score_axis, styled

__all__ = [
    "TABLE_SIZES",
    "curve_figure",
    "curve_findings",
    "curve_results",
    "curve_table",
    "size_table",
    "smallest_close",
    "write_curve_report",
]

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


LABEL_WIDTH = 8
"""Widest name of a size in the terminal, characters."""

TABLE_SIZES = (1500, 2000, 3000, 4000, 6000, 8000, 11_000, 16_000, 32_000)
"""Sizes at which methods are compared, bytes."""


def size_table(rows: Sequence[CurveRow], sizes: Sequence[int] = TABLE_SIZES) -> tuple[list[str], list[list[str]]]:
    """Return headings and lines of a table: the least loss of every method within each size.

    The least loss within a size is in bold type, as in Markdown. If the rows have streams and methods of PEFT, the last
    line shows the difference between the best of both, see `lead_within`.

    Args:
        rows: Result of `summarise_curve`.
        sizes: Sizes, bytes.
    """
    methods = [name for name in CURVE_METHODS if any(row.method == name for row in rows)]
    best = {(name, size): best_within(rows, [name], size) for name in methods for size in sizes}
    least = {size: min((own.loss for name in methods if (own := best[name, size])), default=0.0) for size in sizes}
    lines = []
    for name in methods:
        cells = [name]
        for size in sizes:
            own = best[name, size]
            text = "–" if own is None else _with_interval(own.loss, own.loss_interval)
            cells.append(f"**{text}**" if own is not None and own.loss == least[size] else text)
        lines.append(cells)
    if any(name in STREAMS for name in methods) and any(name in PEFT_METHODS for name in methods):
        leads = [lead_within(rows, STREAMS, PEFT_METHODS, size) for size in sizes]
        texts = ["–" if own is None else _with_interval(own.mean, own.interval, sign="+") for own in leads]
        lines.append(["best stream minus best of PEFT", *texts])
    return ["method", *(_size(size) for size in sizes)], lines


def _with_interval(mean: float, interval: float | None, *, sign: str = "") -> str:
    return f"{mean:{sign}.3f}" + ("" if interval is None else f" ± {interval:.3f}")


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
    for name, saving in _loss_savings(rows).items():
        if saving is not None:
            word = "save" if saving.mean >= 0 else "cost"
            width = "" if saving.interval is None else f" (± {100 * saving.interval:.0f} points)"
            lines.append(
                f"At equal loss the streams {word} {abs(saving.mean):.0%}{width} of the bytes of {name}, on average."
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
        series, label, *others = _cells(row)
        # Names such as "theta_d_length 40000" are too wide for a terminal.
        table.add_row(series, label if len(label) <= LABEL_WIDTH else label.split()[-1], *others)
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
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=12))
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
        methods={name: text for name, text in CURVE_METHODS.items() if any(row.method == name for row in rows)},
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
    savings = {name: byte_saving(rows, ["stream"], [name]) for name in names if name != "stream" and "stream" in names}
    close = {name: row for name in STREAMS if (row := smallest_close(rows, name)) is not None}
    return {
        "points": [
            {key: value for key, value in row.__dict__.items() if key not in ("points", "metric")}
            | {"cpu_seconds": row.cpu_seconds}
            for row in rows
        ],
        "byte_savings": {name: None if saving is None else saving.mean for name, saving in savings.items()},
        "byte_saving_intervals": {name: saving.interval for name, saving in savings.items() if saving is not None},
        "byte_savings_at_equal_loss": {
            name: None if saving is None else asdict(saving) for name, saving in _loss_savings(rows).items()
        },
        "smallest_close_bytes": {name: row.payload_bytes for name, row in close.items()},
        "findings": curve_findings(rows),
    }


def _loss_savings(rows: Sequence[CurveRow]) -> dict[str, Saving | None]:
    """Return the share of every other method's bytes that the streams save at equal loss.

    Streams and methods have the best of their forms and precisions at every size.
    """
    methods = dict.fromkeys(row.method for row in rows if row.method not in STREAMS)
    return {name: byte_saving(rows, STREAMS, [name], quantity="loss") for name in methods}
