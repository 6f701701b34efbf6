import numpy as np
import pytest

from airlora.env import LiveObjective
from airlora.errors import SettingsError
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity


class Counter:
    """A stepper without a model. Its loss is the number of the step, and it records the ranks."""

    shapes = {"a": ModuleShape(4, 4), "b": ModuleShape(4, 4)}
    r_max = 4
    head_params = 3

    def __init__(self, num_steps: int = 100) -> None:
        self.num_steps = num_steps
        self.seen: list[list[int]] = []

    @property
    def steps_left(self) -> int:
        return self.num_steps - len(self.seen)

    def complexity(self) -> TextComplexity:
        return TextComplexity(entropy_nats=float(len(self.seen)), oov_rate=0.0)

    def train_step(self, ranks: np.ndarray) -> float:
        self.seen.append(ranks.tolist())
        return float(len(self.seen))


def test_the_loss_is_the_mean_over_k_steps_at_the_ranks() -> None:
    stepper = Counter()
    objective = LiveObjective(stepper, steps_per_action=3)
    assert objective.measure(np.asarray([1, 2])) == 2.0
    assert stepper.seen == [[1, 2]] * 3
    assert objective.complexity().entropy_nats == 3.0


def test_full_rank_steps_follow_and_their_losses_are_not_counted() -> None:
    stepper = Counter()
    objective = LiveObjective(stepper, steps_per_action=1, full_rank_steps=2)
    assert [objective.measure(np.asarray([1, 0])) for _ in range(2)] == [1.0, 4.0]
    assert stepper.seen == [[1, 0], [4, 4], [4, 4]] * 2


def test_the_last_action_takes_only_the_steps_that_are_left() -> None:
    stepper = Counter(num_steps=5)
    objective = LiveObjective(stepper, steps_per_action=2, full_rank_steps=2)
    objective.measure(np.asarray([1, 0]))
    objective.measure(np.asarray([1, 0]))
    assert len(stepper.seen) == 5
    objective.measure(np.asarray([1, 0]))
    assert len(stepper.seen) == 6


def test_modules_and_head_are_those_of_the_stepper() -> None:
    objective = LiveObjective(Counter())
    assert (objective.r_max, objective.head_params, list(objective.shapes)) == (4, 3, ["a", "b"])


@pytest.mark.parametrize("counts", [(0, 0), (-1, 0), (1, -1)])
def test_counts_that_are_too_small_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match="_steps_per_action = "):
        LiveObjective(Counter(), *counts)


def test_a_call_that_takes_several_steps_can_end_the_action() -> None:
    class Leaping(Counter):
        """A stepper whose first call takes four steps."""

        @property
        def steps_left(self) -> int:
            return max(0, self.num_steps - len(self.seen) - (3 if self.seen else 0))

    stepper = Leaping(num_steps=6)
    LiveObjective(stepper, steps_per_action=5, full_rank_steps=4).measure(np.array([1, 2]))
    assert len(stepper.seen) == 3
