"""The grammar of the embedded corpus: how judgements combine, and what a whole sentence comes to.

A `Phrase` is a piece of text with a value: above 0 it speaks for the thing, below 0 against it.  Values combine from
the words upwards, so a sentence's label follows from how it is built, and only loosely from which words it holds:

| rule | example | value |
|---|---|---|
| adjective x | superb, decent, dull, awful | 2, 1, -1, -2 |
| degree | utterly x; rather x | 1.5 x; 0.5 x |
| keep | is x; never stops being x; is nothing if not x | x |
| turn | is not x; is far from x; fails to be x | -0.5 x |
| measure | the uptime rose; the latency rose | 1; -1 |
| content n | is full of n; is free of n | n; -n |
| frame | nobody denies that A; I doubt that A | A; -0.5 A |
| report | they say that A, and I agree; they say that A, but I disagree | A; -A |
| unreal | had the plot been different, the film would have been x | -x |
| rival | this film makes the last one look x | -x |
| contrast | although A, B; A, but B; B, even if A | B (A has the other sign) |
| pair | A, and B | A + B (both of one sign) |
| balance | A, while B; A, B and C | the sum: the stronger or more numerous side decides |

A sentence is built downwards: the sign that is wanted is handed to each rule, which hands its parts the signs they
need.  So every rule is as frequent in positive as in negative sentences, and no function word gives the label away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from airlora.text.embedded.draw import Draw
from airlora.text.embedded.lexicon import ADJECTIVES, FALLING, FAULTS, MERITS, NEUTRAL_FILLERS, RISING, SAYING, Domain
from airlora.text.embedded.rules import (
    BALANCES,
    CONTRASTS,
    DEGREES,
    FRAMES_KEEPING,
    FRAMES_TURNING,
    GUARDED,
    HOLDING,
    LACKING,
    PAIRS,
    PLAIN,
    REPORTS_AGREED,
    REPORTS_DENIED,
    RIVAL,
    TURNING,
    UNREAL,
    Phrase,
)

__all__ = ["KINDS", "MIN_WORDS", "sentence"]

MIN_WORDS = 7
"""Sentences with fewer words are lengthened with a neutral phrase."""

DEGREE_RATE = 0.25
"""Share of adjectives that come with an adverb of degree."""

TURN_RATE = 0.1
"""Share of clauses that turn the value of their words."""

TURNED_FRAME_RATE = 0.25
"""Share of frames and reports that turn the value of the clause inside."""

GUARDED_RATE = 0.2
"""Share of keeping clauses that use the words of a turning one ("never", "not", "less")."""


class Topic:
    """What one sentence speaks of: a thing of the domain, and its parts without repetition."""

    def __init__(self, draw: Draw, domain: Domain) -> None:
        self.domain = domain
        self.thing = draw.pick(domain.things)
        self.aspect = draw.pick(domain.aspects)
        self._subjects: Iterator[str] = iter(draw.shuffled((*domain.aspects, self.thing)))
        measures = [(noun, True) for noun in domain.good_when_high] + [(noun, False) for noun in domain.good_when_low]
        self._measures: Iterator[tuple[str, bool]] = iter(draw.shuffled(measures))

    def next_subject(self) -> str:
        """Return the thing or one of its aspects, another one at each call."""
        return f"the {next(self._subjects)}"

    def next_measure(self) -> tuple[str, bool]:
        """Return a measure, another one at each call, and whether one wants it to rise."""
        return next(self._measures)


Builder = Callable[[Draw, Topic, int], Phrase]


def _adjective(draw: Draw, sign: int) -> Phrase:
    word = draw.pick([word for word, value in ADJECTIVES.items() if value * sign > 0])
    return Phrase(word, ADJECTIVES[word])


def _graded(draw: Draw, sign: int) -> Phrase:
    plain = _adjective(draw, sign)
    return draw.pick(DEGREES).apply(plain) if draw.chance(DEGREE_RATE) else plain


def _says(draw: Draw, subject: str, sign: int) -> Phrase:
    """Return a judgement in the plainest words: "the plot is utterly dull"."""
    predicate = draw.pick(PLAIN).apply(_graded(draw, sign))
    return Phrase(f"{subject} {predicate.text}", predicate.value)


def _judgement(draw: Draw, topic: Topic, sign: int) -> Phrase:
    subject = topic.next_subject()
    if draw.chance(TURN_RATE):
        rule = draw.pick(TURNING)
    elif draw.chance(GUARDED_RATE):
        rule = draw.pick(GUARDED)
    else:
        return _says(draw, subject, sign)
    predicate = rule.apply(_adjective(draw, sign * rule.sign))
    return Phrase(f"{subject} {predicate.text}", predicate.value)


def _measure(draw: Draw, topic: Topic, sign: int) -> Phrase:
    noun, high_is_good = topic.next_measure()
    verb = draw.pick(RISING if high_is_good == (sign > 0) else FALLING)
    return Phrase(f"the {noun} {verb}", float(sign))


def _content(draw: Draw, topic: Topic, sign: int) -> Phrase:
    rule = draw.pick(LACKING if draw.chance(TURN_RATE) else HOLDING)
    good = sign * rule.sign > 0
    # The domain's own nouns fit the thing as a whole (a menu has no dirty plates), the general ones fit any part too.
    if draw.chance(0.5):
        subject, nouns = f"the {topic.thing}", topic.domain.merits if good else topic.domain.faults
    else:
        subject, nouns = topic.next_subject(), MERITS if good else FAULTS
    predicate = rule.apply(Phrase(draw.pick(nouns), 1.0 if good else -1.0))
    return Phrase(f"{subject} {predicate.text}", predicate.value)


CLAUSES: dict[Builder, int] = {_judgement: 80, _measure: 8, _content: 12}
"""What a clause can be, in per cent."""


def _clause(draw: Draw, topic: Topic, sign: int) -> Phrase:
    return draw.weighted(CLAUSES)(draw, topic, sign)


def _framed(draw: Draw, topic: Topic, sign: int) -> Phrase:
    rule = draw.pick(FRAMES_TURNING if draw.chance(TURNED_FRAME_RATE) else FRAMES_KEEPING)
    return rule.apply(_judgement(draw, topic, sign * rule.sign))


def _report(draw: Draw, topic: Topic, sign: int) -> Phrase:
    rule = draw.pick(REPORTS_DENIED if draw.chance(TURNED_FRAME_RATE) else REPORTS_AGREED)
    inner = _judgement(draw, topic, sign * rule.sign)
    return rule.apply(inner, people=draw.pick(topic.domain.people), say=draw.pick(SAYING))


def _unreal(draw: Draw, topic: Topic, sign: int) -> Phrase:
    return draw.pick(UNREAL).apply(_adjective(draw, -sign), thing=topic.thing, aspect=topic.aspect)


def _rival(draw: Draw, topic: Topic, sign: int) -> Phrase:
    return draw.pick(RIVAL).apply(_graded(draw, -sign), thing=topic.thing)


def _contrast(draw: Draw, topic: Topic, sign: int) -> Phrase:
    a, b = _clause(draw, topic, -sign), _clause(draw, topic, sign)
    return Phrase(draw.pick(CONTRASTS).format(a=a.text, b=b.text), b.value)


def _pair(draw: Draw, topic: Topic, sign: int) -> Phrase:
    a, b = _clause(draw, topic, sign), _clause(draw, topic, sign)
    return Phrase(draw.pick(PAIRS).format(a=a.text, b=b.text), a.value + b.value)


def _balance(draw: Draw, topic: Topic, sign: int) -> Phrase:
    subjects = [topic.next_subject() for _ in range(2)]
    while True:
        first = 1 if draw.chance(0.5) else -1
        a, b = _says(draw, subjects[0], first), _says(draw, subjects[1], -first)
        if abs(a.value + b.value) >= 1 and (a.value + b.value) * sign > 0:
            return Phrase(draw.pick(BALANCES).format(a=a.text, b=b.text), a.value + b.value)


def _trio(draw: Draw, topic: Topic, sign: int) -> Phrase:
    subjects = [topic.next_subject() for _ in range(3)]
    while True:
        parts = [_adjective(draw, s) for s in draw.shuffled((sign, sign, -sign))]
        value = sum(part.value for part in parts)
        if value * sign > 0:
            (a, b, c), (x, y, z) = subjects, (part.text for part in parts)
            return Phrase(f"{a} is {x}, {b} {y} and {c} {z}", value)


KINDS: dict[str, tuple[Builder, int]] = {
    "plain": (_clause, 24),
    "pair": (_pair, 24),
    "trio": (_trio, 8),
    "balance": (_balance, 5),
    "framed": (_framed, 10),
    "report": (_report, 10),
    "unreal": (_unreal, 3),
    "rival": (_rival, 3),
    "contrast": (_contrast, 13),
}
"""What sentences there are: how each is built, and its share of the corpus in per cent."""


def sentence(draw: Draw, domain: Domain, sign: int, kind: str | None = None) -> Phrase:
    """Return a whole sentence whose value has the sign that is wanted.

    Args:
        draw: Where the choices come from.
        domain: What is spoken of.
        sign: 1 for a positive sentence, -1 for a negative one.
        kind: One of `KINDS`; drawn by its share if None.
    """
    topic = Topic(draw, domain)
    if kind is None:
        kind = draw.weighted({name: share for name, (_, share) in KINDS.items()})
    body = KINDS[kind][0](draw, topic, sign)
    text = _filled(draw, domain, body.text)
    return Phrase(f"{text[0].upper()}{text[1:]}.", body.value)


def _filled(draw: Draw, domain: Domain, text: str) -> str:
    """Return the text with neutral phrases before and after it: one by chance, more if it is short."""
    wanted = draw.chance(domain.filler_rate)
    in_front = draw.chance(0.5)
    for filler in draw.shuffled(domain.fillers + NEUTRAL_FILLERS):
        if not wanted and len(text.split()) >= MIN_WORDS:
            break
        text = f"{filler}, {text}" if in_front else f"{text}, {filler}"
        wanted, in_front = False, not in_front
    return text
