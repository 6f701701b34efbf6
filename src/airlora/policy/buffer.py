"""What both stages of Algorithm 1 learn from: one bounded buffer of transitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlora.errors import PolicyError, TrainingError
from airlora.observation import FloatArray, IntArray, Observation

__all__ = ["Batch", "Buffer", "Transition"]


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of an episode: {s_t, a_out, a~, R_t, s_{t+1}} and what else its learners remember.

    Args:
        observation: s_t in its units.
        vector: s_t as a vector, float32 [4 + num_modules].
        ranks: a~, the ranks that were executed, int64 [num_modules].
        reward: R_t of Eq. 10; finite.
        next_vector: s_{t+1} as a vector, also at the end of an episode (not the next one's start).
        terminated: The episode ended in a state that nothing follows.
        truncated: The episode was cut; something would have followed.
        loss: U(a~), the measured loss; finite.
        a_out: See `Decision`, as the following.
        log_prob: ln pi(a_out | s).
        value: V(s).
        x0: The diffusion sample before Eq. 18.
        chain: The way from x_T to x_0, float32 [K + 1, num_modules].

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
    """Transitions as tensors, oldest first; N of them.

    Args:
        vectors: s, float32 [N, 4 + num_modules].
        ranks: a~, int64 [N, num_modules].
        rewards: R, float32 [N].
        next_vectors: s', float32 [N, 4 + num_modules].
        terminated: Bool [N].
        truncated: Bool [N].
        losses: U, float32 [N].
        a_outs: Float32 [N, num_modules or latent_size]; none if the learner has none, as the following.
        log_probs: Float32 [N].
        values: Float32 [N].
        x0s: Float32 [N, num_modules].
        chains: Float32 [N, K + 1, num_modules].
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
    """The newest transitions, at most `capacity` of them.

    Args:
        capacity: How many are kept, >= 1; the oldest make room.

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
        """How many transitions are kept."""
        return self._capacity

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Transition:
        return self._rows[index]

    def add(self, transition: Transition) -> None:
        """Remember one transition, forgetting the oldest if the buffer is full.

        Raises:
            PolicyError: It lacks a quantity that the ones before it have, or has one more: another learner made it.
        """
        if self._rows and _present(transition) != _present(self._rows[0]):
            raise PolicyError.of("quantities of the transition", _present(transition), f"{_present(self._rows[0])}")
        self._rows.append(transition)

    def observations(self, count: int | None = None) -> list[Observation]:
        """Return the states, in units, of the `count` newest transitions (default: all), oldest first."""
        rows = list(self._rows)
        return [row.observation for row in rows[len(rows) - (len(rows) if count is None else count) :]]

    def newest_rows(self, count: int) -> list[Transition]:
        """Return the `count` newest transitions as they were added, oldest first; raises as `newest`."""
        if not 1 <= count <= len(self):
            raise PolicyError.of("transitions to learn from", count, f"1 to the {len(self)} in the buffer")
        return list(self._rows)[len(self) - count :]

    def newest(self, count: int | None = None, device: str = "cpu") -> Batch:
        """Return the `count` newest transitions (default: all), oldest first.

        Raises:
            PolicyError: `count` is below 1 or above what is remembered.
        """
        rows = self.newest_rows(len(self) if count is None else count)
        columns = {name: _column(name, rows) for name in _NAMES if name not in _OPTIONAL or name in _present(rows[0])}

        def get(name: str) -> Tensor:
            column = columns[name].to(device)
            return column.float() if column.dtype == torch.float64 else column

        def find(name: str) -> Tensor | None:
            return get(name) if name in columns else None

        return Batch(
            vectors=get("vector"),
            ranks=get("ranks"),
            rewards=get("reward"),
            next_vectors=get("next_vector"),
            terminated=get("terminated"),
            truncated=get("truncated"),
            losses=get("loss"),
            a_outs=find("a_out"),
            log_probs=find("log_prob"),
            values=find("value"),
            x0s=find("x0"),
            chains=find("chain"),
        )

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
        """Return the buffer written by `state_dict`."""
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
