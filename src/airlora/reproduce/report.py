"""Report of all reproduced tables and figures as one self-contained HTML page, and its summary for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from airlora.files import make_folder, remove_file, write_bytes
from airlora.reproduce.figures import Difference, DrawnFigure, forest_figure, write_figure
from airlora.reproduce.result import ExperimentResult
from airlora.reproduce.tables import MISSING
from airlora.reproduce.verdicts import DOES_NOT_HOLD, HOLDS, NOT_DECIDABLE, Source, Verdict, shown, shown_interval

__all__ = ["summary_table", "write_report"]

_MARKS = {HOLDS: ("✓", "holds", "green"), DOES_NOT_HOLD: ("✗", "fails", "red"), NOT_DECIDABLE: ("?", "open", "yellow")}
"""Symbol, class of the page's style sheet and colour in the terminal by verdict."""

_COLOURS = {HOLDS: "#009E73", DOES_NOT_HOLD: "#D55E00", NOT_DECIDABLE: "#777777"}
"""Colour in the figure by verdict."""

_TITLES: Mapping[Source, str] = {"paper": "Claims of the paper", "airlora": "Claims beyond the paper"}
"""Titles by source of the claims."""


def write_report(folder: Path | str, results: Sequence[ExperimentResult], *, info: Mapping[str, str]) -> Path:
    """Write `report.html` and return its path.

    The page has a table of verdicts per source of the claims, a figure of all measured differences of losses, and a
    section per result with its figure, its table with the paper's numbers beside ours, and links to the files of
    `write_result` in the same folder. The figure of differences is also written as `verdicts.svg`, `verdicts.pdf` and
    `verdicts.csv`, if there is such a difference.

    Args:
        folder: Folder to write to.
        results: Results in the order of the page.
        info: Facts about the run by name, such as scale, variant, data, model, seeds, command, version and minutes.

    Raises:
        StorageError: The page cannot be written.
    """
    loaders = [jinja2.PackageLoader("airlora.reproduce"), jinja2.PackageLoader("airlora.reports")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    out, verdicts = make_folder(folder), {result.name: result.verdicts for result in results}
    differences = _differences(verdicts)
    files = write_figure(out, "verdicts", differences) if differences else []
    if not files:
        # Those of an earlier plan in the folder would not be of this page.
        for suffix in ("svg", "pdf", "csv"):
            remove_file(out / f"verdicts.{suffix}")
    page = environment.get_template("reproduce.html.j2").render(
        info=info,
        differences=differences and _figure(differences),
        files=[path.name for path in files],
        groups=[
            {
                "title": title,
                "counts": [(_mark(name), count) for name, count in _counts(group).items()],
                "claims": [_claim(name, verdict) for name, verdict in group],
            }
            for title, group in _by_source(verdicts).items()
        ],
        sections=[_section(result) for result in results],
    )
    path = out / "report.html"
    write_bytes(path, page.encode())
    return path


def _differences(verdicts: Mapping[str, Sequence[Verdict]]) -> DrawnFigure | None:
    """Return the figure of all differences in loss that have an interval. None if there is none."""
    rows = [
        Difference(f"{name}: {_short(own.claim)}", own.ours, own.interval, own.verdict)
        for name, group in verdicts.items()
        for own in group
        if own.unit == "nats" and own.ours is not None and own.interval is not None
    ]
    xlabel = "difference in loss, nats; positive: as claimed"
    return forest_figure(rows, colours=_COLOURS, xlabel=xlabel) if rows else None


def _short(claim: str) -> str:
    """Return a claim about a loss without its measure and without a remark on the paper."""
    return claim.removesuffix(": lower loss").partition(" (paper")[0]


def _figure(figure: DrawnFigure) -> dict[str, object]:
    return {"svg": figure.svg, "pixels": round(96 * figure.width), "notes": figure.notes}


def _by_source(verdicts: Mapping[str, Sequence[Verdict]]) -> dict[str, list[tuple[str, Verdict]]]:
    """Return pairs (name of the table or figure, verdict) by title, without titles that have no claim."""
    pairs = [(name, verdict) for name, group in verdicts.items() for verdict in group]
    groups = {title: [pair for pair in pairs if pair[1].source == source] for source, title in _TITLES.items()}
    return {title: group for title, group in groups.items() if group}


def _counts(group: Sequence[tuple[str, Verdict]]) -> dict[str, int]:
    """Return the number of claims by verdict, without verdicts that no claim has."""
    found = Counter(verdict.verdict for _, verdict in group)
    return {name: found[name] for name in _MARKS if found[name]}


def _mark(verdict: str) -> dict[str, str]:
    symbol, style, _ = _MARKS[verdict]
    return {"symbol": symbol, "style": style, "word": verdict}


def _claim(name: str, verdict: Verdict) -> dict[str, object]:
    return {
        "name": name,
        "claim": verdict.claim,
        "paper": _value(verdict.paper, verdict.unit),
        "ours": _value(verdict.ours, verdict.unit),
        "interval": shown_interval(verdict.interval, verdict.unit) if verdict.interval else "",
        "mark": _mark(verdict.verdict),
        "reason": verdict.reason,
    }


def _value(value: float | None, unit: str) -> str:
    return MISSING if value is None else shown(value, unit)


def _section(result: ExperimentResult) -> dict[str, object]:
    table, figure = result.table, result.figure
    suffixes = ["csv", "json", *(["md", "tex"] if table else []), *(["svg", "pdf"] if figure else [])]
    return {
        "name": result.name,
        "title": result.title,
        "figure": figure and _figure(figure),
        "columns": table.columns if table else (),
        "lines": table.texts() if table else (),
        "notes": [*(table.notes if table else ()), *result.notes],
        "files": [f"{result.name}.{suffix}" for suffix in suffixes]
        + ([f"{result.name}-figure.csv"] if table and figure else []),
        "claims": [_claim(result.name, verdict) for verdict in result.verdicts],
    }


def summary_table(verdicts: Mapping[str, Sequence[Verdict]]) -> RenderableType:
    """Return the verdicts of all results for the terminal, with a table per source of the claims.

    Args:
        verdicts: Verdicts by the name of their table or figure.
    """
    return Group(*(_terminal_table(title, group) for title, group in _by_source(verdicts).items()))


def _terminal_table(title: str, group: Sequence[tuple[str, Verdict]]) -> Table:
    counts = ", ".join(f"{_MARKS[name][0]} {count} {name}" for name, count in _counts(group).items())
    table = Table(title=f"{title}: {counts}", title_justify="left")
    for header in ("where", "claim"):
        table.add_column(header)
    for header in ("paper", "ours"):
        table.add_column(header, justify="right")
    table.add_column("verdict")
    for name, verdict in group:
        symbol, _, colour = _MARKS[verdict.verdict]
        paper, ours = (_value(value, verdict.unit) for value in (verdict.paper, verdict.ours))
        ours += f"\n{shown_interval(verdict.interval, verdict.unit)}" if verdict.interval else ""
        # Text, not markup: claims may hold square brackets.
        mark = Text(f"{symbol} {verdict.verdict}", style=colour)
        table.add_row(name, Text(verdict.claim), Text(paper), Text(ours), mark)
    return table
