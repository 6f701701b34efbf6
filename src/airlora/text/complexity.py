"""How varied and how unusual a text is: the two text features in the state (III-A1).

Lexical entropy says how many different words a sample spends, the OOV rate how many of them the model has no token of
its own for.  Both are properties of the text and a vocabulary; no model is needed.
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
    "batch_complexity",
    "lexical_entropy_nats",
    "oov_rate",
    "sample_complexity",
    "words",
]


def words(text: str) -> list[str]:
    """Return the words of a text in order, case kept, punctuation dropped.

    A word is a run of letters, digits and their combining marks, with single apostrophes or hyphens inside it.  Scripts
    written without spaces give one word per run.

    >>> words("The so-called 'plot' isn't there -- 7/10.")
    ['The', 'so-called', 'plot', "isn't", 'there', '7', '10']
    """
    return _word_pattern().findall(text)


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    # Python's \w leaves combining marks out, which would cut words of many scripts (and decomposed accents) in two.
    # Marks that take part in words lie in the first two planes.
    marks = "".join(char for char in map(chr, range(0x20000)) if unicodedata.category(char).startswith("M"))
    run = rf"[^\W_](?:[^\W_]|[{re.escape(marks)}])*"
    return re.compile(rf"{run}(?:['\u2019\-\u2010\u2011]{run})*")


def lexical_entropy_nats(text: str) -> float:
    r"""Return the lexical entropy of a sample, nats per word.

    $$H = -\sum_w p(w) \log p(w)$$

    Notation: p(w) share of the sample's words that are w, upper and lower case taken as one.

    Args:
        text: One sample.

    Returns:
        0 to log(number of words); 0.0 for a text without words.
    Source: AirLLM III-A1.

    >>> round(lexical_entropy_nats("good, good film"), 4)
    0.6365
    """
    counts = Counter(word.casefold() for word in words(text))
    total = counts.total()
    return math.fsum(count / total * math.log(total / count) for count in counts.values())


class Vocabulary(Protocol):
    """Anything that says whether a word is known."""

    def __contains__(self, word: str) -> bool: ...


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    @property
    def unk_token(self) -> str | None:
        """The token of what the tokenizer cannot spell."""
        ...

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without special tokens."""
        ...


class FileVocabulary:
    """A pre-defined vocabulary; upper and lower case are taken as one.

    Args:
        known: The words.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self._known = frozenset(word.casefold() for word in known)

    @classmethod
    def from_file(cls, path: Path | str) -> FileVocabulary:
        """Return the vocabulary in a UTF-8 file of one word a line; blank lines are skipped.

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
            raise DataError(f"vocabulary {path}: holds no word; one word a line is needed")
        return cls(known)

    def __contains__(self, word: str) -> bool:
        return word.casefold() in self._known

    def __len__(self) -> int:
        return len(self._known)


class TokenizerVocabulary:
    """The words that a tokenizer knows whole.

    A word is known when it becomes exactly one token that is not the unknown token, at the start of a text or after a
    space (byte-level BPE has different tokens for the two).  The word is passed as it stands; an uncased tokenizer
    lower-cases it itself.  Tokenizers that split at apostrophes and hyphens know no word that holds one.

    Args:
        tokenizer: Any object with `tokenize(text)` and `unk_token`, such as a Hugging Face tokenizer.
        cache_size: Words remembered.
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
    """Return the share of a sample's words, repeats counted, that the vocabulary lacks.

    Args:
        text: One sample.
        vocabulary: What is known.

    Returns:
        0 to 1; 0.0 for a text without words.
    Source: AirLLM III-A1.

    >>> oov_rate("the beamforming the gain", FileVocabulary(["the", "gain"]))
    0.25
    """
    found = words(text)
    if not found:
        return 0.0
    return sum(word not in vocabulary for word in found) / len(found)


@dataclass(frozen=True, slots=True)
class TextComplexity:
    """The text part (H, rho) of the state s_t.

    Args:
        entropy_nats: Lexical entropy H, nats per word, >= 0.
        oov_rate: rho, 0 to 1.
    """

    entropy_nats: float
    oov_rate: float


def sample_complexity(text: str, vocabulary: Vocabulary) -> TextComplexity:
    """Return entropy and OOV rate of one sample."""
    return TextComplexity(lexical_entropy_nats(text), oov_rate(text, vocabulary))


def batch_complexity(texts: Sequence[str], vocabulary: Vocabulary) -> TextComplexity:
    """Return the mean of the samples' entropies and of their OOV rates.

    The mean, not the entropy of all words pooled: that one grows with the number of samples, so the same data would
    look different to a policy when the batch size changes.

    Raises:
        DataError: There is no sample.
    """
    if not texts:
        raise DataError.of("texts", texts, "one sample or more")
    samples = [sample_complexity(text, vocabulary) for text in texts]
    return TextComplexity(
        entropy_nats=math.fsum(sample.entropy_nats for sample in samples) / len(samples),
        oov_rate=math.fsum(sample.oov_rate for sample in samples) / len(samples),
    )
