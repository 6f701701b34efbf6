"""Data sets of texts with a number each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path

from airlora.errors import DataError
from airlora.text.datasets import checked_text
from airlora.text.readers import Column, open_rows

__all__ = ["ScoredDataset", "load_scored"]


@dataclass(frozen=True, slots=True)
class ScoredDataset:
    """Immutable data set of texts, or of pairs of texts, with a number each.

    Args:
        texts: Text of each sample, verbatim.
        values: Number of each sample, finite.
        pairs: Second text of each sample, verbatim, or None for samples of one text.
        name: Name of the data set, for messages and reports.
    """

    texts: tuple[str, ...]
    values: tuple[float, ...]
    pairs: tuple[str, ...] | None
    name: str

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Sequence[int]) -> ScoredDataset:
        """Return the samples at the given indices, in that order."""
        return ScoredDataset(
            tuple(self.texts[index] for index in indices),
            tuple(self.values[index] for index in indices),
            None if self.pairs is None else tuple(self.pairs[index] for index in indices),
            self.name,
        )


def load_scored(
    source: str | Path,
    *,
    text_column: Column = "text",
    label_column: str = "label",
    text_pair_column: str | None = None,
    max_samples: int | None = None,
) -> ScoredDataset:
    """Return texts with a number each from a source of `load_dataset`.

    Args:
        source: File, or name of a Hub data set.
        text_column: Name of the column of the text, or names that it may have, the preferred one first.
        label_column: Name of the column of the number.
        text_pair_column: Name of the column of the second text of a pair. None reads one text a sample.
        max_samples: Maximum number of samples to read, or None for all.

    Raises:
        DataError: The data are missing, empty or malformed, or a value is not a finite number. The message names the
            line.
        MissingDependencyError: The format needs a package that is not installed.
    """
    texts: list[str] = []
    pairs: list[str] = []
    values: list[float] = []
    columns = [text_column, label_column, *([] if text_pair_column is None else [text_pair_column])]
    with open_rows(source, *columns) as rows:
        for row in islice(rows.samples, max_samples):
            text, value, *pair = row.values
            texts.append(checked_text(text, row.place, str(source), text_column))
            pairs += [checked_text(own, row.place, str(source), str(text_pair_column)) for own in pair]
            values.append(_number(value, f"{source}, {row.place}, column {label_column}"))
    if not texts:
        raise DataError(f"{source}: no samples; a header and one sample or more are needed")
    return ScoredDataset(
        tuple(texts), tuple(values), None if text_pair_column is None else tuple(pairs), name=str(source)
    )


def _number(value: object, where: str) -> float:
    is_number = isinstance(value, int | float | Decimal | str) and not isinstance(value, bool)
    try:
        found = float(value) if is_number else math.nan  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise DataError.of(where, value, "a finite number")
    return found
