"""Verdicts on claims: whether a paired comparison over seeds shows what a claim says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike
from pydantic import TypeAdapter

from airlora.errors import SettingsError
from airlora.reproduce.statistics import ALPHA, POWER, PairedComparison, holm, paired_comparison

__all__ = [
    "DOES_NOT_HOLD",
    "HOLDS",
    "NOT_DECIDABLE",
    "ClaimedDifference",
    "Source",
    "Verdict",
    "judge_difference",
    "judge_family",
    "shown",
    "shown_interval",
]

HOLDS, DOES_NOT_HOLD, NOT_DECIDABLE = "holds", "does not hold", "not decidable here"
"""Verdicts on a claim."""

Source = Literal["paper", "airlora"]
"""Origin of a claim: the paper, or airlora."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on one claim.

    Args:
        claim: Claim as a sentence.
        paper: Paper's value, in the unit of `ours`. None if the paper states none.
        ours: Measured value.
        interval: 95 % interval of the measured value. None if there is none.
        verdict: `HOLDS`, `DOES_NOT_HOLD` or `NOT_DECIDABLE`.
        reason: Numbers that led to the verdict, and the smallest difference that the seeds could have shown.
        unit: Unit of the values (see `shown`).
        source: Origin of the claim.
    """

    claim: str
    paper: float | None
    ours: float | None
    interval: tuple[float, float] | None
    verdict: str
    reason: str = ""
    unit: str = "points"
    source: Source = "paper"

    def __post_init__(self) -> None:
        if self.verdict not in (HOLDS, DOES_NOT_HOLD, NOT_DECIDABLE):
            raise SettingsError.of("verdict", self.verdict, f"{HOLDS!r}, {DOES_NOT_HOLD!r} or {NOT_DECIDABLE!r}")
        if self.source not in get_args(Source):
            raise SettingsError.of("source of a claim", self.source, " or ".join(get_args(Source)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"interval": None if self.interval is None else list(self.interval)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the verdict from the result of `to_dict`. Files without a source hold claims of the paper.

        Raises:
            SettingsError: The verdict or the source is unknown.
            ValidationError: A value is missing or has another type.
        """
        return TypeAdapter(cls).validate_python(values)


def judge_difference(
    claim: str,
    comparison: PairedComparison,
    *,
    paper: float | None = None,
    at_least: float = 0.0,
    p_value: float | None = None,
    unit: str = "points",
    undecidable: str | None = None,
) -> Verdict:
    """Return the verdict on the claim that A is above B, by at least a given difference.

    - holds: the corrected p value is below .05, and the interval lies above 0 and not below `at_least`.
    - does not hold: the interval lies below `at_least` (or at or below 0), or the accuracies are equivalent within a
      margin that is smaller than `at_least`.
    - not decidable here: otherwise, and always for one seed or with a reason `undecidable`.

    Args:
        claim: Claim as a sentence.
        comparison: Result of `paired_comparison` of A and B, where larger scores are better.
        paper: Difference that the paper reports.
        at_least: Smallest difference that the claim asserts, from 0.
        p_value: p value after the correction for the claim's family of tests (see `holm`). None takes the comparison's
            own.
        unit: Unit of the difference (see `shown`). The margin of equivalence applies to "points" alone.
        undecidable: Sentence that says why the measured difference cannot decide the claim. None judges the claim.

    Raises:
        SettingsError: `at_least` is below 0.
    """
    if not at_least >= 0.0:
        raise SettingsError.of("at_least", at_least, "a number from 0")
    interval, ours = comparison.interval, comparison.difference
    numbers = f"{comparison.num_seeds} seed{'s' if comparison.num_seeds > 1 else ''}: {shown(ours, unit)}"
    name, p_value = ("p", comparison.p_value) if p_value is None else ("Holm-corrected p", p_value)
    if interval is None or p_value is None or comparison.p_equivalence is None:
        reason = undecidable or "One seed has no spread, so it can show no difference of any size."
        return Verdict(claim, paper, ours, None, NOT_DECIDABLE, f"{numbers}. {reason}", unit)
    low, high = interval
    numbers += f", 95 % interval {shown_interval(interval, unit)}"
    if undecidable is not None:
        return Verdict(claim, paper, ours, interval, NOT_DECIDABLE, f"{numbers}. {undecidable}", unit)
    is_equivalent = unit == "points" and comparison.p_equivalence < ALPHA
    if p_value < ALPHA and low > 0.0 and low >= at_least:
        verdict = HOLDS
    elif high < at_least or high <= 0.0 or (is_equivalent and at_least > comparison.margin):
        verdict = DOES_NOT_HOLD
    else:
        verdict = NOT_DECIDABLE
    sentences = [f"{numbers}, {name} {_p_text(p_value)}."]
    if paper is not None:
        # A plural unit takes a plural verb.
        verb = "lie" if unit.endswith("s") else "lies"
        place = "inside" if low <= paper <= high else "outside"
        sentences.append(f"The paper's {shown(paper, unit)} {verb} {place} the interval.")
    if is_equivalent:
        margin = shown(comparison.margin, unit).lstrip("+")
        sentences.append(f"Equivalent within {margin} (TOST p {_p_text(comparison.p_equivalence)}).")
    sentences.append(_detectable(comparison, unit))
    return Verdict(claim, paper, ours, interval, verdict, " ".join(sentences), unit)


@dataclass(frozen=True)
class ClaimedDifference:
    """A claim that the scores of A are above those of B, for `judge_family`.

    Args:
        claim: Claim as a sentence.
        ours: Scores of A, float [num_seeds].
        theirs: Scores of B, float [num_seeds] or one number.
        paper: Difference that the paper reports.
        at_least: Smallest difference that the claim asserts.
        resolution: Smallest step of a score (see `paired_comparison`).
        undecidable: Sentence that says why the measured difference cannot decide the claim.
    """

    claim: str
    ours: ArrayLike
    theirs: ArrayLike = 0.0
    paper: float | None = None
    at_least: float = 0.0
    resolution: float = 0.0
    undecidable: str | None = None


def judge_family(claims: Sequence[ClaimedDifference], *, unit: str) -> list[Verdict]:
    """Return the verdicts on claims of one family: their p values are corrected together by Holm's method.

    Args:
        claims: Claims of the family.
        unit: Unit of the differences (see `shown`).

    Raises:
        DataError: A score is missing or not finite, or the numbers of seeds differ.
        MissingDependencyError: `statsmodels` is not installed, and there are two seeds or more.
    """
    comparisons = [
        paired_comparison(
            own.ours,
            np.broadcast_to(np.asarray(own.theirs, dtype=np.float64), np.shape(own.ours)),
            resolution=own.resolution,
            num_tests=len(claims),
        )
        for own in claims
    ]
    corrected = holm([comparison.p_value for comparison in comparisons])
    return [
        judge_difference(
            own.claim,
            comparison,
            paper=own.paper,
            at_least=own.at_least,
            p_value=p_value if len(claims) > 1 else None,
            unit=unit,
            undecidable=own.undecidable,
        )
        for own, comparison, p_value in zip(claims, comparisons, corrected, strict=True)
    ]


def shown(value: float, unit: str = "points") -> str:
    """Return a difference with its sign and unit.

    Args:
        value: Difference.
        unit: "points" for a difference of accuracies, shown in percentage points; "%" for a share, shown in per cent;
            "nats" for a difference of losses; otherwise the unit's name, possibly empty.

    Examples:
        >>> shown(0.0042), shown(-0.00001), shown(0.2, "%"), shown(-0.0158, "nats"), shown(-1200, "steps")
        ('+0.42 points', '+0.00 points', '+20.0 %', '-0.0158 nats', '-1,200 steps')
    """
    if unit in ("points", "%"):
        text = f"{100 * value:+z.{2 if unit == 'points' else 1}f}"
    elif unit == "nats":
        text = f"{value:+z.4f}"
    else:
        text = f"{value:+,.4g}" if abs(value) < 1000 else f"{value:+,.0f}"
    return f"{text} {unit}".rstrip()


def shown_interval(interval: tuple[float, float], unit: str = "points") -> str:
    """Return an interval of a difference with its unit.

    Args:
        interval: Bounds (low, high).
        unit: Unit of the difference (see `shown`).

    Examples:
        >>> shown_interval((-0.001, 0.009))
        '-0.10 to +0.90 points'
    """
    low, high = (shown(bound, unit) for bound in interval)
    return f"{low.removesuffix(unit).rstrip()} to {high}"


def _detectable(comparison: PairedComparison, unit: str) -> str:
    """Return a sentence that states the smallest difference that the seeds could have shown."""
    if not comparison.smallest_detectable:
        return "The difference is the same on all seeds, so they could have shown any difference."
    smallest = shown(comparison.smallest_detectable, unit).lstrip("+")
    count = comparison.num_tests
    power = f"{100 * POWER:.0f} % power" + (f" after the correction for {count} tests" if count > 1 else "")
    return f"These seeds could have shown {smallest} or more ({power})."


def _p_text(p_value: float) -> str:
    return "< .001" if p_value < 0.001 else f"{p_value:.3f}".lstrip("0") if p_value < 0.9995 else "1"
