"""Conversion of the labels in a file to class indices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from airlora.errors import DataError

__all__ = ["MAX_CLASSES", "LabelMapping", "infer_labels"]

MAX_CLASSES = 1000
"""Largest number of classes. A column with more different values holds identifiers or scores instead of labels."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")


@dataclass(frozen=True, slots=True)
class LabelMapping:
    """The classes of a task. Class i has the name `names[i]`.

    A label is the name of a class. If no name looks like a number, a whole number is accepted as an index too, because
    data sets of the same task store either.

    Args:
        names: Names of the classes, 1 to `MAX_CLASSES`, all different.

    Raises:
        DataError: There is no name, there are too many, or one occurs twice.

    Examples:
        >>> LabelMapping(("negative", "positive")).index_of("1", "dev.tsv, line 2")
        1
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES or len(set(self.names)) != len(self.names):
            raise DataError.of("label_names", self.names, f"1 to {MAX_CLASSES} names that differ")

    def index_of(self, label: object, where: str) -> int:
        """Return the class index of a label.

        Args:
            label: Label in the file: a whole number, a truth value or a string.
            where: File, line and column of the label, for the message.

        Raises:
            DataError: The label belongs to no class.
        """
        word = _to_word(label, where)
        if word in self.names:
            return self.names.index(word)
        if _is_number(word) and not any(_is_number(name) for name in self.names):
            return _to_index(word, where, len(self.names))
        whole = _WHOLE.fullmatch(word)
        if whole and str(int(whole[1])) in self.names:  # "1.0" or "01" for "1"
            return self.names.index(str(int(whole[1])))
        shown = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
        raise DataError.of(where, label, f"one of {shown}")


def infer_labels(labels: Sequence[object], places: Sequence[str], source: str, column: str) -> LabelMapping:
    """Return the classes of a column of labels.

    Numeric labels must be whole numbers from 0, and class i gets the name "i". Other labels are names, and their
    classes are in sorted order. A column that mixes both is refused, because one damaged number would otherwise turn
    all indices into names.

    Args:
        labels: Labels in the file.
        places: Line or row of each label, for messages.
        source: Name of the file, for messages.
        column: Name of the column, for messages.

    Raises:
        DataError: A label is empty, negative, too large or a fraction, or the column mixes numbers and names.
    """
    wheres = [f"{source}, {place}, column {column}" for place in places]
    words = [_to_word(label, where) for label, where in zip(labels, wheres, strict=True)]
    numeric = [_is_number(word) for word in words]
    if not any(numeric):
        names = tuple(sorted(set(words)))
        if len(names) > MAX_CLASSES:
            raise DataError(
                f"{source}, column {column}: {len(names)} different labels; allowed are up to {MAX_CLASSES}"
            )
        return LabelMapping(names)
    if not all(numeric):
        minority = numeric.count(True) < len(words) / 2
        odd = numeric.index(minority)
        raise DataError.of(wheres[odd], words[odd], "whole numbers alone or names alone in one column")
    largest = max(_to_index(word, where, MAX_CLASSES) for word, where in zip(words, wheres, strict=True))
    return LabelMapping(tuple(str(index) for index in range(largest + 1)))


def _to_word(label: object, where: str) -> str:
    if isinstance(label, bool):
        return str(int(label))
    if isinstance(label, int):
        return str(label)
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    if isinstance(label, str) and label.strip():
        return label.strip()
    raise DataError.of(where, label, "a whole number or a name")


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


def _to_index(word: str, where: str, num_classes: int) -> int:
    # The pattern limits the number of digits, because Python refuses to convert thousands of them.
    whole = _WHOLE.fullmatch(word)
    if not whole or not 0 <= int(whole[1]) < num_classes:
        raise DataError.of(where, word, f"a whole number from 0 to {num_classes - 1}")
    return int(whole[1])
