"""A policy's own utility model: fitted to its buffer now and then, asked for plans and for what to drop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from airlora.allocation import concave_envelope, fit_to_budget
from airlora.errors import PolicyError
from airlora.observation import NUM_CONTEXT, FloatArray, IntArray, Observation
from airlora.policy.base import PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.random import spread_randomly
from airlora.policy.seeding import numpy_state, restore_numpy
from airlora.policy.settings import AllocateSettings
from airlora.policy.utility.features import rank_knots
from airlora.policy.utility.fit import Measurements, fit_utility
from airlora.policy.utility.forms import verify_forms
from airlora.policy.utility.model import Floats, UtilityModel
from airlora.policy.utility.plan import plan_ranks

__all__ = ["TEXT", "Advisor"]

TEXT = slice(2, NUM_CONTEXT)
"""Where the state's vector holds lexical entropy and OOV rate."""

MAX_MEASUREMENTS = 20_000
"""The newest ones that a fit looks at."""

MAX_PLANS = 4_096
"""Plans that are remembered; where links fade, every budget is a new one."""


class Advisor:
    """Fits `UtilityModel` and answers from it.

    Args:
        problem: What is decided about; `cost_weight` is lambda of Eq. 9.
        settings: See `AllocateSettings`.
        seed: Of folds, ensemble and exploration.
        prior: What every component is believed to be worth before anything is measured, in whatever unit, such as its
            squared gradient, [num_modules, r_max]; none: every number is worth the same.

    Raises:
        PolicyError: A form is unknown, the prior has another shape, or a value of it is negative or not finite.
    """

    def __init__(
        self, problem: PolicyProblem, settings: AllocateSettings, *, seed: int, prior: npt.ArrayLike | None = None
    ) -> None:
        verify_forms(tuple(settings.forms))
        self.problem = problem
        self.settings = settings
        self.model = UtilityModel.flat(problem.params_per_rank, problem.r_max)
        self._prior = None if prior is None else _cumulated(prior, problem)
        if self._prior is not None:
            self.model = replace(self.model, curves=self._prior)
        self.members: tuple[UtilityModel, ...] = ()
        self.residual_std = 0.0
        self.num_fitted = 0
        self._num_seen = 0
        self._generator = np.random.default_rng(seed)
        self._plans: dict[tuple[Any, ...], IntArray] = {}

    @classmethod
    def for_projection(cls, problem: PolicyProblem, *, seed: int) -> Self:
        """Return one that only says what to drop, for which curves alone will do."""
        return cls(problem, AllocateSettings(forms=["separable"], num_members=0, refit_growth=1.5), seed=seed)

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
            prior=self._prior,
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

    def stages(self, buffer: Buffer, rollout: int, *, always: bool = False) -> list[Stage]:
        """Return the stage "utility", which is `update`, if patterns are to be fitted to a budget; or always."""
        return [("utility", lambda: self.update(buffer, rollout))] if always or self.problem.keeps_deadline else []

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
        ensemble drawn at random (members that agree need no more measurements there), where some modules, few or up to
        a share of `settings.drop_share` (half of it where modules are coupled), are given another rank: any, or one
        near the plan's.
        """
        problem, generator = self.problem, self._generator
        num_modules = problem.num_modules
        fresh = generator.choice(np.concatenate([[0], rank_knots(problem.r_max)]), num_modules)
        if not (self.is_fitted or self._prior is not None) or generator.random() < self.settings.exploration:
            kept = np.zeros(num_modules, dtype=np.int64)
            changed = np.ones(num_modules, dtype=bool)
        else:
            # At the mean text: what is exchanged varies more than what a text changes, and plans can be kept.
            member = self.members[generator.integers(len(self.members))] if self.members else self.model
            plan = self._plan(member, observation.budget_params, tuple(member.text_mean.tolist()))
            # Couplings are right only near where they were measured: there, stay closer to the plan.
            largest = self.settings.drop_share * (1.0 if member.is_separable else 0.5)
            changed = generator.random(num_modules) < generator.uniform(0.0, largest)
            kept = np.where(changed, 0, plan)
            if generator.random() < 0.5:
                size = np.maximum(1, np.rint(plan * generator.uniform(0.2, 0.6, num_modules))).astype(np.int64)
                fresh = np.clip(plan + size * generator.choice([-1, 1], num_modules), 0, problem.r_max)
        left = observation.budget_params - problem.num_params(kept)
        return kept + spread_randomly(np.where(changed, fresh, 0), problem.params_per_rank, left, generator)

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
            if len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan_ranks(
                model, self.problem.params_per_rank, budget_params, text, price_per_param=self.price(budget_params)
            )
        return self._plans[key].copy()

    def keep_deadline(self, ranks: IntArray, observation: Observation, *, fill: bool = False) -> IntArray:
        """Return `project` where the problem asks for deadlines to be kept, and else the ranks as they are."""
        return self.project(ranks, observation, fill=fill) if self.problem.keeps_deadline else ranks

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


def _cumulated(prior: npt.ArrayLike, problem: PolicyProblem) -> Floats:
    """Return what each rank is believed to be worth, [num_modules, r_max + 1], concave and of sum 1 at r_max."""
    values = np.asarray(prior, dtype=np.float64)
    if values.shape != (problem.num_modules, problem.r_max):
        raise PolicyError.of("shape of the prior", values.shape, f"({problem.num_modules}, {problem.r_max})")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise PolicyError("prior: allowed are finite numbers, 0 or more")
    gains = concave_envelope(values)
    table = np.concatenate([np.zeros((len(gains), 1)), np.cumsum(gains, axis=1)], axis=1)
    return table / max(float(table[:, -1].sum()), 1e-300)
