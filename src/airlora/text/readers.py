"""Readers of text and label columns in TSV, CSV, JSON and Parquet files and on the Hugging Face Hub.

Rows are read one at a time, and each carries its place in the source for error messages.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from airlora.errors import DataError, MissingDependencyError

__all__ = ["SUFFIXES", "Row", "Rows", "open_rows"]

_BOM = b"\xef\xbb\xbf"
SUFFIXES = (".tsv", ".csv", ".jsonl", ".json", ".parquet")
"""Ends of the names of files that can be read."""
_SPLITS = ("train", "validation", "valid", "dev", "test")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns to read.

    Args:
        text: Name of the column of the text, or names that it may have, the preferred one first.
        label: Name of the column of the label.
        pair: Name of the column of the second text of a pair. None reads one text a sample.
    """

    text: str | Sequence[str]
    label: str
    pair: str | None = None

    def among(self, found: Sequence[str]) -> list[str]:
        """Return the names of the columns of text, label and second text in a source that has the columns `found`."""
        texts = (self.text,) if isinstance(self.text, str) else self.text
        text = next((name for name in texts if name in found), texts[0])
        return [text, self.label, *([] if self.pair is None else [self.pair])]


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a source, with unchecked values.

    Args:
        place: Place in the source, such as "line 7", "item 7" or "row 7", counted from 1.
        text: Value of the text column.
        label: Value of the label column.
        pair: Value of the column of the second text. None without such a column.
    """

    place: str
    text: object
    label: object
    pair: object = None


@dataclass(frozen=True, slots=True)
class Rows:
    """An open source of samples.

    Args:
        samples: Iterator that reads the rows on demand.
        label_names: Names of the classes if the source states them, or None.
    """

    samples: Iterator[Row]
    label_names: tuple[str, ...] | None = None


@contextmanager
def open_rows(
    source: str | Path, text_column: str | Sequence[str], label_column: str, text_pair_column: str | None = None
) -> Iterator[Rows]:
    """Yield the rows of a source, which is closed after the block.

    Args:
        source: File, or name of a Hub data set as `hf:owner/name[:config][:split]`.
        text_column: Name of the column of the text, or names that it may have, the preferred one first.
        label_column: Name of the column of the label.
        text_pair_column: Name of the column of the second text of a pair. None reads one text a sample.

    Raises:
        DataError: The source is missing, of an unknown format, or (while rows are read) malformed.
        MissingDependencyError: The format needs a package that is not installed.
    """
    columns = Columns(text_column, label_column, text_pair_column)
    if isinstance(source, str) and source.startswith("hf:"):
        yield _hub_rows(source, columns)
        return
    path = Path(source)
    try:
        if path.is_dir():
            raise DataError(f"data file {path}: is a folder; name one of its files")
        if path.suffix.lower() not in SUFFIXES or "\0" in str(source):
            raise DataError.of("data file", str(source), f"a file that ends in {', '.join(SUFFIXES)}, or hf:owner/name")
        with open(path, "rb") as file:
            yield Rows(_file_rows(path, file, columns))
    except FileNotFoundError as error:
        raise DataError(f"data file {path}: no such file") from error
    except OSError as error:
        raise DataError(f"data file {path}: cannot be read ({error.strerror or error})") from error


def _file_rows(path: Path, file: IO[bytes], columns: Columns) -> Iterator[Row]:
    match path.suffix.lower():
        case ".tsv":
            return _table_rows(path, ((n, line.rstrip("\r\n").split("\t")) for n, line in _lines(path, file)), columns)
        case ".csv":
            return _table_rows(path, _csv_records(path, file), columns)
        case ".parquet":
            return _parquet_rows(path, file, columns)
        case _:
            return _json_rows(path, file, columns)


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


def _table_rows(path: Path, records: Iterator[tuple[int, list[str]]], columns: Columns) -> Iterator[Row]:
    _, first = next(records, (0, [""]))
    header = [name.strip() for name in first]
    if header == [""]:
        raise DataError(f"data file {path}: is empty; a header and one sample or more are needed")
    places = [header.index(column) for column in _present(path, columns, header)]
    for number, fields in records:
        if fields == [""]:
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, line {number}: {len(fields)} columns where the header has {len(header)}")
        yield Row(f"line {number}", *(fields[place] for place in places))


def _present(source: object, columns: Columns, found: Sequence[str], where: str = "") -> list[str]:
    chosen = columns.among(found)
    for column in chosen:
        if found.count(column) != 1:
            shown = ", ".join(repr(name[:40]) for name in found[:12]) + (", ..." if len(found) > 12 else "")
            problem = "occurs twice" if column in found else "is missing"
            raise DataError(f"{source}{where}: column {column!r} {problem}; there are {shown or 'none'}")
    return chosen


def _json_rows(path: Path, file: IO[bytes], columns: Columns) -> Iterator[Row]:
    start = file.read(64).removeprefix(_BOM).lstrip()[:1]
    file.seek(0)
    if start == b"[":
        return _json_list_rows(path, file, columns)
    return _json_line_rows(path, file, columns)


def _json_list_rows(path: Path, file: IO[bytes], columns: Columns) -> Iterator[Row]:
    try:
        items: list[object] = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError.
        raise DataError(f"{path}: not valid JSON in UTF-8 ({error})") from error
    for number, item in enumerate(items, start=1):
        yield _object_row(path, f"item {number}", item, columns)


def _json_line_rows(path: Path, file: IO[bytes], columns: Columns) -> Iterator[Row]:
    for number, line in _lines(path, file):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
        yield _object_row(path, f"line {number}", value, columns)


def _object_row(path: Path, place: str, value: object, columns: Columns) -> Row:
    if not isinstance(value, Mapping):
        raise DataError.of(f"{path}, {place}", value, "a JSON object")
    return Row(
        place, *(value[name] for name in _present(path, columns, [str(key) for key in value], where=f", {place}"))
    )


def _parquet_rows(path: Path, file: IO[bytes], columns: Columns) -> Iterator[Row]:
    parquet = _optional("pyarrow.parquet", f"reading {path}", "pyarrow", "parquet")
    damaged: tuple[type[Exception], ...] = (importlib.import_module("pyarrow").ArrowException, OSError, ValueError)
    try:
        table = parquet.ParquetFile(file)
        names = _present(path, columns, list(table.schema_arrow.names))
        number = 0
        for batch in table.iter_batches(batch_size=4096, columns=names):
            for item in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", *(item[name] for name in names))
    except damaged as error:
        raise DataError(f"data file {path}: not a readable Parquet file ({error})") from error


def _hub_rows(source: str, columns: Columns) -> Rows:
    name, config, split = _hub_name(source)
    datasets = _optional("datasets", f"loading {source}", "datasets", "hub")
    unreachable: tuple[type[Exception], ...] = (
        importlib.import_module("datasets.exceptions").DatasetsError,
        OSError,
        ValueError,
    )
    try:
        table: Any = datasets.load_dataset(name, config, split=split)
    except unreachable as error:
        raise DataError(f"{source}: not found, or the Hugging Face Hub cannot be reached ({error})") from error
    chosen = _present(source, columns, list(table.column_names))
    label_names = getattr(table.features[columns.label], "names", None)
    samples = (Row(f"row {n}", *(item[name] for name in chosen)) for n, item in enumerate(table, start=1))
    return Rows(samples, None if label_names is None else tuple(label_names))


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
