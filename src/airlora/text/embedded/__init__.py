"""The embedded corpus: labelled sentences that airlora generates from its own grammar and word lists."""

from airlora.text.embedded.corpus import LABEL_NAMES, embedded_corpus, generate_corpus
from airlora.text.embedded.lexicon import DOMAINS, Domain

__all__ = ["DOMAINS", "LABEL_NAMES", "Domain", "embedded_corpus", "generate_corpus"]
