"""Policy "ddim": diffusion alone, told the state (Table III's DDIM)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from airlora.observation import NUM_CONTEXT, IntArray, Observation, ObservationSpec
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.diffusion.fine import FinePolicy
from airlora.policy.diffusion.learning import loss_context
from airlora.policy.scaling import ranks_to_unit, unit_to_ranks
from airlora.policy.seeding import child_seeds, numpy_state, restore_numpy
from airlora.policy.settings import AllocateSettings, DiffusionSettings
from airlora.policy.specs import PolicySpec
from airlora.policy.utility.advisor import TEXT, Advisor

__all__ = ["DiffusionPolicy"]

INITIAL_RANK_FRACTION = 0.25
"""Mean rank at the start, as a share of r_max: PPO's default."""

INITIAL_STD = 0.3
"""Spread at the start, in units of half the rank range: PPO's default."""


class DiffusionPolicy:
    """A diffusion model of good decisions given the state; Eq. 18 makes ranks of its samples.

    It starts as a Gaussian around a quarter of r_max, whatever the state.  It is told the state, or, with the condition
    `budget_and_text`, all that a decision depends on and no more: the share of all components that the link carries,
    and the text.  A utility model, fitted to what was measured, says what to drop from a pattern that does not fit.

    Args:
        problem: What is decided about.
        settings: See `DiffusionSettings`.
        seed: Of weights, noise and minibatches.
        allocate: Of the utility model.
        importance: Importance of every component before anything is measured; see `Advisor`.
        device: Where the network lives.

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
        allocate: AllocateSettings | None = None,
        importance: npt.ArrayLike | None = None,
        device: str = "cpu",
    ) -> None:
        self.problem = problem
        self._settings = settings
        self._seed = seed
        self._told_budget = settings.condition == "budget_and_text"
        self._fine = FinePolicy(
            problem.num_modules,
            self._condition_size(),
            self._draw_start,
            settings=settings,
            seed=seed,
            device=device,
        )
        self._allocate = allocate or AllocateSettings()
        self._importance = None if importance is None else np.asarray(importance, dtype=np.float64)
        self._advisor = (
            Advisor(problem, self._allocate, seed=seed, prior=importance)
            if self._fine.loss.uses_utility
            else Advisor.for_projection(problem, seed=seed)
        )
        self._generator = np.random.default_rng(child_seeds(seed, 1)[0])

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings, seed and prior."""
        return {
            "settings": self._settings.model_dump(),
            "allocate": self._allocate.model_dump(),
            "prior": None if self._importance is None else self._importance.tolist(),
            "seed": self._seed,
        }

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:
        """Return an untrained policy with these `arguments`."""
        return cls(
            problem,
            DiffusionSettings(**arguments["settings"]),
            allocate=AllocateSettings(**arguments["allocate"]),
            importance=arguments["prior"],
            seed=arguments["seed"],
            device=device,
        )

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that the mean sample stands for, fitted to the budget where the deadline is kept."""
        x0 = self._fine.decide(self._encode([observation])[0]).numpy()
        return self._advisor.keep_deadline(unit_to_ranks(x0, self.problem.r_max), observation, fill=self._settings.fill)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks that one noisy sample stands for, or a pattern of the utility model's choice."""
        if self._fine.loss.explores_by_plans and self._generator.random() < self._settings.plan_exploration:
            ranks = self._advisor.explore(observation)
            return Decision(ranks, x0=ranks_to_unit(ranks, self.problem.r_max))
        x0, chain = self._fine.explore(self._encode([observation])[0])
        ranks = self._advisor.keep_deadline(unit_to_ranks(x0.numpy(), self.problem.r_max), observation)
        return Decision(ranks, x0=x0.numpy(), chain=None if chain is None else chain.numpy())

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return "utility", which fits the utility model, and "diffusion" on the newest `buffer_size` transitions."""
        return [
            *self._advisor.stages(buffer, rollout, always=self._fine.loss.uses_utility),
            ("diffusion", lambda: self._learn(buffer, rollout)),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser, utility model and generators."""
        return {
            "fine": self._fine.state_dict(),
            "advisor": self._advisor.state_dict(),
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._fine.load_state_dict(state["fine"])
        self._advisor.load_state_dict(state["advisor"])
        restore_numpy(self._generator, state["generator"])

    def _condition_size(self) -> int:
        return 1 + NUM_CONTEXT - TEXT.start if self._told_budget else self.problem.spec.size

    def _encode(self, observations: Sequence[Observation]) -> Tensor:
        """Return what the sampler is told, float [N, C]."""
        spec = self.problem.spec
        vectors = np.stack([spec.to_vector(observation) for observation in observations])
        if not self._told_budget:
            return torch.from_numpy(vectors)
        everything = self.problem.num_params(np.full(self.problem.num_modules, self.problem.r_max, dtype=np.int64))
        shares = np.asarray([observation.budget_params for observation in observations]) / everything
        # A decade of the budget is a unit: a hundredth of all components is -1, all of them 1.
        decades = np.log10(np.maximum(shares, 1e-9)) + 1.0
        clipped = np.clip(decades, -ObservationSpec.LIMIT, ObservationSpec.LIMIT)
        return torch.from_numpy(np.column_stack([clipped, vectors[:, TEXT]]).astype(np.float32))

    def _learn(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        context = loss_context(
            buffer,
            rollout,
            buffer_size=self._settings.buffer_size,
            advisor=self._advisor,
            conditions=lambda batch, observations: self._encode(observations) if self._told_budget else batch.vectors,
            encode=self._encode,
            device=self._fine.device,
        )
        return self._fine.update(context, rehearse=False)

    def _draw_start(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        middle = float(ranks_to_unit(INITIAL_RANK_FRACTION * self.problem.r_max, self.problem.r_max))
        x0 = middle + INITIAL_STD * torch.randn(count, self.problem.num_modules, generator=generator)
        states = 2.0 * torch.rand(count, self._condition_size(), generator=generator) - 1.0
        return x0.clamp(-1.0, 1.0), states


_Q_GUIDED = {
    "diffusion.loss": "q_guided",
    "diffusion.prediction_type": "v_prediction",
    "diffusion.learning_rate": 1e-3,
}

_DDIM = PolicySpec(
    "ddim",
    DiffusionPolicy,
    "diffusion alone, conditioned on the state",
    sections={"settings": DiffusionSettings, "allocate": AllocateSettings},
    benchmarks=("synthetic",),
    order=50,
    colour="#CC79A7",
    marker="X",
)

_BARE = PolicySpec(
    "distilled-bare",
    DiffusionPolicy,
    "diffusion trained on the planner's plans; the rest of the budget is not filled",
    may_start_from_importance=True,
    sections=_DDIM.sections,
    overrides={
        "diffusion.loss": "expert",
        "diffusion.condition": "budget_and_text",
        "diffusion.prediction_type": "v_prediction",
        "diffusion.num_inference_steps": 10,
        "diffusion.learning_rate": 1e-3,
        "diffusion.batch_size": 128,
    },
    benchmarks=("synthetic",),
    order=20,
    colour="#332288",
)

SPECS = (
    replace(
        _BARE,
        name="distilled",
        summary="diffusion trained on the planner's plans (expert iteration); fills the rest of the budget",
        overrides={**_BARE.overrides, "diffusion.fill": True},
        benchmarks=("synthetic", "frozen"),
    ),
    _BARE,
    _DDIM,
    _DDIM.variant("ddim-literal", "the same with Eq. 19 as printed", {"diffusion.loss": "literal"}),
    _DDIM.variant(
        "ddim-q",
        "diffusion guided by a learned critic's gradient",
        {**_Q_GUIDED, "diffusion.buffer_size": 2048},
    ),
    replace(
        _DDIM,
        name="ddim-utility",
        summary="diffusion guided by the utility model's gradient",
        may_start_from_importance=True,
        overrides={
            **_Q_GUIDED,
            "diffusion.critic": "utility",
            "diffusion.critic_weight": 5.0,
            "diffusion.condition": "budget_and_text",
            "diffusion.fill": True,
        },
        colour="#0072B2",
    ),
    _DDIM.variant(
        "ddim-gradient",
        "diffusion by a policy gradient through its chain (DPPO)",
        {"diffusion.loss": "policy_gradient", "diffusion.eta": 1.0},
    ),
)
