"""Ranks by a policy in the Trainer of `transformers`, and in trainers that derive from it, such as those of TRL."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from airlora.adapters import AdaptedModel
from airlora.allocation import project_ranks
from airlora.channel import ChannelSettings, Link, budget_params
from airlora.errors import ChannelError, SettingsError
from airlora.observation import IntArray, Observation
from airlora.policy import RankPolicy
from airlora.text import TextComplexity

__all__ = ["RankPolicyCallback"]


class RankPolicyCallback(transformers.TrainerCallback):  # type: ignore[misc]  # its module has no types
    """Callback that sets the ranks of an adapter before training steps, as a policy decides them for a link.

    With several processes, the first one decides, and the others use its ranks. Evaluation uses the ranks of the last
    step. Wrap the model by `airlora.wrap`, whose `save_pretrained` writes checkpoints of the adapter alone. The state
    of the policy is not in them.

    Args:
        adapted: Wrapped model that the trainer trains.
        policy: Policy that decides.
        link: Link that the adapter is made for.
        channel: Settings of the rate and the deadline. None takes the defaults.
        text: Text features of the data. None stands for an entropy and an OOV rate of 0.
        every: Training steps between two decisions, 1 or more.

    Attributes:
        ranks: Ranks of the current step, int64 [num_modules].

    Raises:
        SettingsError: `every` is below 1.
        ChannelError: The link is out of range, or carries no component before the deadline.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        policy: RankPolicy,
        link: Link,
        *,
        channel: ChannelSettings | None = None,
        text: TextComplexity | None = None,
        every: int = 1,
    ) -> None:
        if every < 1:
            raise SettingsError.of("every", every, "a whole number, 1 or more")
        channel = channel or ChannelSettings()
        self.ranks: IntArray = np.full(len(adapted.shapes), adapted.r_max, dtype=np.int64)
        self._adapted, self._policy, self._link, self._every = adapted, policy, link, every
        self._text = text or TextComplexity(0.0, 0.0)
        self._budget = budget_params(
            capacity_bps=link.capacity_bps(channel),
            deadline_s=channel.deadline_s,
            bits_per_param=channel.bits_per_param,
            head_params=adapted.head_params,
        )
        self._has_deadline, self._has_decided = channel.deadline_mode == "project", False
        smallest = min(shape.params_per_rank for shape in adapted.shapes.values())
        if self._has_deadline and self._budget < smallest:
            raise ChannelError.of(
                "parameters that the link carries before the deadline",
                self._budget,
                f"{smallest} or more, one component; set a larger bandwidth or deadline",
            )

    def on_step_begin(self, args: Any, state: Any, control: Any, **options: Any) -> None:  # noqa: ARG002
        """Set the ranks of the next training step."""
        if state.global_step % self._every == 0 or not self._has_decided:
            self._has_decided = True
            self.ranks = self._shared(self._decide() if _is_first_process() else self.ranks)
        self._adapted.set_ranks(self.ranks.tolist())

    def _decide(self) -> IntArray:
        observation = Observation(
            snr_db=self._link.snr_db,
            bandwidth_hz=self._link.bandwidth_hz,
            entropy_nats=self._text.entropy_nats,
            oov_rate=self._text.oov_rate,
            ranks=self.ranks,
            budget_params=self._budget,
        )
        wanted = np.asarray(self._policy.decide(observation), dtype=np.int64)
        if not self._has_deadline:
            return wanted
        sizes = [shape.params_per_rank for shape in self._adapted.shapes.values()]
        return project_ranks(wanted, sizes, self._budget)

    @staticmethod
    def _shared(ranks: IntArray) -> IntArray:
        """Return the ranks of the first process."""
        if not _is_distributed():
            return ranks
        held: list[Any] = [ranks.tolist()]
        torch.distributed.broadcast_object_list(held)
        return np.asarray(held[0], dtype=np.int64)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _is_first_process() -> bool:
    return not _is_distributed() or torch.distributed.get_rank() == 0
