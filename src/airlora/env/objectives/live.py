"""The loss of fine-tuning itself: measuring a pattern trains the adapter at that pattern."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from airlora.errors import SettingsError
from airlora.observation import IntArray
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity

__all__ = ["LiveObjective", "Stepper"]


class Stepper(Protocol):
    """Something that fine-tunes by one batch at a time."""

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """The adapted modules, in order."""
        ...

    @property
    def r_max(self) -> int:
        """The largest rank."""
        ...

    @property
    def head_params(self) -> int:
        """Numbers of the head."""
        ...

    @property
    def steps_left(self) -> int:
        """How many steps are still to be taken."""
        ...

    def complexity(self) -> TextComplexity:
        """Return the text state of the next batch."""
        ...

    def train_step(self, ranks: IntArray) -> float:
        """Take one optimiser step at `ranks` on the next batch and return its loss before the step, nats."""
        ...


class LiveObjective:
    """One fine-tuning step, or k, at the chosen ranks: the paper's objective (Algorithm 1, line 12).

    The loss is that of the training batches before each step, averaged over the k.  It falls as training goes on,
    whatever the ranks are: rewards of early and late steps are not comparable.

    An adapter that is only ever trained at the few ranks that a weak link carries stays poor. `full_rank_steps` after
    each action train all components as well; their losses do not count. The paper has none.

    Args:
        stepper: What fine-tunes; it keeps its own state and is checkpointed by its owner.
        steps_per_action: k, >= 1.
        full_rank_steps: Further steps at full rank after them, >= 0.

    Raises:
        SettingsError: A count is below what is allowed.
    """

    def __init__(self, stepper: Stepper, steps_per_action: int = 1, full_rank_steps: int = 0) -> None:
        if steps_per_action < 1:
            raise SettingsError.of("env.finetune_steps_per_action", steps_per_action, "a whole number, 1 or more")
        if full_rank_steps < 0:
            raise SettingsError.of("env.full_rank_steps_per_action", full_rank_steps, "a whole number, 0 or more")
        self._stepper = stepper
        self._steps_per_action = steps_per_action
        self._full_rank_steps = full_rank_steps

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """The adapted modules, in order."""
        return self._stepper.shapes

    @property
    def r_max(self) -> int:
        """The largest rank."""
        return self._stepper.r_max

    @property
    def head_params(self) -> int:
        """Numbers of the classification head."""
        return self._stepper.head_params

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode; training goes on where it is."""

    def complexity(self) -> TextComplexity:
        """Return the text state of the next batch."""
        return self._stepper.complexity()

    def measure(self, ranks: IntArray) -> float:
        """Train k steps at `ranks` and return their mean loss, nats; then take the steps at full rank.

        The last action takes no more steps than are left, but at least one.
        """
        losses = [self._stepper.train_step(ranks)]
        # One call may take several of the steps that are left.
        while len(losses) < self._steps_per_action and self._stepper.steps_left > 0:
            losses.append(self._stepper.train_step(ranks))
        full = np.full(len(self.shapes), self.r_max, dtype=np.int64)
        for _ in range(self._full_rank_steps):
            if self._stepper.steps_left <= 0:
                break
            self._stepper.train_step(full)
        return float(np.mean(losses))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the stepper's owner saves it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to restore."""
