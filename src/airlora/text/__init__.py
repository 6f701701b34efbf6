"""Texts: how complex they are, where they come from, and a corpus that needs no download.

- `complexity`: lexical entropy and OOV rate, the text part of the state (III-A1).
- `datasets`: `TextDataset`, and `load_dataset` from TSV, CSV, JSON, Parquet or the Hugging Face Hub.
- `corpus`: labelled sentences from a grammar of our own; `grammar`, `rules` and `lexicon` say how and from what.
"""

from airlora.text.complexity import (
    FileVocabulary,
    TextComplexity,
    Tokenizer,
    TokenizerVocabulary,
    Vocabulary,
    batch_complexity,
    lexical_entropy_nats,
    oov_rate,
    sample_complexity,
    words,
)
from airlora.text.datasets import TextDataset, load_dataset, save_tsv
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
    "batch_complexity",
    "embedded_corpus",
    "generate_corpus",
    "lexical_entropy_nats",
    "load_dataset",
    "oov_rate",
    "sample_complexity",
    "save_tsv",
    "words",
]
