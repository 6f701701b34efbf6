"""The rules of the embedded corpus: templates, and what each does to the value of what fills it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BALANCES",
    "CONTRASTS",
    "DEGREES",
    "FRAMES_KEEPING",
    "FRAMES_TURNING",
    "GUARDED",
    "HOLDING",
    "LACKING",
    "PAIRS",
    "PLAIN",
    "REPORTS_AGREED",
    "REPORTS_DENIED",
    "RIVAL",
    "TURNING",
    "UNREAL",
    "Phrase",
    "Rule",
]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A piece of text, and what it says for (> 0) or against (< 0) the thing."""

    text: str
    value: float


@dataclass(frozen=True, slots=True)
class Rule:
    """A template with one slot `{x}`, and the factor from the value of what fills it to the value of the whole.

    >>> Rule("fails to be {x}", -0.5).apply(Phrase("superb", 2.0))
    Phrase(text='fails to be superb', value=-1.0)
    """

    template: str
    factor: float

    @property
    def sign(self) -> int:
        """1 for a rule that keeps the sign, -1 for one that turns it."""
        return 1 if self.factor > 0 else -1

    def apply(self, inner: Phrase, **nouns: str) -> Phrase:
        """Return the phrase with the slots filled."""
        return Phrase(self.template.format(x=inner.text, **nouns), self.factor * inner.value)


def _rules(factor: float, *templates: str) -> tuple[Rule, ...]:
    return tuple(Rule(template, factor) for template in templates)


DEGREES = (
    *_rules(1.5, "utterly {x}", "really {x}", "absolutely {x}"),
    *_rules(0.5, "rather {x}", "somewhat {x}", "mildly {x}"),
)
"""Adverbs before an adjective."""

PLAIN = _rules(1.0, "is {x}", "was {x}", "feels {x}", "seems {x}", "turned out {x}", "remains {x}")
"""Predicates that say what their adjective says."""

GUARDED = _rules(
    1.0,
    "never stops being {x}",
    "is nothing if not {x}",
    "could not be more {x}",
    "is no less {x} than expected",
    "does not fail to be {x}",
    "is never anything but {x}",
)
"""Predicates that use the words of a turning one and turn nothing."""

TURNING = _rules(
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
"""Predicates that say the opposite of their adjective, though less of it."""

HOLDING = _rules(1.0, "is full of {x}", "offers plenty of {x}", "has no shortage of {x}", "is never without {x}")
"""Predicates that take over the value of their noun."""

LACKING = _rules(-1.0, "is free of {x}", "offers hardly any {x}", "has no {x}", "comes without {x}")
"""Predicates that turn the value of their noun."""

FRAMES_KEEPING = _rules(
    1.0,
    "I think that {x}",
    "I have no doubt that {x}",
    "nobody denies that {x}",
    "I do not mind saying that {x}",
    "it is no secret that {x}",
)
"""Main clauses that affirm the clause inside."""

FRAMES_TURNING = _rules(
    -0.5,
    "I doubt that {x}",
    "I do not think that {x}",
    "nobody would say that {x}",
    "it is not true that {x}",
    "it is a myth that {x}",
)
"""Main clauses that deny the clause inside."""

REPORTS_AGREED = _rules(
    1.0,
    "{people} {say} that {x}, and they are right",
    "{people} {say} that {x}, and I agree",
    "{people} {say} that {x}, and I cannot disagree",
    "{people} {say} that {x}, and not without reason",
)
"""Opinions of others that the writer shares."""

REPORTS_DENIED = _rules(
    -1.0,
    "{people} {say} that {x}, and they are wrong",
    "{people} {say} that {x}, but I disagree",
    "{people} {say} that {x}, and I cannot agree",
    "{people} {say} that {x}, but without reason",
)
"""Opinions of others that the writer does not share."""

UNREAL = _rules(
    -1.0,
    "had the {aspect} been different, the {thing} would have been {x}",
    "the {thing} could have been {x} if not for the {aspect}",
    "without that {aspect}, the {thing} would have been {x}",
    "the {thing} was supposed to be {x}, and is not",
)
"""What might have been, and is not."""

RIVAL = _rules(
    -1.0,
    "this {thing} makes the last one look {x}",
    "next to this {thing}, the old one looks {x}",
    "beside this {thing}, every other one is {x}",
)
"""What is said of another thing by comparison, and so against this one."""

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
"""Two clauses of different sign; b, the main clause, decides."""

PAIRS = ("{a} and {b}", "{a}, and {b}", "{a}; {b}", "{a}, not to mention that {b}")
"""Two clauses of one sign."""

BALANCES = ("{a}, while {b}", "{a} and {b}", "{a}; {b}")
"""Two clauses of different sign; the stronger one decides."""
