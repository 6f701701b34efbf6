"""Labelled texts: the data set that everything downstream takes, and how one is loaded and saved."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from airlora.errors import DataError, SettingsError
from airlora.files import atomic_write
from airlora.text.labels import LabelMapping, infer_labels
from airlora.text.readers import Row, open_rows

__all__ = ["TextDataset", "load_dataset", "save_tsv"]


@dataclass(frozen=True, slots=True)
class TextDataset:
    """Texts with their class labels; it does not change once made.

    Args:
        texts: One per sample, verbatim.
        labels: Class index per sample, 0 to num_labels - 1.
        label_names: Name per class.
        name: Where the samples come from, for messages and reports.
        groups: What part of the data a sample belongs to (the domain, in the embedded corpus), if known.

    Raises:
        DataError: Lengths differ or a label has no name.

    >>> TextDataset(("fine", "poor"), (1, 0), ("negative", "positive")).subset([1]).texts
    ('poor',)
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    label_names: tuple[str, ...]
    name: str = "texts"
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.texts):
            raise DataError(f"{self.name}: {len(self.labels)} labels for {len(self.texts)} texts; one each is needed")
        if self.groups is not None and len(self.groups) != len(self.texts):
            raise DataError(f"{self.name}: {len(self.groups)} groups for {len(self.texts)} texts; one each is needed")
        if len(set(self.label_names)) != len(self.label_names):
            raise DataError.of(f"{self.name}: label_names", self.label_names, "names that differ")
        for label in set(self.labels):
            if not 0 <= label < self.num_labels:
                raise DataError.of(f"{self.name}: label", label, f"0 to {self.num_labels - 1}")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_labels(self) -> int:
        """Number of classes, those without a sample counted."""
        return len(self.label_names)

    def subset(self, indices: Sequence[int], *, name: str | None = None) -> TextDataset:
        """Return the samples at `indices`, in that order, under the same label names.

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
        )

    def split(self, fraction: float, seed: int) -> tuple[TextDataset, TextDataset]:
        """Return two disjoint parts with every class shared out alike; samples keep their order.

        Args:
            fraction: Share of each class that goes to the first part, 0 < fraction < 1, rounded to whole samples.
            seed: Says which samples; the same seed gives the same parts on every Python version.

        Raises:
            DataError: `fraction` is not allowed, or a part would be empty.
        """
        if not 0 < fraction < 1:
            raise DataError.of("fraction", fraction, "a number above 0 and below 1")
        generator = random.Random(seed)
        # Only `random()` is promised to give the same numbers on every Python version, so the order comes from keys.
        keys = [generator.random() for _ in range(len(self))]
        first: list[int] = []
        for label in range(self.num_labels):
            members = sorted((i for i in range(len(self)) if self.labels[i] == label), key=keys.__getitem__)
            first += members[: round(fraction * len(members))]
        chosen = set(first)
        rest = [i for i in range(len(self)) if i not in chosen]
        if not first or not rest:
            raise DataError(f"{self.name}: fraction {fraction} of {len(self)} samples leaves one part empty")
        return self.subset(sorted(first)), self.subset(rest)


def load_dataset(
    source: str | Path,
    *,
    text_column: str = "text",
    label_column: str = "label",
    label_names: Sequence[str] | None = None,
    max_samples: int | None = None,
    require_classes: int = 2,
) -> TextDataset:
    """Return the labelled texts in a file or on the Hugging Face Hub.

    | source | how it is read |
    |---|---|
    | `*.tsv` | header, then one sample a line; quotes are plain characters |
    | `*.csv` | header, then records, quoted as in RFC 4180 |
    | `*.jsonl`, `*.json` | one JSON object a line, or one JSON list of objects |
    | `*.parquet` | needs the extra "parquet" |
    | `hf:owner/name[:config][:split]` | needs the extra "hub"; split "train" if none is given |

    Text files are UTF-8; a byte order mark is skipped.  Labels that are whole numbers are class indices; other labels
    are class names, with indices in their sorted order.  Whoever loads a second file for the same model passes the
    first one's `label_names`, so that an index means the same class in both.

    Args:
        source: A file, or a data set of the Hub.
        text_column: Column of the text.
        label_column: Column of the label.
        label_names: Name per class; a label is then one of these names or, if it is a whole number, its index.
        max_samples: Take the first so many samples only, >= 1.
        require_classes: Number of different labels that must occur.

    Raises:
        DataError: The data are missing, empty or malformed; the message says in which line.
        MissingDependencyError: The format needs a package that is not installed.
        SettingsError: `max_samples` or `require_classes` is below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise SettingsError.of("max_samples", max_samples, "a whole number, 1 or more")
    if require_classes < 1:
        raise SettingsError.of("require_classes", require_classes, "a whole number, 1 or more")
    with open_rows(source, text_column, label_column) as rows:
        names = label_names if label_names is not None else rows.label_names
        texts: list[str] = []
        labels: list[object] = []
        places: list[str] = []
        for row in islice(rows.samples, max_samples):
            texts.append(_checked_text(row, str(source), text_column))
            labels.append(row.label)
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
    return TextDataset(tuple(texts), indices, mapping.names, name=str(source))


def _checked_text(row: Row, source: str, column: str) -> str:
    where = f"{source}, {row.place}, column {column}"
    if not isinstance(row.text, str):
        raise DataError.of(where, row.text, "text")
    if not row.text.strip():
        raise DataError(f"{where}: the text is empty")
    if "\0" in row.text:
        raise DataError(f"{where}: the text holds a NUL character")
    try:
        row.text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair.
        raise DataError(f"{where}: the text holds half a surrogate pair, which is no Unicode text") from error
    return row.text


def save_tsv(dataset: TextDataset, path: Path | str) -> None:
    """Write `label<TAB>text` lines under that header, whole or not at all.

    Labels are written as indices.  `load_dataset(path, label_names=dataset.label_names)` reads texts and labels back;
    tabs and line breaks inside a text become spaces, and groups are not kept.

    Raises:
        StorageError: The folder is missing, read-only or full.
    """
    flat = str.maketrans("\t\n\r", "   ")
    with atomic_write(path) as file:
        file.write(b"label\ttext\n")
        for label, text in zip(dataset.labels, dataset.texts, strict=True):
            file.write(f"{label}\t{text.translate(flat)}\n".encode())
