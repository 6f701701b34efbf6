"""Data sets of labelled texts, and loading them from files or the Hugging Face Hub."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from airlora.errors import DataError, SettingsError
from airlora.text.labels import LabelMapping, infer_labels
from airlora.text.readers import Column, open_rows

__all__ = ["TextDataset", "checked_text", "load_dataset", "verify_unicode"]


@dataclass(frozen=True, slots=True)
class TextDataset:
    """Immutable data set of texts with class labels.

    Args:
        texts: Text of each sample, verbatim.
        labels: Class index of each sample, 0 to num_labels - 1.
        label_names: Name of each class.
        name: Name of the data set, for messages and reports.
        groups: Group of each sample, such as its domain in the embedded corpus, or None.
        pairs: Second text of each sample, verbatim, or None for samples of one text.

    Raises:
        DataError: The lengths differ, names are not unique, or a label has no name.

    Examples:
        >>> TextDataset(("fine", "poor"), (1, 0), ("negative", "positive")).subset([1]).texts
        ('poor',)
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    label_names: tuple[str, ...]
    name: str = "texts"
    groups: tuple[str, ...] | None = None
    pairs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.texts):
            raise DataError(
                f"{self.name}: {len(self.labels)} labels for {len(self.texts)} texts; one per text is needed"
            )
        for kind, values in (("groups", self.groups), ("second texts", self.pairs)):
            if values is not None and len(values) != len(self.texts):
                raise DataError(
                    f"{self.name}: {len(values)} {kind} for {len(self.texts)} texts; one per text is needed"
                )
        if len(set(self.label_names)) != len(self.label_names):
            raise DataError.of(f"{self.name}: label_names", self.label_names, "names that differ")
        for label in set(self.labels):
            if not 0 <= label < self.num_labels:
                raise DataError.of(f"{self.name}: label", label, f"0 to {self.num_labels - 1}")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_labels(self) -> int:
        """Number of classes, including classes without samples."""
        return len(self.label_names)

    def subset(self, indices: Sequence[int], *, name: str | None = None) -> TextDataset:
        """Return the samples at the given indices, with the same label names.

        Args:
            indices: Indices of samples in the order of the result, 0 to len - 1.
            name: Name of the result, or None for the name of this data set.

        Raises:
            DataError: An index is outside 0 to len - 1.
        """
        for index in indices:
            if not 0 <= index < len(self):
                raise DataError.of(f"{self.name}: sample", index, f"0 to {len(self) - 1}")
        return TextDataset(
            texts=tuple(self.texts[i] for i in indices),
            labels=tuple(self.labels[i] for i in indices),
            label_names=self.label_names,
            name=self.name if name is None else name,
            groups=None if self.groups is None else tuple(self.groups[i] for i in indices),
            pairs=None if self.pairs is None else tuple(self.pairs[i] for i in indices),
        )

    def split(self, fraction: float, seed: int) -> tuple[TextDataset, TextDataset]:
        """Return a stratified split into two data sets that keep the order of the samples.

        Args:
            fraction: Share of each class in the first data set, 0 < fraction < 1, rounded to whole samples.
            seed: Seed of the split. The same seed gives the same split on every Python version.

        Raises:
            DataError: `fraction` is not allowed, or one of the data sets would be empty.
        """
        if not 0 < fraction < 1:
            raise DataError.of("fraction", fraction, "a number above 0 and below 1")
        generator = random.Random(seed)
        # Python guarantees the sequence of `random()` across versions, but not that of `shuffle`.
        keys = [generator.random() for _ in range(len(self))]
        first: list[int] = []
        for label in range(self.num_labels):
            members = sorted((i for i in range(len(self)) if self.labels[i] == label), key=keys.__getitem__)
            first += members[: round(fraction * len(members))]
        chosen = set(first)
        rest = [i for i in range(len(self)) if i not in chosen]
        if not first or not rest:
            raise DataError(f"{self.name}: fraction {fraction} of {len(self)} samples leaves one data set empty")
        return self.subset(sorted(first)), self.subset(rest)


def load_dataset(
    source: str | Path,
    *,
    text_column: Column = "text",
    label_column: str = "label",
    text_pair_column: str | None = None,
    label_names: Sequence[str] | None = None,
    max_samples: int | None = None,
    require_classes: int = 2,
) -> TextDataset:
    """Return the labelled texts in a file or on the Hugging Face Hub.

    | source | format |
    |---|---|
    | `*.tsv` | header, then one sample per line; quotes are plain characters |
    | `*.csv` | header, then records, quoted as in RFC 4180 |
    | `*.jsonl`, `*.json` | one JSON object per line, or one JSON list of objects |
    | `*.parquet` | Parquet; requires the extra "parquet" |
    | `hf:owner/name[:config][:split]` | Hub data set; requires the extra "hub"; the default split is "train" |

    Text files are UTF-8, with or without a byte order mark. Labels that are whole numbers are class indices. Other
    labels are class names, and their indices follow the sorted order. Pass the `label_names` of a first file to load
    further files for the same model, so that an index means the same class in all of them.

    Args:
        source: File, or name of a Hub data set.
        text_column: Name of the column of the text, or names that it may have, the preferred one first.
        label_column: Name of the column of the label.
        text_pair_column: Name of the column of the second text of a pair. None reads one text a sample.
        label_names: Names of the classes. A label is then one of them or, if it is a whole number, its index. None
            infers the classes from the labels.
        max_samples: Maximum number of samples to read, >= 1, or None for all.
        require_classes: Minimum number of different labels, >= 1.

    Raises:
        DataError: The data are missing, empty or malformed. The message names the line.
        MissingDependencyError: The format needs a package that is not installed.
        SettingsError: `max_samples` or `require_classes` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise SettingsError.of("max_samples", max_samples, "a whole number, 1 or more")
    if require_classes < 1:
        raise SettingsError.of("require_classes", require_classes, "a whole number, 1 or more")
    columns = [text_column, label_column, *([] if text_pair_column is None else [text_pair_column])]
    with open_rows(source, *columns) as rows:
        names = label_names if label_names is not None else rows.class_names.get(label_column)
        texts: list[str] = []
        pairs: list[str] = []
        labels: list[object] = []
        places: list[str] = []
        for row in islice(rows.samples, max_samples):
            text, label, *pair = row.values
            texts.append(checked_text(text, row.place, str(source), text_column))
            pairs += [checked_text(own, row.place, str(source), str(text_pair_column)) for own in pair]
            labels.append(label)
            places.append(row.place)
    if not texts:
        raise DataError(f"{source}: no samples; a header and one sample or more are needed")
    mapping = infer_labels(labels, places, str(source), label_column) if names is None else LabelMapping(tuple(names))
    indices = tuple(
        mapping.index_of(label, f"{source}, {place}, column {label_column}")
        for label, place in zip(labels, places, strict=True)
    )
    num_classes = len(set(indices))
    if num_classes < require_classes:
        found = mapping.names[indices[0]]
        raise DataError(
            f"{source}: {num_classes} different label(s) in {len(texts)} samples, such as {found!r}; "
            f"{require_classes} or more are needed"
        )
    seconds = None if text_pair_column is None else tuple(pairs)
    return TextDataset(tuple(texts), indices, mapping.names, name=str(source), pairs=seconds)


def checked_text(value: object, place: str, source: str, column: Column) -> str:
    """Return a value of a column if it is a text with content.

    Args:
        value: Value of the column.
        place: Place of the sample in the source, for messages.
        source: Name of the source, for messages.
        column: Name of the column, for messages.

    Raises:
        DataError: The value is no text, is empty, or is no Unicode text.
    """
    where = f"{source}, {place}, column {column if isinstance(column, str) else ' or '.join(column)}"
    if not isinstance(value, str):
        raise DataError.of(where, value, "text")
    if not value.strip():
        raise DataError(f"{where}: the text is empty")
    verify_unicode(value, where)
    return value


def verify_unicode(text: str, where: str) -> None:
    """Raise `DataError` if a text holds a NUL character, or half a surrogate pair.

    Args:
        text: Text to verify.
        where: Place of the text, for the message.
    """
    if "\0" in text:
        raise DataError(f"{where}: the text holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # A JSON escape can encode half a surrogate pair.
        raise DataError(f"{where}: the text holds half a surrogate pair, which is no Unicode text") from error
