"""The protocol between the environment and the loss of a rank pattern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from airlora.observation import IntArray
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity

__all__ = ["Objective"]


class Objective(Protocol):
    """Members that the environment needs of an objective.

    Each step has a text. The environment reads its state by `complexity`, shows it to the policy, and calls `measure`
    with the ranks that the policy chose for this text.
    """

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """Shape of each adapted module, in order."""
        ...

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        ...

    @property
    def head_params(self) -> int:
        """Parameters that are sent with every rank pattern, such as a classification head."""
        ...

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode.

        Args:
            generator: Generator for every random draw of the episode. The objective keeps it.
        """
        ...

    def complexity(self) -> TextComplexity:
        """Return lexical entropy and OOV rate of the text of the current step."""
        ...

    def measure(self, ranks: IntArray) -> float:
        """Return the loss U(r) on the text of the current step, nats, and move to the next text.

        Args:
            ranks: Rank of each module, int64 [num_modules].
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the objective as values that a checkpoint can hold."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`, so that the objective continues as if it had not stopped."""
        ...
