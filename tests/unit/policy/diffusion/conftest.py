"""Fixtures for tests of the diffusion losses."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from airlora.observation import Observation
from airlora.policy import PolicyProblem, UtilityPlanner
from airlora.policy.diffusion.losses import DiffusionBatch, LossContext


@pytest.fixture
def context_of(problem: PolicyProblem) -> Callable[..., LossContext]:
    """Return a function that makes a `LossContext`; omitted inputs are empty."""

    def make(
        batch: DiffusionBatch,
        *,
        chains: Tensor | None = None,
        observations: Sequence[Observation] = (),
        encode: Callable[[Sequence[Observation]], Tensor] = lambda observations: torch.zeros(len(observations), 3),
        planner: UtilityPlanner | None = None,
    ) -> LossContext:
        return LossContext(
            batch, chains, observations, encode, planner or UtilityPlanner.for_projection(problem, seed=0)
        )

    return make
