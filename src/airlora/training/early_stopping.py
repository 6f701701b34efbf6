"""Early stopping by the paper's rule (V-A)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    r"""Stop once the reward is high enough and the score no longer rises.

    $$R > \min(-\lambda, -0.5) \quad\text{and no higher score in 5 consecutive evaluations}$$

    Notation: R mean reward since the previous evaluation; lambda `cost_weight`. The paper's score is the accuracy.

    Args:
        cost_weight: Weight lambda of the transfer cost in the reward.
        patience: Number of evaluations without a higher score, 5 in the paper.
        best_score: Highest score so far.
        num_without_better: Number of evaluations since the highest score.

    Source: AirLLM V-A.

    Examples:
        >>> stopping = EarlyStopping(cost_weight=0.1, patience=2)
        >>> [stopping.update(reward=-0.3, score=score) for score in (0.8, 0.8, 0.8)]
        [False, False, True]
    """

    cost_weight: float
    patience: int = 5
    best_score: float = float("-inf")
    num_without_better: int = 0

    @property
    def reward_threshold(self) -> float:
        """Threshold min(-lambda, -0.5) of the reward."""
        return min(-self.cost_weight, -0.5)

    def update(self, reward: float, score: float) -> bool:
        """Record one evaluation and return whether to stop.

        Args:
            reward: Mean reward since the previous evaluation.
            score: Primary metric of the evaluation, negated if lower is better.
        """
        if score > self.best_score:
            self.best_score = score
            self.num_without_better = 0
        else:
            self.num_without_better += 1
        return reward > self.reward_threshold and self.num_without_better >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return the state under the keys of the checkpoint format."""
        return {"best_accuracy": self.best_score, "num_without_better": self.num_without_better}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.best_score = state["best_accuracy"]
        self.num_without_better = state["num_without_better"]
