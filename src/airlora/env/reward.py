"""The reward of a rank decision (Eq. 9 and 10)."""

from __future__ import annotations

import math

from airlora.errors import TrainingError

__all__ = ["allocation_cost", "deadline_penalty", "reward"]


def allocation_cost(loss: float, cost: float, cost_weight: float) -> float:
    r"""Return what the allocation minimises (Eq. 9).

    $$U(r) + \lambda\,\eta(r)$$

    Notation: U loss; eta cost (Eq. 8); lambda cost_weight.

    Args:
        loss: Task loss at the chosen ranks, nats per sample.
        cost: Share of the deadline that the transfer takes (Eq. 8), >= 0.
        cost_weight: Price of the whole deadline, nats, >= 0.

    Raises:
        TrainingError: The loss or the cost is not finite.

    Source: AirLLM Eq. 9.

    >>> allocation_cost(0.5, 0.2, 0.1)
    0.52
    """
    if not math.isfinite(loss):
        raise TrainingError.of("loss", loss, "a finite number; lower finetune.learning_rate or check the data")
    if not math.isfinite(cost):
        raise TrainingError.of("cost", cost, "a finite number")
    return loss + cost_weight * cost


def reward(loss: float, cost: float, cost_weight: float) -> float:
    r"""Return the reward R_t of a decision (Eq. 10): $R_t = -U(r_t) - \lambda\,\eta(r_t)$.

    Arguments and errors are those of `allocation_cost`, whose negative this is.

    Source: AirLLM Eq. 10.

    >>> reward(0.5, 0.2, 0.1)
    -0.52
    """
    return -allocation_cost(loss, cost, cost_weight)


def deadline_penalty(cost: float, penalty_weight: float) -> float:
    """Return what a transfer that breaks its deadline loses: penalty_weight * max(0, eta - 1).

    The paper only prices eta and never enforces Eq. 7 (erratum 7); this makes breaking it dear.

    >>> deadline_penalty(1.5, 2.0)
    1.0
    >>> deadline_penalty(0.9, 2.0)
    0.0
    """
    return penalty_weight * max(0.0, cost - 1.0)
