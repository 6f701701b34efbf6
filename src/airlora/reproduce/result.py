"""Result of a table or figure of the paper, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airlora.files import make_folder
from airlora.reproduce.figures import DrawnFigure, write_figure
from airlora.reproduce.tables import ResultTable, Row, result_dict, write_result_json, write_table
from airlora.reproduce.verdicts import Verdict

__all__ = ["ExperimentResult", "write_result"]


@dataclass(frozen=True)
class ExperimentResult:
    """Result of one table or figure of the paper.

    Args:
        name: Stem of the files, such as "table3". The table, if there is one, has the same name.
        title: Title.
        rows: Raw rows, one per method, setting and seed.
        verdicts: Verdicts on claims.
        table: Table that is shown. None for a figure alone.
        figure: Figure that is shown. None for a table alone.
        notes: Sentences under table and figure.
        settings: Settings of the trials, plain values for JSON.
    """

    name: str
    title: str
    rows: Sequence[Row]
    verdicts: Sequence[Verdict] = ()
    table: ResultTable | None = None
    figure: DrawnFigure | None = None
    notes: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_result(folder: Path | str, result: ExperimentResult) -> list[Path]:
    """Write the files of a result and return their paths.

    A table gives NAME.csv with the raw rows, NAME.md and NAME.tex. A figure gives NAME.svg, NAME.pdf and NAME.csv with
    the drawn numbers, or NAME-figure.csv beside a table. NAME.json has raw rows, verdicts and settings.

    Args:
        folder: Folder to write to.
        result: Result with a table, a figure, or both.

    Raises:
        DataError: A value is NaN or infinite.
        StorageError: A file cannot be written.
    """
    out, paths = make_folder(folder), []
    if result.table is not None:
        paths += write_table(
            out, result.table, rows=result.rows, verdicts=result.verdicts, settings=dict(result.settings)
        )
    else:
        paths.append(out / f"{result.name}.json")
        content = result_dict(result.name, result.title, result.rows, result.verdicts, result.settings)
        write_result_json(paths[0], content)
    if result.figure is not None:
        numbers_name = f"{result.name}-figure" if result.table is not None else result.name
        paths += write_figure(out, result.name, result.figure, numbers_name=numbers_name)
    return paths
