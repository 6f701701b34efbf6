"""Random choices that stay the same on every Python version."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

__all__ = ["Draw"]

T = TypeVar("T")


class Draw:
    """A seeded source of choices.

    Python promises that `random.Random(seed).random()` gives the same numbers in every version, and promises it of no
    other method.  So every choice here is made from that one, u in [0, 1), in the way its docstring says.

    Args:
        seed: Whole number >= 0.
    """

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely: options[floor(u * len)]."""
        return options[int(self._generator.random() * len(options))]

    def chance(self, probability: float) -> bool:
        """Return True with this probability: u < probability."""
        return self._generator.random() < probability

    def weighted(self, weights: Mapping[T, int]) -> T:
        """Return a key, as likely as its weight: the one that `pick` takes when each stands there so many times.

        Weights are whole numbers, for sums of fractions are rounded in other ways by other Python versions.
        """
        return self.pick([option for option, weight in weights.items() for _ in range(weight)])

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """Return the options in random order: sorted by one u each."""
        keys = [self._generator.random() for _ in options]
        return [options[i] for i in sorted(range(len(options)), key=keys.__getitem__)]
