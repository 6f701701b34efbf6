"""The reward of a rank decision (Eq. 9 and 10)."""

from __future__ import annotations

import math

from airlora.errors import TrainingError

__all__ = ["allocation_cost", "deadline_penalty", "reward"]


def allocation_cost(loss: float, cost: float, cost_weight: float) -> float:
    r"""Return the quantity that the allocation minimises (Eq. 9).

    $$U(r) + \lambda\,\eta(r)$$

    Notation: U loss; eta cost; lambda cost_weight.

    Args:
        loss: Task loss at the chosen ranks, nats per sample.
        cost: Communication cost, the transfer time over the deadline (Eq. 8), >= 0.
        cost_weight: Weight of the communication cost, nats, >= 0.

    Raises:
        TrainingError: The loss or the cost is not finite.

    Source: AirLLM Eq. 9.

    Examples:
        >>> allocation_cost(0.5, 0.2, 0.1)
        0.52
    """
    if not math.isfinite(loss):
        raise TrainingError.of("loss", loss, "a finite number; lower finetune.learning_rate or check the data")
    if not math.isfinite(cost):
        raise TrainingError.of("cost", cost, "a finite number")
    return loss + cost_weight * cost


def reward(loss: float, cost: float, cost_weight: float) -> float:
    r"""Return the reward R_t of a decision (Eq. 10), $R_t = -U(r_t) - \lambda\,\eta(r_t)$.

    The reward is the negative of `allocation_cost`. The arguments and errors are the same.

    Source: AirLLM Eq. 10.

    Examples:
        >>> reward(0.5, 0.2, 0.1)
        -0.52
    """
    return -allocation_cost(loss, cost, cost_weight)


def deadline_penalty(cost: float, penalty_weight: float) -> float:
    """Return the penalty of a transfer that exceeds its deadline, penalty_weight * max(0, eta - 1).

    The paper only weights eta in the reward and does not enforce Eq. 7 (erratum 7).

    Args:
        cost: Communication cost eta (Eq. 8), >= 0.
        penalty_weight: Penalty per unit of eta above 1, >= 0.

    Examples:
        >>> deadline_penalty(1.5, 2.0)
        1.0
        >>> deadline_penalty(0.9, 2.0)
        0.0
    """
    return penalty_weight * max(0.0, cost - 1.0)
