"""The embedded corpus: labelled sentences generated from a grammar and word lists of airlora."""

from airlora.text.embedded.corpus import LABEL_NAMES, embedded_corpus, generate_corpus
from airlora.text.embedded.lexicon import DOMAINS, Domain

__all__ = ["DOMAINS", "LABEL_NAMES", "Domain", "embedded_corpus", "generate_corpus"]
