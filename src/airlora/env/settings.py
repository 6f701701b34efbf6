"""Settings of the decision problem."""

from __future__ import annotations

from typing import Literal

from airlora.settings.fields import NonNegative, NonNegativeInt, PositiveInt, Section

__all__ = ["EnvSettings"]


class EnvSettings(Section):
    """Settings of the decision problem, a Markov decision process (IV-A1)."""

    objective: Literal["live", "frozen"] = "live"
    """Loss of a decision: `live` trains the adapter at the chosen ranks; `frozen` measures an adapter that was
    fine-tuned at full rank."""
    cost_weight: NonNegative = 0.1
    """Weight λ of the communication cost η (Eq. 9 and 10)."""
    episode_steps: PositiveInt = 16
    """Steps of an episode (T_env of Algorithm 1)."""
    decision_steps: PositiveInt = 1
    """Decisions in a row for one link before ranks are sent. Each sees the ranks of the one before. 1 decides from the
    start of an episode."""
    reward_trend_steps: NonNegativeInt = 0
    """Time constant of the trend of earlier losses, in steps, for the objective `live`. The policy learns from rewards
    in which the trend is subtracted from U. 0 subtracts nothing (Eq. 10)."""
    finetune_steps_per_action: PositiveInt = 1
    """Fine-tuning steps at the chosen ranks per decision, for the objective `live`."""
    full_rank_steps_per_action: NonNegativeInt = 0
    """Additional fine-tuning steps at full rank per decision, for the objective `live`."""
    frozen_batch_size: PositiveInt = 32
    """Samples of one loss measurement, for the objective `frozen`."""
    frozen_batches: PositiveInt = 16
    """Batches of calibration samples that losses are measured on. At most a tenth of the training data is taken."""
