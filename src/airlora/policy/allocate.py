"""Policy "allocate": fit a utility model to all measured losses, and plan with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from airlora.allocation import Gains
from airlora.observation import IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.settings import AllocateSettings
from airlora.policy.specs import PolicySpec
from airlora.policy.utility.advisor import Advisor

__all__ = ["AllocatePolicy"]


class AllocatePolicy:
    r"""A planner on a fitted utility model: one concave curve per module, coupled where that explains losses better.

    A plan adds components while they fit the budget and lower the objective of Eq. 9, $U + \lambda \eta$. A component
    that lowers the loss by less than its share of the cost is not sent. Before the first measurement the plan follows
    the importance of the components; without it, all parameters count the same.

    Args:
        problem: Decision problem of the policy. Its `cost_weight` is lambda.
        settings: Settings of the planner.
        seed: Seed of the exploration and of the fit's folds.
        importance: Importance of every component, float [num_modules, r_max], >= 0, in any unit. It shapes the plans
            before the first measurement. None means that all parameters count the same.
    """

    name: ClassVar[str] = "allocate"

    def __init__(
        self, problem: PolicyProblem, settings: AllocateSettings, *, seed: int, importance: npt.ArrayLike | None = None
    ) -> None:
        self.problem = problem
        self._seed = seed
        self._importance = None if importance is None else np.asarray(importance, dtype=np.float64)
        self._advisor = Advisor(problem, settings, seed=seed, prior=importance)

    @property
    def gains(self) -> Gains:
        """Fitted reduction of the loss by each component at the mean text, nats, float [num_modules, r_max]."""
        model = self._advisor.model
        return model.gains(model.text_mean)

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings, seed and importance."""
        prior = None if self._importance is None else self._importance.tolist()
        return {"settings": self._advisor.settings.model_dump(), "seed": self._seed, "prior": prior}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these settings before the first measurement."""
        settings = AllocateSettings(**arguments["settings"])
        return cls(problem, settings, seed=arguments["seed"], importance=arguments["prior"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the best plan for the link's budget and the text."""
        return self._advisor.plan(observation)

    def explore(self, observation: Observation) -> Decision:
        """Return a pattern that is worth measuring; see `Advisor.explore`."""
        return Decision(self._advisor.explore(observation))

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the stage "fit". It fits the model to the buffer once the buffer has grown by `refit_growth`."""
        return [("fit", lambda: self._advisor.update(buffer, rollout))]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the utility model and the generator."""
        return self._advisor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`."""
        self._advisor.load_state_dict(state)


SPECS = (
    PolicySpec(
        "allocate",
        AllocatePolicy,
        "planner on a utility model fitted to measured losses",
        may_start_from_importance=True,
        sections={"settings": AllocateSettings},
        order=10,
        colour="#0072B2",
        marker="s",
    ),
)
