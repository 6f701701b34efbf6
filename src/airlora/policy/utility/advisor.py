"""A policy's own utility model: fitted to its buffer now and then, asked for plans and for what to drop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from airlora.config import AllocateSettings
from airlora.observation import NUM_CONTEXT, FloatArray, IntArray, Observation
from airlora.policy.base import PolicyProblem
from airlora.policy.buffer import Buffer
from airlora.policy.random import spread_randomly
from airlora.policy.seeding import numpy_state, restore_numpy
from airlora.policy.solver import fit_to_budget
from airlora.policy.utility.features import rank_knots
from airlora.policy.utility.fit import Measurements, fit_utility
from airlora.policy.utility.model import UtilityModel
from airlora.policy.utility.plan import plan_ranks

__all__ = ["TEXT", "Advisor"]

TEXT = slice(2, NUM_CONTEXT)
"""Where the state's vector holds lexical entropy and OOV rate."""

MAX_MEASUREMENTS = 20_000
"""The newest ones that a fit looks at."""


class Advisor:
    """Fits `UtilityModel` and answers from it.

    Until something was measured every number is worth the same.

    Args:
        problem: What is decided about; `cost_weight` is lambda of Eq. 9.
        settings: See `AllocateSettings`.
        seed: Of folds, ensemble and exploration.
    """

    def __init__(self, problem: PolicyProblem, settings: AllocateSettings, *, seed: int) -> None:
        self.problem = problem
        self.settings = settings
        self.model = UtilityModel.flat(problem.params_per_rank, problem.r_max)
        self.members: tuple[UtilityModel, ...] = ()
        self.residual_std = 0.0
        self.num_fitted = 0
        self._num_seen = 0
        self._generator = np.random.default_rng(seed)
        self._plans: dict[tuple[Any, ...], IntArray] = {}

    @property
    def is_fitted(self) -> bool:
        """Whether anything was measured yet."""
        return self.num_fitted > 0

    def update(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        """Fit to the buffer if it has grown enough since the last fit; return what there is to report.

        Args:
            buffer: Everything remembered.
            rollout: How many transitions came since the last call.
        """
        self._num_seen += rollout
        if self._num_seen < self.num_fitted * self.settings.refit_growth:
            return {}
        batch = buffer.newest(min(len(buffer), MAX_MEASUREMENTS))
        fit = fit_utility(
            Measurements(
                ranks=batch.ranks.numpy(),
                losses=batch.losses.double().numpy(),
                texts=batch.vectors[:, TEXT].double().numpy(),
            ),
            r_max=self.problem.r_max,
            ridge=self.settings.ridge,
            forms=tuple(self.settings.forms),
            num_members=self.settings.num_members,
            generator=self._generator,
        )
        self.model, self.members, self.residual_std = fit.model, fit.members, fit.residual_std
        self.num_fitted = self._num_seen
        self._plans.clear()
        return {
            "residual_std": fit.residual_std,
            "num_measurements": float(len(batch)),
            "useful_modules": float((fit.model.curves[:, 1] > 0).sum()),
            "form": float(self.settings.forms.index(fit.form)),
        }

    def text(self, observation: Observation) -> FloatArray:
        """Return the text state as the fit has it, [2]."""
        return self.problem.spec.to_vector(observation)[TEXT]

    def price(self, budget_params: int) -> float:
        """Return what a number costs by Eq. 9, nats; nothing while no loss was measured to hold it against."""
        return self.problem.cost_weight / max(1, budget_params) if self.is_fitted else 0.0

    def plan(self, observation: Observation) -> IntArray:
        """Return the best ranks for the link's budget and the text by the model."""
        return self._plan(self.model, observation.budget_params, tuple(self.text(observation).tolist()))

    def explore(self, observation: Observation) -> IntArray:
        """Return a pattern that is worth measuring, within the link's budget.

        A share of `settings.exploration` gives every module a random rank.  The others are plans of a member of the
        ensemble drawn at random (members that agree need no more measurements there), where some modules are given
        another rank.  Either is cut at random to the budget.
        """
        problem, generator = self.problem, self._generator
        knots = np.concatenate([[0], rank_knots(problem.r_max)])
        wanted = generator.choice(knots, problem.num_modules)
        if self.is_fitted and generator.random() >= self.settings.exploration:
            # At the mean text: what is exchanged varies more than what a text changes, and plans can be kept.
            member = self.members[generator.integers(len(self.members))] if self.members else self.model
            plan = self._plan(member, observation.budget_params, tuple(member.text_mean.tolist()))
            kept = generator.random(problem.num_modules) >= self.settings.drop_share
            wanted = np.where(kept, plan, wanted)
        return spread_randomly(wanted, problem.params_per_rank, observation.budget_params, generator)

    def project(self, ranks: IntArray, observation: Observation, *, fill: bool = False) -> IntArray:
        """Return the ranks cut to the link's budget at the least predicted loss.

        Args:
            ranks: Wanted.
            observation: Of the link and the text.
            fill: Give what the wanted ranks leave free to the components worth most, too.
        """
        gains = self.model.gains(self.text(observation), around=ranks)
        budget = observation.budget_params
        return fit_to_budget(
            ranks,
            gains,
            self.problem.params_per_rank,
            budget,
            min_gain_per_param=self.price(budget) if fill else None,
        )

    def _plan(self, model: UtilityModel, budget_params: int, text: tuple[float, ...]) -> IntArray:
        """Return the model's plan, from memory where it was asked for since the last fit."""
        key = (id(model), budget_params, text if model.text_curves.any() else ())
        if key not in self._plans:
            self._plans[key] = plan_ranks(
                model, self.problem.params_per_rank, budget_params, text, price_per_param=self.price(budget_params)
            )
        return self._plans[key].copy()

    def state_dict(self) -> dict[str, Any]:
        """Return models, counters and where the generator stands."""
        return {
            "model": self.model.state_dict(),
            "members": [member.state_dict() for member in self.members],
            "residual_std": self.residual_std,
            "num_fitted": self.num_fitted,
            "num_seen": self._num_seen,
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model = UtilityModel.from_state_dict(state["model"])
        self.members = tuple(UtilityModel.from_state_dict(member) for member in state["members"])
        self.residual_std = state["residual_std"]
        self.num_fitted, self._num_seen = state["num_fitted"], state["num_seen"]
        restore_numpy(self._generator, state["generator"])
        self._plans.clear()
