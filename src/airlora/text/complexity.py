"""Lexical entropy and out-of-vocabulary rate of a text, the two text features of the state (III-A1).

Lexical entropy measures the variety of a sample's words. The out-of-vocabulary (OOV) rate is the share of words that a
vocabulary lacks. Both are properties of the text and the vocabulary; no model is needed.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airlora.errors import DataError
from airlora.files import read_bytes

__all__ = [
    "FileVocabulary",
    "TextComplexity",
    "Tokenizer",
    "TokenizerVocabulary",
    "Vocabulary",
    "lexical_entropy_nats",
    "oov_rate",
    "sample_complexity",
    "words",
]


def words(text: str) -> list[str]:
    """Return the words of a text in order, with their case and without punctuation.

    A word is a run of letters, digits and their combining marks, possibly with single apostrophes or hyphens inside.
    In scripts without spaces every run is one word.

    Args:
        text: Text of one sample.

    Examples:
        >>> words("The so-called 'plot' isn't there -- 7/10.")
        ['The', 'so-called', 'plot', "isn't", 'there', '7', '10']
    """
    return _word_pattern().findall(text)


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    # Python's \w lacks combining marks, which would split words of many scripts and with decomposed accents. The marks
    # that occur in words lie in the first two planes of Unicode.
    marks = "".join(char for char in map(chr, range(0x20000)) if unicodedata.category(char).startswith("M"))
    run = rf"[^\W_](?:[^\W_]|[{re.escape(marks)}])*"
    return re.compile(rf"{run}(?:['\u2019\-\u2010\u2011]{run})*")


def lexical_entropy_nats(text: str) -> float:
    r"""Return the lexical entropy of a text, nats per word.

    $$H = -\sum_w p(w) \log p(w)$$

    Notation: p(w) relative frequency of word w in the text, ignoring case.

    Args:
        text: Text of one sample.

    Returns:
        Entropy from 0 to log(number of words), 0.0 for a text without words.

    Source: AirLLM III-A1.

    Examples:
        >>> round(lexical_entropy_nats("good, good film"), 4)
        0.6365
    """
    counts = Counter(word.casefold() for word in words(text))
    total = counts.total()
    return math.fsum(count / total * math.log(total / count) for count in counts.values())


class Vocabulary(Protocol):
    """Protocol of a vocabulary: `word in vocabulary` tells whether the word is known."""

    def __contains__(self, word: str) -> bool: ...


class Tokenizer(Protocol):
    """Protocol of a tokenizer, a subset of Hugging Face's."""

    @property
    def unk_token(self) -> str | None:
        """Token for text that the tokenizer cannot represent, or None."""
        ...

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without special tokens."""
        ...


class FileVocabulary:
    """A given list of known words. Case is ignored.

    Args:
        known: Known words.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self._known = frozenset(word.casefold() for word in known)

    @classmethod
    def from_file(cls, path: Path | str) -> FileVocabulary:
        """Return the vocabulary of a file with one word per line. Blank lines are skipped.

        Args:
            path: UTF-8 text file.

        Raises:
            DataError: The file is missing, holds no word or is not UTF-8.
        """
        data = read_bytes(path, "vocabulary", DataError)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise DataError(f"vocabulary {path}, line {line}: not UTF-8 text") from error
        known = [line.strip() for line in text.split("\n") if line.strip()]
        if not known:
            raise DataError(f"vocabulary {path}: holds no word; one word per line is needed")
        return cls(known)

    def __contains__(self, word: str) -> bool:
        return word.casefold() in self._known

    def __len__(self) -> int:
        return len(self._known)


class TokenizerVocabulary:
    """The words that a tokenizer represents by a single token.

    A word is known if it becomes exactly one token other than the unknown token, at the start of a text or after a
    space. Byte-level BPE has different tokens for the two. The word is passed with its case; an uncased tokenizer
    lower-cases it. Tokenizers that split at apostrophes and hyphens know no word that contains one.

    Args:
        tokenizer: Any `Tokenizer`, such as a Hugging Face tokenizer.
        cache_size: Maximum number of words in the cache of results.
    """

    def __init__(self, tokenizer: Tokenizer, *, cache_size: int = 65_536) -> None:
        self._tokenizer = tokenizer
        self._is_known = functools.lru_cache(maxsize=cache_size)(self._look_up)

    def _look_up(self, word: str) -> bool:
        for text in (word, f" {word}"):
            tokens = self._tokenizer.tokenize(text)
            if len(tokens) == 1 and tokens[0] != self._tokenizer.unk_token:
                return True
        return False

    def __contains__(self, word: str) -> bool:
        return self._is_known(word)


def oov_rate(text: str, vocabulary: Vocabulary) -> float:
    """Return the out-of-vocabulary (OOV) rate: the share of a text's words that the vocabulary lacks.

    Args:
        text: Text of one sample. Repeated words count repeatedly.
        vocabulary: Known words.

    Returns:
        Rate from 0 to 1, 0.0 for a text without words.

    Source: AirLLM III-A1.

    Examples:
        >>> oov_rate("the beamforming the gain", FileVocabulary(["the", "gain"]))
        0.25
    """
    found = words(text)
    if not found:
        return 0.0
    return sum(word not in vocabulary for word in found) / len(found)


@dataclass(frozen=True, slots=True)
class TextComplexity:
    """The text features (H, rho) of the state s_t.

    Args:
        entropy_nats: Lexical entropy H, nats per word, >= 0.
        oov_rate: Out-of-vocabulary rate rho, 0 to 1.
    """

    entropy_nats: float
    oov_rate: float


def sample_complexity(text: str, vocabulary: Vocabulary) -> TextComplexity:
    """Return lexical entropy and OOV rate of one sample.

    Args:
        text: Text of the sample.
        vocabulary: Known words.
    """
    return TextComplexity(lexical_entropy_nats(text), oov_rate(text, vocabulary))
