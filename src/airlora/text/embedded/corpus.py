"""The embedded corpus: labelled opinions that airlora writes itself, so that all of it can be tried without a download.

Sentences come from the grammar and the word lists of this package; nothing is copied from anywhere.  Word counts tell
little about the label, so a model has to learn how clauses combine, and the domains differ in how varied and how
unusual their words are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from airlora.errors import DataError
from airlora.text.datasets import TextDataset
from airlora.text.embedded.draw import Draw
from airlora.text.embedded.grammar import sentence
from airlora.text.embedded.lexicon import DOMAINS

__all__ = ["LABEL_NAMES", "embedded_corpus", "generate_corpus"]

LABEL_NAMES = ("negative", "positive")

MAX_REDRAWS = 1000
"""Sentences drawn in vain, one after the other, before the grammar counts as used up."""


def generate_corpus(
    num_samples: int,
    *,
    seed: int,
    domains: Sequence[str] | None = None,
    label_noise: float = 0.03,
) -> TextDataset:
    """Return sentences with their sentiment, no sentence twice; `groups` holds the domain of each.

    Half of the samples are positive before noise (the odd one out is negative), in random order.  A seed gives the same
    corpus on every Python version and platform, and the same sentences whatever the label noise.

    Args:
        num_samples: How many, >= 1.
        seed: Whole number >= 0.
        domains: Names out of `DOMAINS`, each as likely as the other; all of them if None.
        label_noise: Share of samples with the wrong label, 0 to 0.5, rounded to whole samples.

    Raises:
        DataError: An argument is not allowed, or the domains hold fewer different sentences than asked for.

    >>> generate_corpus(1, seed=42, label_noise=0.0, domains=["films"]).groups
    ('films',)
    """
    names = tuple(DOMAINS) if domains is None else tuple(domains)
    _verify(num_samples, seed, names, label_noise)
    # Two streams, so that the noise does not change the sentences.
    draw, noise = Draw(2 * seed), Draw(2 * seed + 1)
    labels = draw.shuffled([index % 2 for index in range(num_samples)])
    texts: dict[str, str] = {}
    for label in labels:
        for _ in range(MAX_REDRAWS):
            domain = draw.pick(names)
            text = sentence(draw, DOMAINS[domain], 1 if label else -1).text
            if text not in texts:
                texts[text] = domain
                break
        else:
            raise DataError.of("num_samples", num_samples, f"about {len(texts)} at most for domains {', '.join(names)}")
    for index in noise.shuffled(range(num_samples))[: round(label_noise * num_samples)]:
        labels[index] = 1 - labels[index]
    return TextDataset(
        texts=tuple(texts),
        labels=tuple(labels),
        label_names=LABEL_NAMES,
        name=f"generated corpus, seed {seed}",
        groups=tuple(texts.values()),
    )


def _verify(num_samples: int, seed: int, domains: Sequence[str], label_noise: float) -> None:
    for name, value, least in (("num_samples", num_samples, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError.of(name, value, f"a whole number, {least} or more")
    if not 0 <= label_noise <= 0.5:
        raise DataError.of("label_noise", label_noise, "a number from 0 to 0.5")
    if not domains:
        raise DataError.of("domains", domains, f"one or more of {', '.join(DOMAINS)}")
    for domain in domains:
        if domain not in DOMAINS:
            raise DataError.of("domain", domain, f"one of {', '.join(DOMAINS)}")


@functools.lru_cache(maxsize=4)
def embedded_corpus(
    seed: int = 42,
    *,
    num_train: int = 6000,
    num_dev: int = 1000,
    label_noise: float = 0.03,
) -> tuple[TextDataset, TextDataset]:
    """Return the train and dev part of one generated corpus; no sentence is in both.

    Args:
        seed: Whole number >= 0.
        num_train: Samples to train on, >= 1.
        num_dev: Samples to measure on, >= 1.
        label_noise: Share of wrong labels over both parts; a perfect model scores about 1 - label_noise on dev.

    Raises:
        DataError: An argument is not allowed.
    """
    for name, value in (("num_train", num_train), ("num_dev", num_dev)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DataError.of(name, value, "a whole number, 1 or more")
    corpus = generate_corpus(num_train + num_dev, seed=seed, label_noise=label_noise)
    return (
        corpus.subset(range(num_train), name=f"embedded corpus, train, seed {seed}"),
        corpus.subset(range(num_train, num_train + num_dev), name=f"embedded corpus, dev, seed {seed}"),
    )
