"""The seam between the decision problem and whatever makes its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from airlora.observation import IntArray
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity

__all__ = ["Objective"]


class Objective(Protocol):
    """Something that has a loss at every rank pattern.

    The environment asks for the text of the step to come (`complexity`), shows it to the policy, and then measures the
    policy's ranks on that very text.  A learned surrogate is one more class with these members.
    """

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """The modules whose ranks are decided, in order."""
        ...

    @property
    def r_max(self) -> int:
        """The largest rank of a module."""
        ...

    @property
    def head_params(self) -> int:
        """Numbers that travel whatever the ranks are (the classification head)."""
        ...

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode; randomness comes from `generator`, which is the objective's own from here on."""
        ...

    def complexity(self) -> TextComplexity:
        """Return lexical entropy and OOV rate of the text that the next `measure` uses."""
        ...

    def measure(self, ranks: IntArray) -> float:
        """Return the loss U(r) in nats at `ranks` (int64 [num_modules]) and go on to the next text."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on as if nothing had happened."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        ...
