"""Tables of the paper beside ours, as CSV, Markdown, LaTeX and JSON.

A table has raw rows, one per method, setting and seed. It shows lines, one per method and setting. `summarise` makes
lines from raw rows: means over seeds with 95 % intervals, and the paper's numbers beside them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from airlora.errors import DataError, SettingsError
from airlora.files import make_folder, write_bytes, write_json
from airlora.reproduce.statistics import Estimate, mean_estimate
from airlora.reproduce.verdicts import Verdict

__all__ = [
    "MISSING",
    "Cell",
    "Column",
    "ResultTable",
    "Row",
    "csv_text",
    "latex_table",
    "markdown_table",
    "result_dict",
    "summarise",
    "write_result_json",
    "write_table",
]

Row = Mapping[str, Any]
"""Result of one method, setting and seed: `method`, `setting`, `seed` and measured values, plain values for JSON."""

Cell = str | int | float | Estimate | None
"""Value of a cell that is shown. An estimate is shown as mean ± half width of its interval.

A count that is equal on all seeds is shown without ± 0.
"""

MISSING = "–"
"""Text of a cell without a value."""

_Style = Literal["text", "%", "number", "count"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table that is shown.

    Args:
        key: Key of the column's values in the lines.
        header: Heading without the unit.
        style: "text"; "%" for shares, shown as percentages; "number"; "count" for whole numbers.
        digits: Digits after the decimal point of shares and numbers.
        unit: Unit that follows the heading. "%" is added to shares.
    """

    key: str
    header: str
    style: _Style = "text"
    digits: int = 2
    unit: str = ""

    def __post_init__(self) -> None:
        if self.style not in get_args(_Style):
            raise SettingsError.of(f"style of column {self.key}", self.style, ", ".join(get_args(_Style)))

    @property
    def heading(self) -> str:
        """Heading with the unit."""
        unit = self.unit or ("%" if self.style == "%" else "")
        return f"{self.header}, {unit}" if unit else self.header

    @property
    def is_text(self) -> bool:
        """Whether the column holds text, which is aligned left."""
        return self.style == "text"

    def text(self, value: Cell) -> str:
        """Return a value as it is shown.

        Examples:
            >>> Column("accuracy", "accuracy", "%").text(Estimate(0.953, (0.949, 0.957)))
            '95.30 ± 0.40'
            >>> Column("num_params", "parameters", "count").text(4235648)
            '4,235,648'
        """
        if value is None:
            return MISSING
        if isinstance(value, str):
            return value
        if isinstance(value, Estimate):
            width = value.half_width
            is_exact = width is None or (self.style == "count" and width == 0.0)
            return self._number(value.value) + ("" if is_exact else f" ± {self._number(width or 0.0)}")
        return self._number(value)

    def _number(self, value: float) -> str:
        if self.style == "%":
            return f"{100 * value:z.{self.digits}f}"
        if self.style == "count":
            return f"{value:,.0f}"
        return f"{value:z,.{self.digits}f}" if self.style == "number" else f"{value:g}"


@dataclass(frozen=True)
class ResultTable:
    """A table that is shown.

    Args:
        name: Stem of the files, such as "table3".
        title: Title.
        columns: Columns.
        lines: Cells by column key, one mapping per line. A missing key is an empty cell.
        notes: Sentences under the table.
    """

    name: str
    title: str
    columns: Sequence[Column]
    lines: Sequence[Mapping[str, Cell]]
    notes: Sequence[str] = ()

    def texts(self) -> list[list[str]]:
        """Return the text of every cell, line by line."""
        return [[column.text(line.get(column.key)) for column in self.columns] for line in self.lines]


def summarise(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    by: Sequence[str] = ("method", "setting"),
    paper: Mapping[tuple[Any, ...], Mapping[str, float]] | None = None,
) -> tuple[list[Column], list[dict[str, Cell]]]:
    """Return the columns and lines of means over seeds, with the paper's numbers beside them.

    Args:
        rows: Raw rows.
        columns: Columns of the grouping keys and of measured values.
        by: Keys that group the rows of several seeds into one line, in the order of their first rows.
        paper: Paper's values by column key, by the values of the keys in `by`. Every column with a value of the paper
            is followed by a column of the paper's values.

    Raises:
        DataError: A measured value is not a finite number.
    """
    paper = paper or {}
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    compared = {key for values in paper.values() for key in values}
    shown: list[Column] = []
    for column in columns:
        shown.append(column)
        if column.key in compared:
            shown.append(replace(column, key=f"paper_{column.key}", header="paper"))
    lines = []
    for group, members in groups.items():
        line: dict[str, Cell] = dict(zip(by, group, strict=True))
        for column in columns:
            if column.key not in by:
                line[column.key] = _mean(members, column)
        line.update({f"paper_{key}": value for key, value in paper.get(group, {}).items()})
        lines.append(line)
    return shown, lines


def _mean(rows: Sequence[Row], column: Column) -> Cell:
    values = [value for row in rows if (value := row.get(column.key)) is not None]
    if column.is_text:
        return ", ".join(dict.fromkeys(map(str, values))) or None
    return mean_estimate(values) if values else None


def csv_text(rows: Sequence[Row]) -> str:
    """Return raw rows as CSV. The columns are the keys of all rows in the order of their first appearance."""
    stream = io.StringIO()
    keys = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(stream, list(keys), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def markdown_table(table: ResultTable) -> str:
    """Return a table as GitHub-flavoured Markdown: heading, table and notes."""
    rules = [":---" if column.is_text else "---:" for column in table.columns]
    cells = [[column.heading for column in table.columns], rules, *table.texts()]
    lines = [f"| {' | '.join(map(_markdown, line))} |" for line in cells]
    notes = [_markdown(note) for note in table.notes]
    return "\n\n".join([f"### {_markdown(table.title)}", "\n".join(lines), *notes]) + "\n"


def _markdown(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "–": "--",
    "η": r"$\eta$",
    "κ": r"$\kappa$",
    "λ": r"$\lambda$",
    "γ": r"$\gamma$",
    "τ": r"$\tau$",
    "ε": r"$\epsilon$",
}


def latex_table(table: ResultTable) -> str:
    r"""Return a table as LaTeX for the package `booktabs`, with the label `tab:NAME`."""
    align = "".join("l" if column.is_text else "r" for column in table.columns)
    header = _latex_line(column.heading for column in table.columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        header,
        r"\midrule",
        *(_latex_line(texts) for texts in table.texts()),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\smallskip{{\footnotesize {_latex(note)}}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_line(texts: Iterable[str]) -> str:
    return " & ".join(map(_latex, texts)) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def result_dict(
    name: str, title: str, rows: Sequence[Row], verdicts: Sequence[Verdict] = (), settings: Row | None = None
) -> dict[str, Any]:
    """Return name, title, raw rows, verdicts and settings as plain values for JSON."""
    return {
        "name": name,
        "title": title,
        "rows": [dict(row) for row in rows],
        "verdicts": [verdict.to_dict() for verdict in verdicts],
        "settings": dict(settings or {}),
    }


def write_result_json(path: Path, result: Row) -> None:
    """Write the result of `result_dict`.

    Raises:
        DataError: A value is NaN or infinite.
        StorageError: The file cannot be written.
    """
    try:
        write_json(path, result)
    except ValueError as error:
        raise DataError(f"result {result['name']}: a value is not a finite number") from error


def write_table(
    folder: Path | str,
    table: ResultTable,
    *,
    rows: Sequence[Row],
    verdicts: Sequence[Verdict] = (),
    settings: Row | None = None,
) -> list[Path]:
    """Write `NAME.csv` (raw rows), `NAME.md`, `NAME.tex` and `NAME.json`, and return their paths.

    Args:
        folder: Folder to write to.
        table: Table that is shown.
        rows: Raw rows.
        verdicts: Verdicts on claims.
        settings: Settings of the trials, plain values for JSON.

    Raises:
        DataError: A value is NaN or infinite.
        StorageError: A file cannot be written.
    """
    out = make_folder(folder)
    texts = {".csv": csv_text(rows), ".md": markdown_table(table), ".tex": latex_table(table)}
    for suffix, text in texts.items():
        write_bytes(out / f"{table.name}{suffix}", text.encode())
    write_result_json(out / f"{table.name}.json", result_dict(table.name, table.title, rows, verdicts, settings))
    return [out / f"{table.name}{suffix}" for suffix in (*texts, ".json")]
