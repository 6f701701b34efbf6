"""Policy "ddim": a diffusion model conditioned on the state, without PPO (DDIM of Table III)."""

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
from airlora.policy.utility.planner import TEXT_SLICE, UtilityPlanner

__all__ = ["DiffusionPolicy"]

INITIAL_RANK_FRACTION = 0.25
"""Mean rank of the warm-up data as a share of r_max; equal to PPO's default."""

INITIAL_STD = 0.3
"""Standard deviation of the warm-up data in unit coordinates; equal to PPO's default."""


class DiffusionPolicy:
    """Policy that samples rank patterns from a conditional diffusion model; Eq. 18 converts samples to ranks.

    The warm-up trains the model on a Gaussian around a quarter of r_max for every condition.  The model is conditioned
    on the state.  The setting `condition = "budget_and_text"` conditions it on the text and on the share of all
    parameters that the link carries.  If the problem keeps deadlines, a utility planner reduces patterns beyond the
    link's budget.

    Args:
        problem: Adapted modules, costs of their ranks and scaling of the state.
        settings: Settings of the diffusion model, its loss and its training.
        seed: Seed of the initial weights, the noise and the minibatches.
        allocate: Settings of the utility planner.  None uses the defaults.
        importance: Prior importance of every component, see `UtilityPlanner`.
        device: Torch device of the diffusion model.

    Raises:
        PolicyError: The settings name an unknown backbone, schedule, prediction type, sampler or loss.
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
        self._uses_budget = settings.condition == "budget_and_text"
        self._fine = FinePolicy(
            problem.num_modules,
            self._condition_size(),
            self._draw_warmup,
            settings=settings,
            seed=seed,
            device=device,
        )
        self._allocate = allocate or AllocateSettings()
        self._importance = None if importance is None else np.asarray(importance, dtype=np.float64)
        self._planner = (
            UtilityPlanner(problem, self._allocate, seed=seed, importance=importance)
            if self._fine.loss.uses_utility
            else UtilityPlanner.for_projection(problem, seed=seed)
        )
        self._generator = np.random.default_rng(child_seeds(seed, 1)[0])

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings, seed and prior importance, as plain values for `from_arguments`."""
        return {
            "settings": self._settings.model_dump(),
            "allocate": self._allocate.model_dump(),
            "prior": None if self._importance is None else self._importance.tolist(),
            "seed": self._seed,
        }

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:
        """Return an untrained policy with the given `arguments`."""
        return cls(
            problem,
            DiffusionSettings(**arguments["settings"]),
            allocate=AllocateSettings(**arguments["allocate"]),
            importance=arguments["prior"],
            seed=arguments["seed"],
            device=device,
        )

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks of the mean sample; ranks beyond the budget are reduced if the problem keeps deadlines."""
        x0 = self._fine.decide(self._encode([observation])[0]).numpy()
        return self._planner.keep_deadline(unit_to_ranks(x0, self.problem.r_max), observation, fill=self._settings.fill)

    def explore(self, observation: Observation) -> Decision:
        """Return the ranks of one noisy sample, or a pattern that the utility planner chooses to measure."""
        if self._fine.loss.explores_by_plans and self._generator.random() < self._settings.plan_exploration:
            ranks = self._planner.explore(observation)
            return Decision(ranks, x0=ranks_to_unit(ranks, self.problem.r_max))
        x0, chain = self._fine.explore(self._encode([observation])[0])
        ranks = self._planner.keep_deadline(unit_to_ranks(x0.numpy(), self.problem.r_max), observation)
        return Decision(ranks, x0=x0.numpy(), chain=None if chain is None else chain.numpy())

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the stages "utility", which fits the utility model if it is used, and "diffusion"."""
        return [
            *self._planner.stages(buffer, rollout, always=self._fine.loss.uses_utility),
            ("diffusion", lambda: self._learn(buffer, rollout)),
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the diffusion model, the utility planner and the generator."""
        return {
            "fine": self._fine.state_dict(),
            "advisor": self._planner.state_dict(),
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self._fine.load_state_dict(state["fine"])
        self._planner.load_state_dict(state["advisor"])
        restore_numpy(self._generator, state["generator"])

    def _condition_size(self) -> int:
        return 1 + NUM_CONTEXT - TEXT_SLICE.start if self._uses_budget else self.problem.spec.size

    def _encode(self, observations: Sequence[Observation]) -> Tensor:
        """Return the conditions of the diffusion model, float [N, C]."""
        spec = self.problem.spec
        vectors = np.stack([spec.to_vector(observation) for observation in observations])
        if not self._uses_budget:
            return torch.from_numpy(vectors)
        all_params = self.problem.num_params(np.full(self.problem.num_modules, self.problem.r_max, dtype=np.int64))
        shares = np.asarray([observation.budget_params for observation in observations]) / all_params
        # The budget is scaled logarithmically: 1 % of all parameters is -1, and all parameters are 1.
        decades = np.log10(np.maximum(shares, 1e-9)) + 1.0
        clipped = np.clip(decades, -ObservationSpec.LIMIT, ObservationSpec.LIMIT)
        return torch.from_numpy(np.column_stack([clipped, vectors[:, TEXT_SLICE]]).astype(np.float32))

    def _learn(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        context = loss_context(
            buffer,
            rollout,
            buffer_size=self._settings.buffer_size,
            planner=self._planner,
            conditions=lambda batch, observations: self._encode(observations) if self._uses_budget else batch.vectors,
            encode=self._encode,
            device=self._fine.device,
        )
        return self._fine.update(context, rehearse=False)

    def _draw_warmup(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        middle = float(ranks_to_unit(INITIAL_RANK_FRACTION * self.problem.r_max, self.problem.r_max))
        x0 = middle + INITIAL_STD * torch.randn(count, self.problem.num_modules, generator=generator)
        conditions = 2.0 * torch.rand(count, self._condition_size(), generator=generator) - 1.0
        return x0.clamp(-1.0, 1.0), conditions


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
