"""The bench's results as a table, a picture and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.table import Table

from airlora.config import RECIPES
from airlora.experiments.bench_problems import PROBLEMS
from airlora.experiments.figures import new_figure, styled
from airlora.experiments.policy_bench import STALE_DOPPLER_HZ
from airlora.files import write_bytes

__all__ = ["bench_findings", "bench_tables", "regret_figure", "write_bench_report"]

Row = Mapping[str, Any]

FAMILIES = {
    "planner": ("#0072B2", ("allocate", "distilled", "distilled-bare", "ddim-utility")),
    "paper": ("#D55E00", ("airllm", "airllm-literal", "airllm-ddpm", "airllm-unet", "airllm-latent")),
    "diffusion": ("#CC79A7", ("ddim", "ddim-literal", "ddim-q", "ddim-gradient")),
    "ppo": ("#E69F00", ("ppo",)),
    "search": ("#009E73", ("cmaes",)),
    "none": ("#888888", ("random",)),
}
"""Colour and members; within a family lines differ by dashes."""

DASHES: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.5, 1.5, 1.5)), (0, (8, 3)))


def bench_tables(rows: Sequence[Row]) -> list[Table]:
    """Return one table per problem: regret by number of evaluations, best policy first."""
    tables = []
    for problem in _problems(rows):
        table = Table(title=f"regret, {PROBLEMS[problem['key']].title}", title_justify="left")
        table.add_column("policy")
        for mark in problem["marks"]:
            table.add_column(f"{mark:,}", justify="right")
        for name in ("unseen", "over", "a block later", "s"):
            table.add_column(name, justify="right")
        for row in problem["rows"]:
            cells = [f"[bold]{cell['text']}[/]" if cell["best"] else cell["text"] for cell in row["cells"]]
            table.add_row(row["policy"], *cells, row["unseen"], row["breaks"], row["stale"], row["seconds"])
        tables.append(table)
    return tables


def bench_findings(rows: Sequence[Row]) -> list[str]:
    """Return what the rows say, in plain sentences: the best of each problem, and where the paper's method stands."""
    lines = []
    for problem in _problems(rows):
        last = _last(rows, problem["key"])
        order = sorted(last, key=lambda row: row["regret"])
        best = order[0]
        line = (
            f"{PROBLEMS[problem['key']].title}: best is {best['policy']} with {best['regret']:.3f} after "
            f"{best['evaluations']:,} measured losses"
        )
        paper = [row for row in order if row["policy"] == "airllm"]
        if paper and best["policy"] != "airllm":
            line += (
                f"; the paper's airllm has {paper[0]['regret']:.3f}, place {order.index(paper[0]) + 1} of {len(order)}"
            )
        literal = [row for row in order if row["policy"] == "airllm-literal"]
        if literal:
            line += f", and {literal[0]['regret']:.3f} with Eq. 19 as written"
        lines.append(line + ".")
    broken = sorted({row["policy"] for row in rows if row["deadline_breaks"] > 0.0})
    lines.append(
        f"Patterns that broke the deadline of the link they were chosen for: {', '.join(broken)}."
        if broken
        else "No policy chose a pattern that breaks the deadline of the link that it was chosen for."
    )
    return lines


def regret_figure(rows: Sequence[Row]) -> str:
    """Return regret against evaluations as SVG, one panel per problem, a line per policy, labelled at its end."""

    def draw() -> Figure:
        keys = [problem["key"] for problem in _problems(rows)]
        figure, axes = new_figure(5.6 * len(keys), 4.6, 1, len(keys))
        for axis, key in zip(axes, keys, strict=True):
            _draw_problem(axis, [row for row in rows if row["problem"] == key])
            axis.set_title(PROBLEMS[key].title, loc="left")
        axes[0].set_ylabel("regret (0: optimum, 1: best constant rank)")
        return figure

    return styled(draw)


def write_bench_report(rows: Sequence[Row], out: Path | str, *, command: str) -> Path:
    """Write `results.json`, `regret.svg` and `report.html` into `out` and return the page's path.

    Args:
        rows: Of `summarise`.
        out: A folder.
        command: What makes the same again.

    Raises:
        StorageError: A file cannot be written.
    """
    folder = Path(out)
    figure = regret_figure(rows)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("airlora.experiments"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("policies.html.j2").render(
        title="Policies against the optimum",
        command=command,
        findings=bench_findings(rows),
        figure=figure,
        problems=[dict(problem, title=PROBLEMS[problem["key"]].title) for problem in _problems(rows)],
        num_seeds=max(row["seeds"] for row in rows),
        doppler_hz=STALE_DOPPLER_HZ,
    )
    write_bytes(folder / "results.json", (json.dumps(list(rows), indent=1) + "\n").encode())
    write_bytes(folder / "regret.svg", figure.encode())
    write_bytes(folder / "report.html", page.encode())
    return folder / "report.html"


def _problems(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return per problem its marks and a formatted line per policy, best first."""
    found = []
    for key in dict.fromkeys(row["problem"] for row in rows):
        own = [row for row in rows if row["problem"] == key]
        marks = sorted({row["evaluations"] for row in own} - {0})
        best = {mark: min(row["regret"] for row in own if row["evaluations"] == mark) for mark in marks}
        lines = []
        for last in sorted(_last(rows, key), key=lambda row: row["regret"]):
            at = {row["evaluations"]: row for row in own if row["policy"] == last["policy"]}
            cells = []
            for mark in marks:
                row = at.get(mark, at.get(0))
                text = (
                    ""
                    if row is None
                    else f"{row['regret']:.3f}" + (f" ± {row['spread']:.3f}" if row["seeds"] > 1 else "")
                )
                cells.append({"text": text, "best": row is not None and row["regret"] == best[mark]})
            lines.append(
                {
                    "policy": last["policy"],
                    "summary": RECIPES[last["policy"]].summary,
                    "cells": cells,
                    "unseen": _number(last["unseen_regret"], "{:.3f}"),
                    "breaks": f"{last['deadline_breaks']:.0%}",
                    "stale": _number(last["stale_breaks"], "{:.0%}"),
                    "seconds": f"{last['seconds']:.0f}",
                }
            )
        found.append({"key": key, "marks": marks, "rows": lines})
    return found


def _last(rows: Sequence[Row], key: str) -> list[Row]:
    """Return every policy's row with the most evaluations on a problem."""
    last: dict[str, Row] = {}
    for row in rows:
        if row["problem"] == key and row["evaluations"] >= last.get(row["policy"], row)["evaluations"]:
            last[row["policy"]] = row
    return list(last.values())


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _draw_problem(axis: Axes, rows: Sequence[Row]) -> None:
    end = max(row["evaluations"] for row in rows)
    labels = []
    for colour, members in FAMILIES.values():
        for name, dash in zip(members, DASHES, strict=False):
            points = sorted((row["evaluations"], row["regret"], row["spread"]) for row in rows if row["policy"] == name)
            if not points:
                continue
            if points[0][0] == 0:
                # It measures nothing: the same at any number.
                points = [(mark, *points[0][1:]) for mark in sorted({row["evaluations"] for row in rows} - {0})]
            marks, means, spreads = zip(*points, strict=True)
            axis.plot(marks, means, color=colour, linestyle=dash, linewidth=1.6)
            low = [max(mean - spread, 0.3 * mean) for mean, spread in zip(means, spreads, strict=True)]
            high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
            axis.fill_between(marks, low, high, color=colour, alpha=0.1, linewidth=0)
            labels.append((means[-1], name, colour))
    axis.axhline(1.0, color="#444444", linestyle="dashed", linewidth=1.0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("measured losses")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    _label_ends(axis, end, labels)


def _label_ends(axis: Axes, end: float, labels: list[tuple[float, str, str]]) -> None:
    """Write each name beside the end of its line, pushed apart where they would overlap."""
    bottom, top = axis.get_ylim()
    gap = (top / bottom) ** (1.0 / 24.0)
    height = 0.0
    for regret, name, colour in sorted(labels):
        height = max(regret, height * gap)
        axis.annotate(
            name, (end, regret), (end * 1.15, height), color=colour, fontsize=8, va="center", annotation_clip=False
        )
    axis.margins(x=0.02)
