"""Data sets of labelled texts, text statistics, and a generated corpus that needs no download.

- `complexity`: lexical entropy and OOV rate, the text features of the state (III-A1).
- `datasets`: `TextDataset`, and `load_dataset` for TSV, CSV, JSON, Parquet and the Hugging Face Hub.
- `embedded`: the generated corpus with its grammar and word lists.
"""

from airlora.text.complexity import (
    FileVocabulary,
    TextComplexity,
    Tokenizer,
    TokenizerVocabulary,
    Vocabulary,
    lexical_entropy_nats,
    oov_rate,
    sample_complexity,
    words,
)
from airlora.text.datasets import TextDataset, load_dataset
from airlora.text.embedded import DOMAINS, LABEL_NAMES, Domain, embedded_corpus, generate_corpus

__all__ = [
    "DOMAINS",
    "LABEL_NAMES",
    "Domain",
    "FileVocabulary",
    "TextComplexity",
    "TextDataset",
    "Tokenizer",
    "TokenizerVocabulary",
    "Vocabulary",
    "embedded_corpus",
    "generate_corpus",
    "lexical_entropy_nats",
    "load_dataset",
    "oov_rate",
    "sample_complexity",
    "words",
]
