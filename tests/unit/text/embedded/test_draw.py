import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from airlora.text.embedded.draw import Draw


@given(st.integers(0, 2**64), st.integers(1, 20))
def test_choices_follow_from_random_alone(seed: int, num_options: int) -> None:
    draw, generator = Draw(seed), random.Random(seed)
    for _ in range(20):
        assert draw.pick(range(num_options)) == int(generator.random() * num_options)
    assert draw.chance(0.4) == (generator.random() < 0.4)
    keys = [generator.random() for _ in range(num_options)]
    assert [keys[i] for i in draw.shuffled(range(num_options))] == sorted(keys)


def test_first_numbers_of_a_seed() -> None:
    # The values of random.Random(42).random() since Python 3.2: 0.639..., 0.025..., 0.275..., 0.223...
    draw = Draw(42)
    assert [draw.pick(range(1000)) for _ in range(4)] == [639, 25, 275, 223]


def test_frequencies() -> None:
    draw = Draw(0)
    counts = Counter(draw.weighted({"a": 1, "b": 0, "c": 3}) for _ in range(4000))
    assert counts["b"] == 0
    assert 0.22 < counts["a"] / 4000 < 0.28
    assert 0.27 < sum(draw.chance(0.3) for _ in range(4000)) / 4000 < 0.33


@given(st.lists(st.integers()), st.integers(0, 99))
def test_shuffle_is_a_permutation(options: list[int], seed: int) -> None:
    assert sorted(Draw(seed).shuffled(options)) == sorted(options)
