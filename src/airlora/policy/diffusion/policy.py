"""Policy "ddim": diffusion alone, told the state (Table III's DDIM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from airlora.config import DiffusionSettings
from airlora.observation import IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.diffusion.advantage import contextual_advantage
from airlora.policy.diffusion.fine import WARMUP_UPDATES, FinePolicy
from airlora.policy.diffusion.losses import DiffusionBatch
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks

__all__ = ["DiffusionPolicy"]

INITIAL_RANK_FRACTION = 0.25
"""Mean rank at the start, as a share of r_max: PPO's default."""

INITIAL_STD = 0.3
"""Spread at the start, in units of half the rank range: PPO's default."""


class DiffusionPolicy:
    """A diffusion model of good decisions given the state; Eq. 18 makes ranks of its samples.

    It starts as a Gaussian around a quarter of r_max, whatever the state.  Its condition is always the state;
    `settings.condition` is for the hierarchy.

    Args:
        problem: What is decided about.
        settings: See `DiffusionSettings`.
        seed: Of weights, noise and minibatches.
        device: Where the network lives.
        warmup_updates: See `FinePolicy`.

    Raises:
        PolicyError: A part that the settings name does not exist.
    """

    name: ClassVar[str] = "ddim"

    def __init__(
        self,
        problem: PolicyProblem,
        settings: DiffusionSettings,
        *,
        seed: int,
        device: str = "cpu",
        warmup_updates: int = WARMUP_UPDATES,
    ) -> None:
        self.problem = problem
        self._seed = seed
        self._fine = FinePolicy(
            problem.num_modules,
            problem.spec.size,
            self._draw_start,
            settings=settings,
            seed=seed,
            device=device,
            warmup_updates=warmup_updates,
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings, seed and length of the warm-up."""
        return {
            "settings": self._fine.settings.model_dump(),
            "seed": self._seed,
            "warmup_updates": self._fine.warmup_updates,
        }

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:
        """Return an untrained policy with these `arguments`."""
        return cls(
            problem,
            DiffusionSettings(**arguments["settings"]),
            seed=arguments["seed"],
            device=device,
            warmup_updates=arguments["warmup_updates"],
        )

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that the mean sample stands for."""
        return unit_to_ranks(self._fine.decide(self._condition(observation)).numpy(), self.problem.r_max)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks that one noisy sample stands for."""
        x0 = self._fine.explore(self._condition(observation)).numpy()
        return Decision(unit_to_ranks(x0, self.problem.r_max), x0=x0)

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the one stage "diffusion", which learns from the newest `settings.buffer_size` transitions."""
        return [("diffusion", lambda: self._learn(buffer, rollout))]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser and generator."""
        return self._fine.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._fine.load_state_dict(state)

    def _condition(self, observation: Observation) -> Tensor:
        return torch.from_numpy(self.problem.spec.to_vector(observation))

    def _learn(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        count = min(len(buffer), max(rollout, self._fine.settings.buffer_size))
        batch = buffer.newest(count, self._fine.device)
        executed = torch.from_numpy(ranks_to_unit(batch.ranks.cpu().numpy(), self.problem.r_max))
        return self._fine.update(
            DiffusionBatch(
                x0=executed.to(self._fine.device),
                condition=batch.vectors,
                reward=batch.rewards,
                advantage=contextual_advantage(batch.vectors, batch.rewards),
            ),
            rehearse=False,
        )

    def _draw_start(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        middle = float(ranks_to_unit(INITIAL_RANK_FRACTION * self.problem.r_max, self.problem.r_max))
        x0 = middle + INITIAL_STD * torch.randn(count, self.problem.num_modules, generator=generator)
        states = 2.0 * torch.rand(count, self.problem.spec.size, generator=generator) - 1.0
        return x0.clamp(-1.0, 1.0), states
