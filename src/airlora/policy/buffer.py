"""The bounded buffer of transitions from which both stages of Algorithm 1 learn."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlora.errors import PolicyError, TrainingError
from airlora.observation import FloatArray, IntArray, Observation

__all__ = ["Batch", "Buffer", "Transition"]


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of an episode, {s_t, a_out, a~, R_t, s_{t+1}}, with the loss and the quantities of the `Decision`.

    Args:
        observation: State s_t in its units.
        vector: State s_t as a vector, float32 [4 + num_modules].
        ranks: Ranks a~ that were executed, int64 [num_modules].
        reward: Reward R_t of Eq. 10 as the environment returned it, finite.
        next_vector: State s_{t+1} as a vector, float32 [4 + num_modules]. At the end of an episode this is the state
            that ended it, not the first state of the next episode.
        terminated: Whether the episode ended in a final state.
        truncated: Whether the episode was stopped before a final state.
        loss: Measured loss U(a~), nats, finite.
        a_out: Coarse vector of PPO, float32 [num_modules or latent_size], or None.
        log_prob: ln pi(a_out | s), nats, or None.
        value: V(s), or None.
        x0: Diffusion sample before Eq. 18, float32 [num_modules], or None.
        chain: Denoising chain from x_T to x_0, float32 [K + 1, num_modules], or None.

    Raises:
        TrainingError: The reward or the loss is not finite.
    """

    observation: Observation
    vector: FloatArray
    ranks: IntArray
    reward: float
    next_vector: FloatArray
    terminated: bool
    truncated: bool
    loss: float
    a_out: FloatArray | None = None
    log_prob: float | None = None
    value: float | None = None
    x0: FloatArray | None = None
    chain: FloatArray | None = None

    def __post_init__(self) -> None:
        for name in ("reward", "loss"):
            if not np.isfinite(getattr(self, name)):
                raise TrainingError.of(name, getattr(self, name), "a finite number")


@dataclass(frozen=True, slots=True)
class Batch:
    """N transitions as tensors, oldest first. Quantities that the learner does not have are None.

    Args:
        vectors: States s, float32 [N, 4 + num_modules].
        ranks: Executed ranks a~, int64 [N, num_modules].
        rewards: Rewards R, float32 [N].
        next_vectors: Next states s', float32 [N, 4 + num_modules].
        terminated: Whether the episode ended in a final state, bool [N].
        truncated: Whether the episode was stopped before a final state, bool [N].
        losses: Measured losses U, float32 [N], nats.
        a_outs: Coarse vectors of PPO, float32 [N, num_modules or latent_size].
        log_probs: ln pi(a_out | s), float32 [N], nats.
        values: V(s), float32 [N].
        x0s: Diffusion samples, float32 [N, num_modules].
        chains: Denoising chains, float32 [N, K + 1, num_modules].
    """

    vectors: Tensor
    ranks: Tensor
    rewards: Tensor
    next_vectors: Tensor
    terminated: Tensor
    truncated: Tensor
    losses: Tensor
    a_outs: Tensor | None
    log_probs: Tensor | None
    values: Tensor | None
    x0s: Tensor | None
    chains: Tensor | None

    def __len__(self) -> int:
        return len(self.rewards)


class Buffer:
    """A bounded buffer that keeps the newest transitions.

    Args:
        capacity: Largest number of transitions, >= 1. The oldest ones are dropped.

    Raises:
        PolicyError: `capacity` is below 1.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise PolicyError.of("capacity", capacity, "a whole number, 1 or more")
        self._capacity = capacity
        self._rows: deque[Transition] = deque(maxlen=capacity)

    @property
    def capacity(self) -> int:
        """Largest number of transitions."""
        return self._capacity

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Transition:
        return self._rows[index]

    def add(self, transition: Transition) -> None:
        """Add one transition, and drop the oldest one if the buffer is full.

        Raises:
            PolicyError: The optional quantities differ from those of earlier transitions: another learner made it.
        """
        if self._rows and _present(transition) != _present(self._rows[0]):
            raise PolicyError.of("quantities of the transition", _present(transition), f"{_present(self._rows[0])}")
        self._rows.append(transition)

    def observations(self, count: int | None = None) -> list[Observation]:
        """Return the observations of the `count` newest transitions (default: all), oldest first."""
        rows = list(self._rows)
        return [row.observation for row in rows[len(rows) - (len(rows) if count is None else count) :]]

    def newest_rows(self, count: int) -> list[Transition]:
        """Return the `count` newest transitions, oldest first; raises as `newest`."""
        if not 1 <= count <= len(self):
            raise PolicyError.of("transitions to learn from", count, f"1 to the {len(self)} in the buffer")
        return list(self._rows)[len(self) - count :]

    def newest(self, count: int | None = None, device: str = "cpu") -> Batch:
        """Return the `count` newest transitions (default: all) as tensors, oldest first.

        Raises:
            PolicyError: `count` is below 1 or above the length of the buffer.
        """
        rows = self.newest_rows(len(self) if count is None else count)
        columns = {name: _column(name, rows) for name in _NAMES if name not in _OPTIONAL or name in _present(rows[0])}

        def find(name: str) -> Tensor | None:
            column = columns[name].to(device) if name in columns else None
            return column.float() if column is not None and column.dtype == torch.float64 else column

        # A batch has the fields of a transition in the same order, without the first one, `observation`.
        tensors: list[Any] = [find(field.name) for field in fields(Transition)[1:]]
        return Batch(*tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer as tensors and plain values."""
        rows = list(self._rows)
        names = [name for name in _NAMES if rows and (name not in _OPTIONAL or name in _present(rows[0]))]
        return {
            "capacity": self.capacity,
            "size": len(rows),
            "observations": [_observation_to_dict(row.observation) for row in rows],
            "columns": {name: _column(name, rows) for name in names},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Buffer:
        """Return the buffer with the value of `state_dict`."""
        buffer = cls(state["capacity"])
        for index, observation in enumerate(state["observations"]):
            row = {name: _entry(name, column[index]) for name, column in state["columns"].items()}
            buffer.add(Transition(observation=_observation_from_dict(observation), **row))
        return buffer


_ARRAYS = ("vector", "ranks", "next_vector", "a_out", "x0", "chain")
_NUMBERS = ("reward", "loss", "log_prob", "value")
_FLAGS = ("terminated", "truncated")
_NAMES = _ARRAYS + _NUMBERS + _FLAGS
_OPTIONAL = ("a_out", "log_prob", "value", "x0", "chain")


def _present(row: Transition) -> tuple[str, ...]:
    return tuple(name for name in _OPTIONAL if getattr(row, name) is not None)


def _column(name: str, rows: Sequence[Transition]) -> Tensor:
    values = [getattr(row, name) for row in rows]
    if name in _ARRAYS:
        return torch.from_numpy(np.stack(values))
    return torch.tensor(values, dtype=torch.bool if name in _FLAGS else torch.float64)


def _entry(name: str, value: Tensor) -> Any:
    return value.numpy().copy() if name in _ARRAYS else value.item()


def _observation_to_dict(observation: Observation) -> dict[str, Any]:
    return {**asdict(observation), "ranks": [int(rank) for rank in observation.ranks]}


def _observation_from_dict(value: Mapping[str, Any]) -> Observation:
    return Observation(**{**value, "ranks": np.asarray(value["ranks"], dtype=np.int64)})
