from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.adapters import sample_ranks
from airlora.errors import RankPatternError, SettingsError


@given(
    r_max=st.integers(1, 64),
    num_modules=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    distribution=st.sampled_from(["uniform", "log_uniform"]),
)
def test_ranks_are_in_range_and_reproducible(r_max: int, num_modules: int, seed: int, distribution: str) -> None:
    first, second = (
        sample_ranks(r_max, num_modules, np.random.default_rng(seed), distribution=distribution) for _ in range(2)
    )
    assert first.dtype == np.int64
    assert first.shape == (num_modules,)
    assert first.min() >= 0
    assert first.max() <= r_max
    assert np.array_equal(first, second)


@pytest.mark.parametrize("r_max", [1, 4, 16])
@pytest.mark.parametrize("distribution", ["uniform", "log_uniform"])
def test_frequencies_are_the_stated_probabilities(r_max: int, distribution: str) -> None:
    count = 200_000
    ranks = sample_ranks(r_max, count, np.random.default_rng(0), distribution=distribution)
    r = np.arange(r_max + 1)
    uniform = np.full(r_max + 1, 1 / (r_max + 1))
    stated = {"uniform": uniform, "log_uniform": np.log((r + 2) / (r + 1)) / np.log(r_max + 2)}[distribution]
    assert stated.sum() == pytest.approx(1.0)
    # five standard deviations of a binomial share, at most
    np.testing.assert_allclose(np.bincount(ranks) / count, stated, atol=5 * np.sqrt(0.25 / count))


@pytest.mark.parametrize(("r_max", "num_modules", "name"), [(0, 3, "r_max"), (3, 0, "num_modules")])
def test_bad_sizes_are_refused(r_max: int, num_modules: int, name: str) -> None:
    with pytest.raises(RankPatternError, match=name):
        sample_ranks(r_max, num_modules, np.random.default_rng(0))


def test_unknown_distribution_is_refused() -> None:
    with pytest.raises(SettingsError, match="distribution = 'normal'"):
        sample_ranks(3, 3, np.random.default_rng(0), distribution="normal")
