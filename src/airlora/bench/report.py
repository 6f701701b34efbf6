"""Results of the benchmark as tables, a figure and an HTML page."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from rich.table import Table

from airlora.bench.policies import EVALUATION_POINTS, STALE_DOPPLER_HZ
from airlora.bench.problems import PROBLEMS
from airlora.files import make_folder, write_bytes
from airlora.policy import policy_specs
from airlora.reports.figures import new_figure, styled
from airlora.reports.tables import marked

__all__ = ["benchmark_findings", "benchmark_tables", "line_styles", "regret_figure", "write_benchmark_report"]

Row = Mapping[str, Any]

DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 3)))

PANELS_PER_ROW = 2

TERMINAL_POINTS = 4
"""Number of evaluation points for which a table of 80 characters has room."""

LEAST_DRAWN = 1e-3
"""Lowest regret on the logarithmic axis. Lower values are drawn there."""


def benchmark_tables(rows: Sequence[Row]) -> list[Table]:
    """Return one table per problem with the regret at the last evaluation points, best policy first.

    The tables are at most 80 characters wide. The report contains all evaluation points, spreads and seconds.
    """
    tables = []
    for problem in _problems(rows):
        table = Table(title=f"regret, {PROBLEMS[problem['key']].title}", title_justify="left")
        table.add_column("policy", no_wrap=True)
        for point in problem["points"][-TERMINAL_POINTS:]:
            table.add_column(f"{point:,}", justify="right", no_wrap=True)
        for name in ("unseen", "over"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in problem["rows"]:
            shown = row["cells"][-TERMINAL_POINTS:]
            texts = [*(cell["mean"] for cell in shown[:-1]), shown[-1]["text"]]
            cells = [marked(text, is_best=cell["best"]) for cell, text in zip(shown, texts, strict=True)]
            table.add_row(row["policy"], *cells, row["unseen"], row["breaks"])
        tables.append(table)
    return tables


def benchmark_findings(rows: Sequence[Row]) -> list[str]:
    """Return sentences on the best policy of each problem, the rank of the paper's policy, and broken deadlines.

    Policies are compared at the largest number of measured losses that all learners of the problem reached.
    """
    lines = []
    for key in _keys(rows):
        order = _ranking(rows, key)
        best = order[0]
        line = f"{PROBLEMS[key].title}: best is {best['policy']} with {best['regret']:.3f}"
        line += f" after {best['evaluations']:,} measured losses" if best["evaluations"] else ", and measures no loss"
        place = {row["policy"]: f"{row['regret']:.3f}, place {index}" for index, row in enumerate(order, 1)}
        others = [
            f"{title} has {place[name]} of {len(order)}"
            for name, title in (
                ("airllm", "the paper's airllm"),
                ("airllm-literal", "airllm-literal, with Eq. 19 as printed,"),
            )
            if name in place and name != best["policy"]
        ]
        lines.append("; ".join([line, *others]) + ".")
    broken = sorted({row["policy"] for row in rows if row["deadline_breaks"] > 0.0})
    lines.append(
        f"Policies whose patterns broke the deadline of the link they were chosen for: {', '.join(broken)}."
        if broken
        else "No policy chose a pattern that breaks the deadline of the link it was chosen for."
    )
    return lines


def regret_figure(rows: Sequence[Row]) -> str:
    """Return an SVG of regret over measured losses, with a panel per problem and a labelled line per policy."""

    def draw() -> Figure:
        keys = _keys(rows)
        columns = min(len(keys), PANELS_PER_ROW)
        lines = math.ceil(len(keys) / columns)
        figure, axes = new_figure(5.6 * columns, 4.4 * lines, lines, columns)
        for axis, key in zip(axes, keys, strict=False):
            _draw_problem(axis, [row for row in rows if row["problem"] == key])
            axis.set_title(PROBLEMS[key].title, loc="left")
        for axis in axes[: len(keys) : columns]:
            axis.set_ylabel("regret (0: optimum, 1: best constant rank)")
        for axis in axes[len(keys) :]:
            axis.remove()
        return figure

    return styled(draw)


def write_benchmark_report(rows: Sequence[Row], out: Path | str, *, command: str) -> Path:
    """Write `results.json`, `regret.svg` and `report.html`, and return the path of the page.

    Args:
        rows: Rows of `summarise`.
        out: Folder of the files.
        command: Command line that reproduces the report; shown on the page.

    Raises:
        StorageError: A file cannot be written.
    """
    folder = make_folder(out)
    figure = regret_figure(rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("airlora.reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("policies.html.j2").render(
        title="Policies against the optimum",
        command=command,
        findings=benchmark_findings(rows),
        figure=figure,
        problems=[dict(problem, title=PROBLEMS[problem["key"]].title) for problem in _problems(rows)],
        num_seeds=max(row["seeds"] for row in rows),
        figure_rem=34 * min(len(_keys(rows)), PANELS_PER_ROW),
        doppler_hz=STALE_DOPPLER_HZ,
    )
    write_bytes(folder / "results.json", (json.dumps(list(rows), indent=1) + "\n").encode())
    write_bytes(folder / "regret.svg", figure.encode())
    write_bytes(folder / "report.html", page.encode())
    return folder / "report.html"


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["problem"] for row in rows))


def _problems(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return per problem its evaluation points and a formatted line per policy, best first."""
    specs = policy_specs()
    found = []
    for key in _keys(rows):
        own = [row for row in rows if row["problem"] == key]
        points = _points(own) or [0]
        best = {point: min(row["regret"] for row in own if row["evaluations"] in (0, point)) for point in points}
        lines = []
        for name in (row["policy"] for row in _ranking(rows, key)):
            at = {row["evaluations"]: row for row in own if row["policy"] == name}
            last = at[max(at)]
            shown = [at.get(point, at.get(0)) for point in points]
            lines.append(
                {
                    "policy": name,
                    "summary": specs[name].summary,
                    "cells": [
                        {
                            "mean": _mean(row),
                            "text": _regret(row),
                            "best": row is not None and row["regret"] == best[point],
                        }
                        for point, row in zip(points, shown, strict=True)
                    ],
                    "unseen": _number(last["unseen_regret"], "{:.3f}"),
                    "breaks": f"{last['deadline_breaks']:.0%}",
                    "stale": _number(last["stale_breaks"], "{:.0%}"),
                    "seconds": f"{last['seconds']:.0f}",
                }
            )
        found.append({"key": key, "points": points, "rows": lines})
    return found


def _points(rows: Sequence[Row]) -> list[int]:
    """Return the numbers of measured losses at which learners were evaluated."""
    return sorted({row["evaluations"] for row in rows} - {0})


def _ranking(rows: Sequence[Row], key: str) -> list[Row]:
    """Return a row per policy at the last evaluation point that every learner reached, lowest regret first.

    A folder may hold more evaluations of one policy than of another, and only equal numbers can be compared.
    """
    by_policy: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row["problem"] == key:
            by_policy.setdefault(row["policy"], {})[row["evaluations"]] = row
    learners = [set(at) for at in by_policy.values() if 0 not in at]
    common = max(set.intersection(*learners), default=0) if learners else 0
    at_common = [at.get(0) or at.get(common) or at[max(at)] for at in by_policy.values()]
    return sorted(at_common, key=lambda row: row["regret"])


def _mean(row: Row | None) -> str:
    return "" if row is None else f"{row['regret']:.3f}"


def _regret(row: Row | None) -> str:
    return _mean(row) + (f" ± {row['spread']:.3f}" if row is not None and row["seeds"] > 1 else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def line_styles() -> dict[str, tuple[str, Any]]:
    """Return colour and dashes of the line of every policy. Policies of one colour differ in their dashes."""
    dashes: defaultdict[str, Iterator[Any]] = defaultdict(lambda: cycle(DASHES))
    return {name: (spec.colour, next(dashes[spec.colour])) for name, spec in policy_specs().items()}


def _draw_problem(axis: Axes, rows: Sequence[Row]) -> None:
    points = _points(rows) or [EVALUATION_POINTS[0]]
    ends = []
    for name, (colour, dash) in line_styles().items():
        line = sorted((row["evaluations"], row["regret"], row["spread"]) for row in rows if row["policy"] == name)
        if not line:
            continue
        if line[0][0] == 0:
            # The policy measures no losses, so that its regret is the same at every point.
            line = [(point, *line[0][1:]) for point in points]
        at, regrets, spreads = zip(*line, strict=True)
        means = [max(regret, LEAST_DRAWN) for regret in regrets]
        axis.plot(at, means, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=2.5)
        low = [max(mean - spread, 0.3 * mean) for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        axis.fill_between(at, low, high, color=colour, alpha=0.1, linewidth=0)
        ends.append((means[-1], at[-1], name, colour))
    axis.axhline(1.0, color="#444444", linestyle="dashed", linewidth=1.0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("measured losses")
    # A tick closer to the next one than its label is wide is left out.
    axis.set_xticks(
        [point for point, after in zip(points, [*points[1:], math.inf], strict=True) if after > 1.4 * point]
    )
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(points[0] / 1.08, points[-1] * 1.08)
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    _label_ends(axis, sorted(ends))


def _label_ends(axis: Axes, ends: Sequence[tuple[float, int, str, str]]) -> None:
    """Write each name to the right of the axes at the height of its line's end, moved apart where names would overlap.

    Args:
        axis: Axes of the lines.
        ends: Regret and evaluations at the end of each line, its name and its colour, lowest regret first.
    """
    bottom, top = axis.get_ylim()
    # The axis has at least two labelled ticks.
    bottom = min(bottom, 0.45)
    axis.set_ylim(bottom, top)
    gap = (top / bottom) ** (1.0 / 24.0)
    heights: list[float] = []
    for regret, *_ in ends:
        heights.append(max(regret, heights[-1] * gap if heights else bottom))
    ceiling = top
    for index in reversed(range(len(heights))):
        heights[index] = min(heights[index], ceiling)
        ceiling = heights[index] / gap
    for (regret, evaluations, name, colour), height in zip(ends, heights, strict=True):
        axis.annotate(
            name,
            (evaluations, regret),
            (1.03, height),
            textcoords=axis.get_yaxis_transform(),
            color=colour,
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.7, "relpos": (0.0, 0.5)},
        )
