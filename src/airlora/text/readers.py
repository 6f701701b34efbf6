"""Readers of chosen columns in TSV, CSV, JSON and Parquet files and on the Hugging Face Hub.

Rows are read one at a time, and each carries its place in the source for error messages.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from airlora.errors import DataError, MissingDependencyError

__all__ = ["SUFFIXES", "Column", "Row", "Rows", "open_rows", "read_columns"]

_BOM = b"\xef\xbb\xbf"
SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
"""Ends of the names of files that can be read."""
_SPLITS = ("train", "validation", "valid", "dev", "test")


Column = str | Sequence[str]
"""Name of a column, or names that it may have, the preferred one first."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a source, with unchecked values.

    Args:
        place: Place in the source, such as "line 7", "item 7" or "row 7", counted from 1.
        values: Value of every column that was asked for, in that order.
    """

    place: str
    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """An open source of samples.

    Args:
        samples: Iterator that reads the rows on demand.
        class_names: Names of the classes of those columns, asked for, for which the source states them.
    """

    samples: Iterator[Row]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@contextmanager
def open_rows(source: str | Path, *columns: Column) -> Iterator[Rows]:
    """Yield the rows of a source, which is closed after the block.

    Args:
        source: File, or name of a Hub data set as `hf:owner/name[:config][:split]`.
        columns: Columns to read.

    Raises:
        DataError: The source is missing, of an unknown format, or (while rows are read) malformed.
        MissingDependencyError: The format needs a package that is not installed.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        yield _hub_rows(source, columns)
        return
    with _opened(source) as (path, file):
        yield Rows(_file_rows(path, file, columns))


def read_columns(source: str | Path) -> tuple[str, ...]:
    """Return the names of the columns of a source; for JSON, those of the first sample.

    The arguments and errors are those of `open_rows`.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        return tuple(_hub_table(source).column_names)
    with _opened(source) as (path, file):
        match path.suffix.lower():
            case ".tsv":
                return tuple(_header(path, _tab_records(path, file)))
            case ".csv":
                return tuple(_header(path, _csv_records(path, file)))
            case ".parquet":
                return tuple(_parquet_table(path, file).schema_arrow.names)
            case _:
                return tuple(next((item for _, item in _json_objects(path, file)), {}))


@contextmanager
def _opened(source: str | Path) -> Iterator[tuple[Path, IO[bytes]]]:
    path = Path(source)
    try:
        if path.is_dir():
            raise DataError(f"data file {path}: is a folder; name one of its files")
        if path.suffix.lower() not in SUFFIXES or "\0" in str(source):
            raise DataError.of("data file", str(source), f"a file that ends in {', '.join(SUFFIXES)}, or hf:owner/name")
        with open(path, "rb") as file:
            yield path, file
    except FileNotFoundError as error:
        raise DataError(f"data file {path}: no such file") from error
    except OSError as error:
        raise DataError(f"data file {path}: cannot be read ({error.strerror or error})") from error


def _file_rows(path: Path, file: IO[bytes], columns: Sequence[Column]) -> Iterator[Row]:
    match path.suffix.lower():
        case ".tsv":
            return _table_rows(path, _tab_records(path, file), columns)
        case ".csv":
            return _table_rows(path, _csv_records(path, file), columns)
        case ".parquet":
            return _parquet_rows(path, file, columns)
        case _:
            return _json_rows(path, file, columns)


def _tab_records(path: Path, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.rstrip("\r\n").split("\t")) for number, line in _lines(path, file))


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    # Decoding line by line gives the right line number in messages. Only "\n" ends a line: other characters that Python
    # counts as line breaks occur inside texts.
    for number, raw in enumerate(file, start=1):
        if b"\0" in raw:
            raise DataError(f"{path}, line {number}: holds a NUL byte; UTF-8 text is needed")
        try:
            line = raw.removeprefix(_BOM).decode() if number == 1 else raw.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8 text") from error
        yield number, line


def _csv_records(path: Path, file: IO[bytes]) -> Iterator[tuple[int, list[str]]]:
    # Without strict mode, an unclosed quote would turn the rest of the file into one text.
    reader = csv.reader((line for _, line in _lines(path, file)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {start}: not valid CSV ({error})") from error
        yield start, record or [""]


def _header(path: Path, records: Iterator[tuple[int, list[str]]]) -> list[str]:
    _, first = next(records, (0, [""]))
    header = [name.strip() for name in first]
    if header == [""]:
        raise DataError(f"data file {path}: is empty; a header and one sample or more are needed")
    return header


def _table_rows(path: Path, records: Iterator[tuple[int, list[str]]], columns: Sequence[Column]) -> Iterator[Row]:
    header = _header(path, records)
    places = [header.index(column) for column in _present(path, columns, header)]
    for number, fields in records:
        if fields == [""]:
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} columns where the header has {len(header)}")
        yield Row(f"line {number}", tuple(fields[place] for place in places))


def _present(source: object, columns: Sequence[Column], found: Sequence[str], where: str = "") -> list[str]:
    """Return the name of every column in a source that has the columns `found`."""
    chosen = []
    for column in columns:
        names = (column,) if isinstance(column, str) else column
        name = next((name for name in names if name in found), names[0])
        if found.count(name) != 1:
            shown = ", ".join(repr(own[:40]) for own in found[:12]) + (", ..." if len(found) > 12 else "")
            problem = "occurs twice" if name in found else "is missing"
            raise DataError(f"{source}{where}: column {name!r} {problem}; there are {shown or 'none'}")
        chosen.append(name)
    return chosen


def _json_rows(path: Path, file: IO[bytes], columns: Sequence[Column]) -> Iterator[Row]:
    for place, item in _json_objects(path, file):
        names = _present(path, columns, list(item), where=f", {place}")
        yield Row(place, tuple(item[name] for name in names))


def _json_objects(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield place and content of every object in a list, or in the lines, of a file."""
    start = file.read(64).removeprefix(_BOM).lstrip()[:1]
    file.seek(0)
    for place, item in _json_list(path, file) if start == b"[" else _json_lines(path, file):
        if not isinstance(item, Mapping):
            raise DataError.of(f"{path}, {place}", item, "a JSON object")
        yield place, item


def _json_list(path: Path, file: IO[bytes]) -> Iterator[tuple[str, object]]:
    try:
        items: list[object] = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError.
        raise DataError(f"{path}: not valid JSON in UTF-8 ({error})") from error
    for number, item in enumerate(items, start=1):
        yield f"item {number}", item


def _json_lines(path: Path, file: IO[bytes]) -> Iterator[tuple[str, object]]:
    for number, line in _lines(path, file):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error


def _parquet_table(path: Path, file: IO[bytes]) -> Any:
    parquet = _optional("pyarrow.parquet", f"reading {path}", "pyarrow", "parquet")
    with _parquet_errors(path):
        return parquet.ParquetFile(file)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    damaged: tuple[type[Exception], ...] = (importlib.import_module("pyarrow").ArrowException, OSError, ValueError)
    try:
        yield
    except damaged as error:
        raise DataError(f"data file {path}: not a readable Parquet file ({error})") from error


def _parquet_rows(path: Path, file: IO[bytes], columns: Sequence[Column]) -> Iterator[Row]:
    table = _parquet_table(path, file)
    with _parquet_errors(path):
        names = _present(path, columns, list(table.schema_arrow.names))
        number = 0
        for batch in table.iter_batches(batch_size=4096, columns=names):
            for item in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", tuple(item[name] for name in names))


def _hub_rows(source: str, columns: Sequence[Column]) -> Rows:
    table = _hub_table(source)
    names = _present(source, columns, list(table.column_names))
    samples = (Row(f"row {n}", tuple(item[name] for name in names)) for n, item in enumerate(table, start=1))
    classes = {name: getattr(table.features.get(name), "names", None) for name in names}
    return Rows(samples, {name: tuple(own) for name, own in classes.items() if own is not None})


def _hub_table(source: str) -> Any:
    name, config, split = _hub_name(source)
    datasets = _optional("datasets", f"loading {source}", "datasets", "hub")
    unreachable: tuple[type[Exception], ...] = (
        importlib.import_module("datasets.exceptions").DatasetsError,
        OSError,
        ValueError,
    )
    try:
        return datasets.load_dataset(name, config, split=split)
    except unreachable as error:
        raise DataError(f"{source}: not found, or the Hugging Face Hub cannot be reached ({error})") from error


def _hub_name(source: str) -> tuple[str, str | None, str]:
    name, *fields = source.removeprefix("hf:").split(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or len(fields) > 2:
        raise DataError.of("data set", source, "hf:owner/name, hf:owner/name:split or hf:owner/name:config:split")
    if len(fields) == 1:
        # A single field is a split if it is a usual name of one, and otherwise a config.
        fields = ["", fields[0]] if fields[0] in _SPLITS else [fields[0], ""]
    config, split = fields or ["", ""]
    return name, config or None, split or "train"


def _optional(module: str, purpose: str, package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(f"{purpose} needs {package}: pip install 'airlora[{extra}]'") from error
