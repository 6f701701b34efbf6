"""Noise schedules: beta per diffusion step; one file each, registered under its `beta_schedule`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from airlora.policy.registry import Registry

__all__ = ["SCHEDULES", "BetaSchedule"]

BetaSchedule = Callable[[int, float, float], Tensor]
"""(num_train_timesteps, beta_start, beta_end) -> betas, float64 [num_train_timesteps], each above 0 and below 1."""

SCHEDULES: Registry[BetaSchedule] = Registry("diffusion.beta_schedule", __name__)
