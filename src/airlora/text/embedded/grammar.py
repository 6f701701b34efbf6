"""Grammar of the embedded corpus: templates, and how the values of clauses combine into a sentence's label.

A `Phrase` is a text with a value. Values above 0 are positive judgements, values below 0 negative ones. A sentence's
value follows from its structure and only loosely from its words:

| rule | example | value |
|---|---|---|
| adjective x | superb, decent, dull, awful | 2, 1, -1, -2 |
| degree | utterly x; rather x | 1.5 x; 0.5 x |
| affirmation | is x; never stops being x; is nothing if not x | x |
| negation | is not x; is far from x; fails to be x | -0.5 x |
| measure | the uptime rose; the latency rose | 1; -1 |
| content n | is full of n; is free of n | n; -n |
| frame | nobody denies that A; I doubt that A | A; -0.5 A |
| report | they say that A, and I agree; they say that A, but I disagree | A; -A |
| counterfactual | had the plot been different, the film would have been x | -x |
| comparison | this film makes the last one look x | -x |
| contrast | although A, B; A, but B; B, even if A | B (A has the other sign) |
| pair | A, and B | A + B (both of one sign) |
| balance | A, while B; A, B and C | sum of the values |

Sentences are generated top-down. Each rule receives the sign of its value and passes the required signs to its
clauses. Every rule is therefore equally frequent in positive and negative sentences, and no function word reveals the
label.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from airlora.text.embedded.lexicon import (
    ADJECTIVES,
    FALLING,
    FAULTS,
    MERITS,
    NEUTRAL_FILLERS,
    RISING,
    SAYING,
    Domain,
)

__all__ = ["KINDS", "MIN_WORDS", "Phrase", "PortableRandom", "Rule", "sentence"]

MIN_WORDS = 7
"""Minimum number of words of a sentence. Shorter sentences are lengthened with neutral phrases."""

DEGREE_PROBABILITY = 0.25
"""Probability that an adjective has an adverb of degree."""

NEGATION_PROBABILITY = 0.1
"""Probability that a clause negates the value of its words."""

DENIAL_PROBABILITY = 0.25
"""Probability that a frame or report negates the value of its clause."""

FALSE_NEGATION_PROBABILITY = 0.2
"""Probability that an affirmation contains words of a negation ("never", "not", "less")."""

T = TypeVar("T")


class PortableRandom:
    """Seeded random choices that are the same on every Python version.

    Python guarantees the sequence of `random.Random(seed).random()` across versions, but not that of other methods.
    Every choice here is computed from these numbers u in [0, 1).

    Args:
        seed: Whole number >= 0.
    """

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options with equal probabilities, options[floor(u * len)]."""
        return options[int(self._generator.random() * len(options))]

    def chance(self, probability: float) -> bool:
        """Return True with the given probability, u < probability."""
        return self._generator.random() < probability

    def weighted(self, weights: Mapping[T, int]) -> T:
        """Return a key with a probability proportional to its weight.

        Args:
            weights: Whole numbers by key. Sums of fractions would be rounded differently across Python versions.
        """
        return self.pick([option for option, weight in weights.items() for _ in range(weight)])

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in random order, sorted by one u each."""
        keys = [self._generator.random() for _ in options]
        return [options[i] for i in sorted(range(len(options)), key=keys.__getitem__)]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A text and its value: positive above 0, negative below 0."""

    text: str
    value: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A template with a slot `{x}`, and the ratio of its value to that of the phrase in the slot.

    Examples:
        >>> Rule("fails to be {x}", -0.5).apply(Phrase("superb", 2.0))
        Phrase(text='fails to be superb', value=-1.0)
    """

    template: str
    factor: float

    @property
    def sign(self) -> int:
        """1 for a rule that keeps the sign of the value, -1 for one that changes it."""
        return 1 if self.factor > 0 else -1

    def apply(self, inner: Phrase, **nouns: str) -> Phrase:
        """Return the phrase with all slots filled.

        Args:
            inner: Phrase for the slot `{x}`.
            nouns: Words for the other slots, by their names.
        """
        return Phrase(self.template.format(x=inner.text, **nouns), self.factor * inner.value)


def _rules(factor: float, *templates: str) -> tuple[Rule, ...]:
    return tuple(Rule(template, factor) for template in templates)


DEGREES = (
    *_rules(1.5, "utterly {x}", "really {x}", "absolutely {x}"),
    *_rules(0.5, "rather {x}", "somewhat {x}", "mildly {x}"),
)
"""Adverbs of degree before an adjective."""

AFFIRMATIONS = _rules(1.0, "is {x}", "was {x}", "feels {x}", "seems {x}", "turned out {x}", "remains {x}")
"""Plain predicates that keep the value of their adjective."""

FALSE_NEGATIONS = _rules(
    1.0,
    "never stops being {x}",
    "is nothing if not {x}",
    "could not be more {x}",
    "is no less {x} than expected",
    "does not fail to be {x}",
    "is never anything but {x}",
)
"""Predicates with words of a negation that keep the value of their adjective."""

NEGATIONS = _rules(
    -0.5,
    "is not {x}",
    "was never {x}",
    "is hardly {x}",
    "is far from {x}",
    "is anything but {x}",
    "fails to be {x}",
    "is no longer {x}",
    "is less {x} than expected",
    "could not be called {x}",
)
"""Predicates that negate their adjective and weaken it."""

CONTAINING = _rules(1.0, "is full of {x}", "offers plenty of {x}", "has no shortage of {x}", "is never without {x}")
"""Predicates that keep the value of their noun."""

LACKING = _rules(-1.0, "is free of {x}", "offers hardly any {x}", "has no {x}", "comes without {x}")
"""Predicates that negate the value of their noun."""

AFFIRMING_FRAMES = _rules(
    1.0,
    "I think that {x}",
    "I have no doubt that {x}",
    "nobody denies that {x}",
    "I do not mind saying that {x}",
    "it is no secret that {x}",
)
"""Main clauses that affirm their subordinate clause."""

DENYING_FRAMES = _rules(
    -0.5,
    "I doubt that {x}",
    "I do not think that {x}",
    "nobody would say that {x}",
    "it is not true that {x}",
    "it is a myth that {x}",
)
"""Main clauses that deny their subordinate clause."""

SHARED_REPORTS = _rules(
    1.0,
    "{people} {say} that {x}, and they are right",
    "{people} {say} that {x}, and I agree",
    "{people} {say} that {x}, and I cannot disagree",
    "{people} {say} that {x}, and not without reason",
)
"""Opinions of others that the writer shares."""

DISPUTED_REPORTS = _rules(
    -1.0,
    "{people} {say} that {x}, and they are wrong",
    "{people} {say} that {x}, but I disagree",
    "{people} {say} that {x}, and I cannot agree",
    "{people} {say} that {x}, but without reason",
)
"""Opinions of others that the writer does not share."""

COUNTERFACTUALS = _rules(
    -1.0,
    "had the {aspect} been different, the {thing} would have been {x}",
    "the {thing} could have been {x} if not for the {aspect}",
    "without that {aspect}, the {thing} would have been {x}",
    "the {thing} was supposed to be {x}, and is not",
)
"""Sentences on a quality that the thing could have had and lacks."""

COMPARISONS = _rules(
    -1.0,
    "this {thing} makes the last one look {x}",
    "next to this {thing}, the old one looks {x}",
    "beside this {thing}, every other one is {x}",
)
"""Sentences that judge other things in comparison with this one."""

CONTRASTS = (
    "although {a}, {b}",
    "{b}, although {a}",
    "{a}, but {b}",
    "even if {a}, {b}",
    "{b}, even if {a}",
    "it is true that {a}, yet {b}",
    "{a}; all the same, {b}",
    "{b}, never mind that {a}",
)
"""Templates of two clauses of different sign. The main clause b decides the value."""

PAIRS = ("{a} and {b}", "{a}, and {b}", "{a}; {b}", "{a}, not to mention that {b}")
"""Templates of two clauses of one sign."""

BALANCES = ("{a}, while {b}", "{a} and {b}", "{a}; {b}")
"""Templates of two clauses of different sign. The stronger one decides the value."""


class Topic:
    """The subject of one sentence: a thing of the domain, and its aspects and measures without repetition.

    Args:
        rng: Source of the random choices.
        domain: Domain of the sentence.
    """

    def __init__(self, rng: PortableRandom, domain: Domain) -> None:
        self.domain = domain
        self.thing = rng.pick(domain.things)
        self.aspect = rng.pick(domain.aspects)
        self._subjects: Iterator[str] = iter(rng.shuffled((*domain.aspects, self.thing)))
        measures = [(noun, True) for noun in domain.good_when_high] + [(noun, False) for noun in domain.good_when_low]
        self._measures: Iterator[tuple[str, bool]] = iter(rng.shuffled(measures))

    def next_subject(self) -> str:
        """Return the thing or one of its aspects, a different one at each call."""
        return f"the {next(self._subjects)}"

    def next_measure(self) -> tuple[str, bool]:
        """Return a measure, a different one at each call, and whether high values are good."""
        return next(self._measures)


Builder = Callable[[PortableRandom, Topic, int], Phrase]


def _adjective(rng: PortableRandom, sign: int) -> Phrase:
    word = rng.pick([word for word, value in ADJECTIVES.items() if value * sign > 0])
    return Phrase(word, ADJECTIVES[word])


def _graded(rng: PortableRandom, sign: int) -> Phrase:
    plain = _adjective(rng, sign)
    return rng.pick(DEGREES).apply(plain) if rng.chance(DEGREE_PROBABILITY) else plain


def _affirmation(rng: PortableRandom, subject: str, sign: int) -> Phrase:
    predicate = rng.pick(AFFIRMATIONS).apply(_graded(rng, sign))
    return Phrase(f"{subject} {predicate.text}", predicate.value)


def _judgement(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    subject = topic.next_subject()
    if rng.chance(NEGATION_PROBABILITY):
        rule = rng.pick(NEGATIONS)
    elif rng.chance(FALSE_NEGATION_PROBABILITY):
        rule = rng.pick(FALSE_NEGATIONS)
    else:
        return _affirmation(rng, subject, sign)
    predicate = rule.apply(_adjective(rng, sign * rule.sign))
    return Phrase(f"{subject} {predicate.text}", predicate.value)


def _measure(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    noun, high_is_good = topic.next_measure()
    verb = rng.pick(RISING if high_is_good == (sign > 0) else FALLING)
    return Phrase(f"the {noun} {verb}", float(sign))


def _content(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    rule = rng.pick(LACKING if rng.chance(NEGATION_PROBABILITY) else CONTAINING)
    good = sign * rule.sign > 0
    # The domain's nouns fit the thing only (a menu has no dirty plates). The general nouns fit its aspects too.
    if rng.chance(0.5):
        subject, nouns = f"the {topic.thing}", topic.domain.merits if good else topic.domain.faults
    else:
        subject, nouns = topic.next_subject(), MERITS if good else FAULTS
    predicate = rule.apply(Phrase(rng.pick(nouns), 1.0 if good else -1.0))
    return Phrase(f"{subject} {predicate.text}", predicate.value)


CLAUSES: dict[Builder, int] = {_judgement: 80, _measure: 8, _content: 12}
"""Builders of a clause and their shares, per cent."""


def _clause(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    return rng.weighted(CLAUSES)(rng, topic, sign)


def _framed(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    rule = rng.pick(DENYING_FRAMES if rng.chance(DENIAL_PROBABILITY) else AFFIRMING_FRAMES)
    return rule.apply(_judgement(rng, topic, sign * rule.sign))


def _report(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    rule = rng.pick(DISPUTED_REPORTS if rng.chance(DENIAL_PROBABILITY) else SHARED_REPORTS)
    inner = _judgement(rng, topic, sign * rule.sign)
    return rule.apply(inner, people=rng.pick(topic.domain.people), say=rng.pick(SAYING))


def _counterfactual(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    return rng.pick(COUNTERFACTUALS).apply(_adjective(rng, -sign), thing=topic.thing, aspect=topic.aspect)


def _comparison(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    return rng.pick(COMPARISONS).apply(_graded(rng, -sign), thing=topic.thing)


def _contrast(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    a, b = _clause(rng, topic, -sign), _clause(rng, topic, sign)
    return Phrase(rng.pick(CONTRASTS).format(a=a.text, b=b.text), b.value)


def _pair(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    a, b = _clause(rng, topic, sign), _clause(rng, topic, sign)
    return Phrase(rng.pick(PAIRS).format(a=a.text, b=b.text), a.value + b.value)


def _balance(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    subjects = [topic.next_subject() for _ in range(2)]
    while True:
        first = 1 if rng.chance(0.5) else -1
        a, b = _affirmation(rng, subjects[0], first), _affirmation(rng, subjects[1], -first)
        if abs(a.value + b.value) >= 1 and (a.value + b.value) * sign > 0:
            return Phrase(rng.pick(BALANCES).format(a=a.text, b=b.text), a.value + b.value)


def _trio(rng: PortableRandom, topic: Topic, sign: int) -> Phrase:
    subjects = [topic.next_subject() for _ in range(3)]
    while True:
        adjectives = [_adjective(rng, s) for s in rng.shuffled((sign, sign, -sign))]
        value = sum(adjective.value for adjective in adjectives)
        if value * sign > 0:
            (a, b, c), (x, y, z) = subjects, (adjective.text for adjective in adjectives)
            return Phrase(f"{a} is {x}, {b} {y} and {c} {z}", value)


KINDS: dict[str, tuple[Builder, int]] = {
    "clause": (_clause, 24),
    "pair": (_pair, 24),
    "trio": (_trio, 8),
    "balance": (_balance, 5),
    "frame": (_framed, 10),
    "report": (_report, 10),
    "counterfactual": (_counterfactual, 3),
    "comparison": (_comparison, 3),
    "contrast": (_contrast, 13),
}
"""Kinds of sentences: the builder of each, and its share of the corpus, per cent."""


def sentence(rng: PortableRandom, domain: Domain, sign: int, kind: str | None = None) -> Phrase:
    """Return a sentence whose value has the given sign.

    Args:
        rng: Source of the random choices.
        domain: Domain of the sentence.
        sign: 1 for a positive sentence, -1 for a negative one.
        kind: Key of `KINDS`. None draws a kind by its share of the corpus.
    """
    topic = Topic(rng, domain)
    if kind is None:
        kind = rng.weighted({name: share for name, (_, share) in KINDS.items()})
    body = KINDS[kind][0](rng, topic, sign)
    text = _filled(rng, domain, body.text)
    return Phrase(f"{text[0].upper()}{text[1:]}.", body.value)


def _filled(rng: PortableRandom, domain: Domain, text: str) -> str:
    """Return the text with a neutral phrase at random, and with more of them until it has `MIN_WORDS` words."""
    wanted = rng.chance(domain.filler_rate)
    in_front = rng.chance(0.5)
    for filler in rng.shuffled(domain.fillers + NEUTRAL_FILLERS):
        if not wanted and len(text.split()) >= MIN_WORDS:
            break
        text = f"{filler}, {text}" if in_front else f"{text}, {filler}"
        wanted, in_front = False, not in_front
    return text
