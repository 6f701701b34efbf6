"""The paper's early stop (V-A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    r"""Stop when the reward is good enough and the accuracy no longer rises.

    $$R > \min(-\lambda, -0.5) \quad\text{and no better accuracy for 5 evaluations in a row}$$

    Args:
        cost_weight: lambda.
        patience: Evaluations without better accuracy, 5 in the paper.
        best_accuracy: Of the evaluations so far.
        num_without_better: Evaluations since.

    Source: AirLLM V-A.

    Examples:
        >>> stopping = EarlyStopping(cost_weight=0.1, patience=2)
        >>> [stopping.update(reward=-0.3, accuracy=a) for a in (0.8, 0.8, 0.8)]
        [False, False, True]
    """

    cost_weight: float
    patience: int = 5
    best_accuracy: float = float("-inf")
    num_without_better: int = 0

    @property
    def reward_threshold(self) -> float:
        """min(-lambda, -0.5)."""
        return min(-self.cost_weight, -0.5)

    def update(self, reward: float, accuracy: float) -> bool:
        """Take in one evaluation and return whether to stop.

        Args:
            reward: Mean reward since the evaluation before.
            accuracy: Of this evaluation, 0 to 1.
        """
        if accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.num_without_better = 0
        else:
            self.num_without_better += 1
        return reward > self.reward_threshold and self.num_without_better >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.best_accuracy = state["best_accuracy"]
        self.num_without_better = state["num_without_better"]
