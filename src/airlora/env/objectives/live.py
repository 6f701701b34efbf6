"""The loss of fine-tuning at the chosen ranks: measuring a rank pattern trains the adapter."""

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
    """Fine-tuning that takes one optimiser step per call."""

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
        """Parameters of the classification head."""
        ...

    @property
    def steps_left(self) -> int:
        """Number of optimiser steps that are left."""
        ...

    def complexity(self) -> TextComplexity:
        """Return lexical entropy and OOV rate of the next batch."""
        ...

    def train_step(self, ranks: IntArray) -> float:
        """Take one optimiser step at the ranks on the next batch and return its loss before the step, nats."""
        ...


class LiveObjective:
    """Mean loss of k fine-tuning steps at the chosen ranks, the paper's objective (Algorithm 1, line 12).

    The loss of a step is that of its training batch before the step. It falls as training proceeds, at any
    ranks. Rewards of early and late steps are therefore not comparable.

    The ranks that a weak link carries train few components. `full_rank_steps` trains all components after each action,
    which the paper does not do. The losses of these steps are not counted.

    Args:
        stepper: Fine-tuning of the adapter, see `Stepper`. The caller that creates it saves its state.
        steps_per_action: Fine-tuning steps k per action, >= 1.
        full_rank_steps: Additional fine-tuning steps at full rank per action, >= 0.

    Raises:
        SettingsError: A count is too small.
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
        """Shape of each adapted module, in order."""
        return self._stepper.shapes

    @property
    def r_max(self) -> int:
        """Largest rank of a module."""
        return self._stepper.r_max

    @property
    def head_params(self) -> int:
        """Parameters of the classification head."""
        return self._stepper.head_params

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode. Training continues from its current state."""

    def complexity(self) -> TextComplexity:
        """Return lexical entropy and OOV rate of the next batch."""
        return self._stepper.complexity()

    def measure(self, ranks: IntArray) -> float:
        """Train k steps at the ranks, then the steps at full rank, and return the mean loss of the k steps, nats.

        The last action takes only the steps that are left, but at least one.
        """
        losses = [self._stepper.train_step(ranks)]
        # One call may use up several of the steps that are left.
        while len(losses) < self._steps_per_action and self._stepper.steps_left > 0:
            losses.append(self._stepper.train_step(ranks))
        full = np.full(len(self.shapes), self.r_max, dtype=np.int64)
        for _ in range(self._full_rank_steps):
            if self._stepper.steps_left <= 0:
                break
            self._stepper.train_step(full)
        return float(np.mean(losses))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the caller that creates `stepper` saves the state of the fine-tuning."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""
