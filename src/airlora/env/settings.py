"""Settings of the decision problem."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airlora.settings.fields import NonNegative, NonNegativeInt, PositiveInt, Section

__all__ = ["EnvSettings"]


class EnvSettings(Section):
    """The MDP (IV-A1)."""

    objective: Literal["live", "frozen"] = Field("live", description="train at the chosen ranks, or only measure")
    cost_weight: NonNegative = Field(0.1, description="lambda of Eq. 9 and 10")
    episode_steps: PositiveInt = Field(16, description="T_env of Algorithm 1")
    finetune_steps_per_action: PositiveInt = Field(1, description="k, objective `live`")
    full_rank_steps_per_action: NonNegativeInt = Field(0, description="further steps at full rank, objective `live`")
    frozen_batch_size: PositiveInt = Field(32, description="samples behind one measured loss, objective `frozen`")
    frozen_batches: PositiveInt = Field(16, description="different batches that losses are measured on")
