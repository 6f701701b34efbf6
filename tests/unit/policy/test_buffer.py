import numpy as np
import pytest
import torch

from airlora.errors import PolicyError, TrainingError
from airlora.observation import Observation
from airlora.policy import Buffer, Transition


def transition(index: int, **fields: object) -> Transition:
    values = {
        "observation": Observation(float(index), 1e6, 1.0, 0.1, np.full(2, index, np.int64), index),
        "vector": np.full(6, index, np.float32),
        "ranks": np.full(2, index, np.int64),
        "reward": 0.1 * index,
        "next_vector": np.full(6, index + 1, np.float32),
        "terminated": False,
        "truncated": index % 2 == 0,
        "loss": 1.0 / (index + 1),
    }
    return Transition(**{**values, **fields})  # type: ignore[arg-type]


def filled(count: int, capacity: int = 100, **fields: object) -> Buffer:
    buffer = Buffer(capacity)
    for index in range(count):
        buffer.add(transition(index, **fields))
    return buffer


def test_a_buffer_keeps_the_newest_transitions_in_order() -> None:
    buffer = filled(7, capacity=4)
    assert len(buffer) == 4
    assert buffer.newest().vectors[:, 0].tolist() == [3, 4, 5, 6]
    assert buffer.newest(2).ranks.tolist() == [[5, 5], [6, 6]]


def test_a_batch_has_every_quantity_as_a_tensor() -> None:
    batch = filled(3, a_out=np.ones(2, np.float32), log_prob=-1.0, value=0.5, x0=np.zeros(2, np.float32)).newest()
    assert len(batch) == 3
    assert batch.rewards.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert batch.losses.tolist() == pytest.approx([1.0, 1 / 2, 1 / 3])
    assert batch.truncated.tolist() == [True, False, True]
    assert batch.terminated.dtype == torch.bool
    assert batch.ranks.dtype == torch.int64
    floats = (batch.vectors, batch.next_vectors, batch.rewards, batch.a_outs, batch.log_probs, batch.values, batch.x0s)
    assert all(tensor is not None and tensor.dtype == torch.float32 for tensor in floats)


def test_quantities_that_a_learner_lacks_are_none() -> None:
    batch = filled(2).newest()
    assert batch.a_outs is None
    assert batch.log_probs is None
    assert batch.values is None
    assert batch.x0s is None


@pytest.mark.parametrize("fields", [{}, {"a_out": np.ones(3, np.float32), "log_prob": -0.1, "value": 1 / 3}])
def test_a_buffer_is_restored_exactly(fields: dict[str, object]) -> None:
    buffer = filled(5, capacity=9, **fields)
    again = Buffer.from_state_dict(buffer.state_dict())
    assert again.capacity == 9
    assert len(again) == 5
    for index in range(5):
        one, other = buffer[index], again[index]
        assert one.observation == other.observation
        assert (one.reward, one.loss, one.log_prob, one.value) == (
            other.reward,
            other.loss,
            other.log_prob,
            other.value,
        )
        np.testing.assert_array_equal(one.next_vector, other.next_vector)
        np.testing.assert_array_equal(one.ranks, other.ranks)


def test_an_empty_buffer_is_restored() -> None:
    assert len(Buffer.from_state_dict(Buffer(3).state_dict())) == 0


def test_counts_outside_the_buffer_are_refused() -> None:
    with pytest.raises(PolicyError, match="capacity = 0"):
        Buffer(0)
    with pytest.raises(PolicyError, match="transitions to learn from = 3: allowed is 1 to the 2"):
        filled(2).newest(3)
    with pytest.raises(PolicyError, match="1 to the 0"):
        Buffer(3).newest()


def test_transitions_of_another_learner_are_refused() -> None:
    buffer = filled(2)
    with pytest.raises(PolicyError, match="x0"):
        buffer.add(transition(2, x0=np.zeros(2, np.float32)))


@pytest.mark.parametrize("name", ["reward", "loss"])
def test_rewards_and_losses_that_are_not_finite_are_refused(name: str) -> None:
    with pytest.raises(TrainingError, match=f"{name} = nan"):
        transition(0, **{name: float("nan")})
