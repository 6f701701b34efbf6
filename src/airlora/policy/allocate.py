"""Policy "allocate": fit a utility model to everything measured, then send what it says is best."""

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
from airlora.policy.utility.advisor import Advisor

__all__ = ["AllocatePolicy"]


class AllocatePolicy:
    r"""A planner: concave curves per module, coupled where that explains the losses better, and their best plan.

    A plan takes components while they fit and while each lowers the objective of Eq. 9, $U + \lambda \eta$: one that
    is worth less than its share of the price is not sent. Until something was measured the prior decides, or all
    numbers are equal.

    Args:
        problem: What is decided about; `cost_weight` is lambda.
        settings: See `AllocateSettings`.
        seed: Of the exploration and of the fit's folds.
        prior: See `Advisor`.
    """

    name: ClassVar[str] = "allocate"

    def __init__(
        self, problem: PolicyProblem, settings: AllocateSettings, *, seed: int, prior: npt.ArrayLike | None = None
    ) -> None:
        self.problem = problem
        self._seed = seed
        self._prior = None if prior is None else np.asarray(prior, dtype=np.float64)
        self._advisor = Advisor(problem, settings, seed=seed, prior=prior)

    @property
    def gains(self) -> Gains:
        """How far each component lowers the loss at the mean text, nats, [num_modules, r_max], as fitted so far."""
        model = self._advisor.model
        return model.gains(model.text_mean)

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings, seed and prior."""
        prior = None if self._prior is None else self._prior.tolist()
        return {"settings": self._advisor.settings.model_dump(), "seed": self._seed, "prior": prior}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`, nothing measured yet."""
        settings = AllocateSettings(**arguments["settings"])
        return cls(problem, settings, seed=arguments["seed"], prior=arguments["prior"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the plan for the link's budget and the text."""
        return self._advisor.plan(observation)

    def explore(self, observation: Observation) -> Decision:
        """Return a pattern to measure; see `Advisor.explore`."""
        return Decision(self._advisor.explore(observation))

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:
        """Return the one stage "fit", which fits the model to the buffer when that has grown enough."""
        return [("fit", lambda: self._advisor.update(buffer, rollout))]

    def state_dict(self) -> dict[str, Any]:
        """Return the model and where the generator stands."""
        return self._advisor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._advisor.load_state_dict(state)
