"""Forms of the utility model: the regression columns and the ridge of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airlora.errors import PolicyError

__all__ = ["FORMS", "Form", "verify_forms"]


@dataclass(frozen=True)
class Form:
    """Column blocks of a utility model, and the ridge of each.

    Args:
        blocks: Blocks of `Features` that the form uses: `curves`, and any of `text` and `pairs`.
        penalty: Ridge of the block `pairs`, relative to the mean squared norm of its columns.
        text_penalty: Ridge of the block `text`, relative to the mean squared norm of its columns.
        stiffness: Factor on the ridge of the block `curves`.
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
"""Forms of the utility model by name, simplest first.  Held-out measurements choose one."""


def verify_forms(names: tuple[str, ...]) -> None:
    """Verify names of forms.

    Args:
        names: Names of forms, keys of `FORMS`.

    Raises:
        PolicyError: There is no name, or a name is unknown.
    """
    if not names:
        raise PolicyError.of("forms of the utility model", names, f"one or more of {', '.join(FORMS)}")
    for name in names:
        if name not in FORMS:
            raise PolicyError.of("form of the utility model", name, f"one of {', '.join(FORMS)}")
