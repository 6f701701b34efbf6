"""Generation of the embedded corpus: labelled opinions for trying airlora without a download.

Sentences are generated from the grammar and the word lists of this package. Word counts say little about the label, so
a model has to learn how clauses combine. The domains differ in the variety and rarity of their words.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from airlora.errors import DataError
from airlora.text.datasets import TextDataset
from airlora.text.embedded.grammar import PortableRandom, sentence
from airlora.text.embedded.lexicon import DOMAINS

__all__ = ["LABEL_NAMES", "embedded_corpus", "generate_corpus"]

LABEL_NAMES = ("negative", "positive")

MAX_REDRAWS = 1000
"""Consecutive duplicates after which the grammar counts as exhausted."""


def generate_corpus(
    num_samples: int,
    *,
    seed: int,
    domains: Sequence[str] | None = None,
    label_noise: float = 0.03,
) -> TextDataset:
    """Return unique sentences with their sentiment as labels and their domains as groups.

    Before label noise, half of the samples are positive (rounded down), in random order. A seed gives the same corpus
    on every Python version and platform, and the same sentences for any label noise.

    Args:
        num_samples: Number of samples, >= 1.
        seed: Seed of the random choices, a whole number >= 0.
        domains: Names of `DOMAINS` with equal probabilities, or None for all.
        label_noise: Share of samples with the wrong label, 0 to 0.5, rounded to whole samples.

    Raises:
        DataError: An argument is not allowed, or the domains have too few different sentences.

    Examples:
        >>> generate_corpus(1, seed=42, label_noise=0.0, domains=["films"]).groups
        ('films',)
    """
    names = tuple(DOMAINS) if domains is None else tuple(domains)
    _verify(num_samples, seed, names, label_noise)
    # Separate generators, so that the label noise does not change the sentences.
    rng, noise = PortableRandom(2 * seed), PortableRandom(2 * seed + 1)
    labels = rng.shuffled([index % 2 for index in range(num_samples)])
    texts: dict[str, str] = {}
    for label in labels:
        for _ in range(MAX_REDRAWS):
            domain = rng.pick(names)
            text = sentence(rng, DOMAINS[domain], 1 if label else -1).text
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
    _verify_whole("num_samples", num_samples, least=1)
    _verify_whole("seed", seed, least=0)
    if not 0 <= label_noise <= 0.5:
        raise DataError.of("label_noise", label_noise, "a number from 0 to 0.5")
    if not domains:
        raise DataError.of("domains", domains, f"one or more of {', '.join(DOMAINS)}")
    for domain in domains:
        if domain not in DOMAINS:
            raise DataError.of("domain", domain, f"one of {', '.join(DOMAINS)}")


def _verify_whole(name: str, value: object, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError.of(name, value, f"a whole number, {least} or more")


@functools.lru_cache(maxsize=4)
def embedded_corpus(
    seed: int = 42,
    *,
    num_train: int = 6000,
    num_dev: int = 1000,
    label_noise: float = 0.03,
) -> tuple[TextDataset, TextDataset]:
    """Return the training and development set of one generated corpus, without common sentences.

    Args:
        seed: Seed of the random choices, a whole number >= 0.
        num_train: Number of training samples, >= 1.
        num_dev: Number of development samples, >= 1.
        label_noise: Share of wrong labels in both sets together, 0 to 0.5. A perfect model has an accuracy of about
            1 - label_noise on the development set.

    Raises:
        DataError: An argument is not allowed.
    """
    _verify_whole("num_train", num_train, least=1)
    _verify_whole("num_dev", num_dev, least=1)
    corpus = generate_corpus(num_train + num_dev, seed=seed, label_noise=label_noise)
    return (
        corpus.subset(range(num_train), name=f"embedded corpus, train, seed {seed}"),
        corpus.subset(range(num_train, num_train + num_dev), name=f"embedded corpus, dev, seed {seed}"),
    )
