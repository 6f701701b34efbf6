"""Planner of a policy: fits a utility model to the policy's buffer and plans ranks with it."""

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

__all__ = ["TEXT_SLICE", "UtilityPlanner"]

TEXT_SLICE = slice(2, NUM_CONTEXT)
"""Entries of the state vector that hold lexical entropy and OOV rate, the text state."""

MAX_MEASUREMENTS = 20_000
"""Largest number of measurements in a fit; the newest are used."""

MAX_PLANS = 4_096
"""Capacity of the cache of plans.  On fading links nearly every budget is new."""


class UtilityPlanner:
    """Fits a `UtilityModel` to measured losses, plans ranks with it and fits wanted ranks to a budget.

    Args:
        problem: Adapted modules and costs of their ranks; `cost_weight` is lambda of Eq. 9.
        settings: Settings of the fit and of the exploration.
        seed: Seed of the NumPy generator that draws folds, ensembles and patterns to measure.
        importance: Prior importance of every component before the first fit, in any unit, such as the squared gradient,
            [num_modules, r_max].  None gives every parameter the same importance.

    Raises:
        PolicyError: A form is unknown, or the importance has the wrong shape or a value that is negative or not finite.
    """

    def __init__(
        self, problem: PolicyProblem, settings: AllocateSettings, *, seed: int, importance: npt.ArrayLike | None = None
    ) -> None:
        verify_forms(tuple(settings.forms))
        self.problem = problem
        self.settings = settings
        self.model = UtilityModel.flat(problem.params_per_rank, problem.r_max)
        self._importance = None if importance is None else _importance_of_ranks(importance, problem)
        if self._importance is not None:
            self.model = replace(self.model, curves=self._importance)
        self.members: tuple[UtilityModel, ...] = ()
        self.residual_std = 0.0
        self.num_fitted = 0
        self._num_seen = 0
        self._generator = np.random.default_rng(seed)
        self._plans: dict[tuple[Any, ...], IntArray] = {}

    @classmethod
    def for_projection(cls, problem: PolicyProblem, *, seed: int) -> Self:
        """Return a planner for `project` alone; it fits curves without texts, couplings or an ensemble.

        Args:
            problem: Adapted modules and costs of their ranks.
            seed: Seed of the NumPy generator of the fit.
        """
        return cls(problem, AllocateSettings(forms=["separable"], num_members=0, refit_growth=1.5), seed=seed)

    @property
    def is_fitted(self) -> bool:
        """Whether the model was fitted to measured losses."""
        return self.num_fitted > 0

    def update(self, buffer: Buffer, rollout: int) -> dict[str, float]:
        """Fit the model again if the number of measurements has grown by `refit_growth`; return the fit's metrics.

        Args:
            buffer: Buffer of transitions with their measured losses.
            rollout: Number of transitions since the last call.
        """
        self._num_seen += rollout
        if self._num_seen < self.num_fitted * self.settings.refit_growth:
            return {}
        batch = buffer.newest(min(len(buffer), MAX_MEASUREMENTS))
        fit = fit_utility(
            Measurements(
                ranks=batch.ranks.numpy(),
                losses=batch.losses.double().numpy(),
                texts=batch.vectors[:, TEXT_SLICE].double().numpy(),
            ),
            r_max=self.problem.r_max,
            ridge=self.settings.ridge,
            forms=tuple(self.settings.forms),
            num_members=self.settings.num_members,
            generator=self._generator,
            importance=self._importance,
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
        """Return the stage "utility", which calls `update`, or no stage if the problem does not keep deadlines.

        Args:
            buffer: Buffer of transitions with their measured losses.
            rollout: Number of transitions since the last stages.
            always: Whether the stage is returned for every problem.
        """
        return [("utility", lambda: self.update(buffer, rollout))] if always or self.problem.keeps_deadline else []

    def text(self, observation: Observation) -> FloatArray:
        """Return the text state of an observation, scaled as in the state vector, [2]."""
        return self.problem.spec.to_vector(observation)[TEXT_SLICE]

    def price(self, budget_params: int) -> float:
        """Return the price of one parameter by Eq. 9, nats; 0 before the first fit."""
        return self.problem.cost_weight / max(1, budget_params) if self.is_fitted else 0.0

    def plan(self, observation: Observation) -> IntArray:
        """Return the ranks of the largest predicted loss reduction minus price within the link's budget."""
        return self._plan(self.model, observation.budget_params, tuple(self.text(observation).tolist()))

    def explore(self, observation: Observation) -> IntArray:
        """Return a rank pattern to measure next, within the link's budget.

        All ranks are random with probability `settings.exploration`, and before the first fit without a prior
        importance.  Otherwise the pattern is the plan of a random ensemble member, with new ranks in some modules.  A
        module is changed with a probability that is drawn from 0 to `settings.drop_share`, or to half of it in models
        with couplings.  The new ranks are random in one half of the patterns and close to the plan in the other.
        """
        problem, generator = self.problem, self._generator
        num_modules = problem.num_modules
        fresh = generator.choice(np.concatenate([[0], rank_knots(problem.r_max)]), num_modules)
        if not (self.is_fitted or self._importance is not None) or generator.random() < self.settings.exploration:
            kept = np.zeros(num_modules, dtype=np.int64)
            changed = np.ones(num_modules, dtype=bool)
        else:
            # Plans for the mean text can be cached.  The new ranks vary more than the text changes the plan.
            member = self.members[generator.integers(len(self.members))] if self.members else self.model
            plan = self._plan(member, observation.budget_params, tuple(member.text_mean.tolist()))
            # Fitted couplings hold only near measured patterns, so fewer modules change.
            largest = self.settings.drop_share * (1.0 if member.is_separable else 0.5)
            changed = generator.random(num_modules) < generator.uniform(0.0, largest)
            kept = np.where(changed, 0, plan)
            if generator.random() < 0.5:
                size = np.maximum(1, np.rint(plan * generator.uniform(0.2, 0.6, num_modules))).astype(np.int64)
                fresh = np.clip(plan + size * generator.choice([-1, 1], num_modules), 0, problem.r_max)
        left = observation.budget_params - problem.num_params(kept)
        return kept + spread_randomly(np.where(changed, fresh, 0), problem.params_per_rank, left, generator)

    def project(self, ranks: IntArray, observation: Observation, *, fill: bool = False) -> IntArray:
        """Return the ranks reduced to the link's budget with the smallest predicted increase of the loss.

        Args:
            ranks: Wanted ranks, int64 [num_modules].
            observation: Observation of the link and the text.
            fill: Whether budget that the wanted ranks leave free is filled with the components of the highest gain.
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
        key = (id(model), budget_params, text if model.text_curves.any() else ())
        if key not in self._plans:
            if len(self._plans) >= MAX_PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan_ranks(
                model, self.problem.params_per_rank, budget_params, text, price_per_param=self.price(budget_params)
            )
        return self._plans[key].copy()

    def keep_deadline(self, ranks: IntArray, observation: Observation, *, fill: bool = False) -> IntArray:
        """Return the result of `project` if the problem keeps deadlines, and the given ranks otherwise."""
        return self.project(ranks, observation, fill=fill) if self.problem.keeps_deadline else ranks

    def state_dict(self) -> dict[str, Any]:
        """Return the models, the counters and the state of the generator."""
        return {
            "model": self.model.state_dict(),
            "members": [member.state_dict() for member in self.members],
            "residual_std": self.residual_std,
            "num_fitted": self.num_fitted,
            "num_seen": self._num_seen,
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self.model = UtilityModel.from_state_dict(state["model"])
        self.members = tuple(UtilityModel.from_state_dict(member) for member in state["members"])
        self.residual_std = state["residual_std"]
        self.num_fitted, self._num_seen = state["num_fitted"], state["num_seen"]
        restore_numpy(self._generator, state["generator"])
        self._plans.clear()


def _importance_of_ranks(importance: npt.ArrayLike, problem: PolicyProblem) -> Floats:
    """Return the importance cumulated over components, [num_modules, r_max + 1], concave, with sum 1 at r_max."""
    values = np.asarray(importance, dtype=np.float64)
    if values.shape != (problem.num_modules, problem.r_max):
        raise PolicyError.of("shape of the importance", values.shape, f"({problem.num_modules}, {problem.r_max})")
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise PolicyError("importance of components: allowed are finite numbers, 0 or more")
    gains = concave_envelope(values)
    table = np.concatenate([np.zeros((len(gains), 1)), np.cumsum(gains, axis=1)], axis=1)
    return table / max(float(table[:, -1].sum()), 1e-300)
