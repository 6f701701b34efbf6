"""Forms of the utility model: which columns may explain a loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airlora.errors import PolicyError

__all__ = ["FORMS", "Form", "verify_forms"]


@dataclass(frozen=True)
class Form:
    """A choice of columns.

    Args:
        blocks: Of `Features`: `curves`, and any of `text` and `pairs`.
        penalty: Ridge on the pairs, as a share of their mean squared column.
        text_penalty: The same on the text.
        stiffness: Times the ridge on the curves.
    """

    blocks: tuple[str, ...]
    penalty: float = 0.0
    text_penalty: float = 3e-3
    stiffness: float = 1.0


FORMS: Mapping[str, Form] = {
    "stiff": Form(("curves",), stiffness=300.0),
    "separable": Form(("curves",)),
    "text": Form(("curves", "text")),
    "pairwise": Form(("curves", "pairs"), 0.03),
    "text-pairwise-smooth": Form(("curves", "text", "pairs"), 0.3),
    "text-pairwise": Form(("curves", "text", "pairs"), 0.03),
}
"""Simplest first: held-out measurements decide, a tie goes to the simpler."""


def verify_forms(names: tuple[str, ...]) -> None:
    """Raise `PolicyError` unless there is a name and all are known."""
    if not names:
        raise PolicyError.of("forms of the utility model", names, f"one or more of {', '.join(FORMS)}")
    for name in names:
        if name not in FORMS:
            raise PolicyError.of("form of the utility model", name, f"one of {', '.join(FORMS)}")
