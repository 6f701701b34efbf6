import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import PolicyError
from airlora.policy import ranks_to_unit, unit_to_ranks


@given(st.integers(1, 256))
def test_decoding_inverts_encoding_for_every_rank(r_max: int) -> None:
    ranks = np.arange(r_max + 1)
    np.testing.assert_array_equal(unit_to_ranks(ranks_to_unit(ranks, r_max), r_max), ranks)


@given(st.integers(1, 64), st.lists(st.floats(-3, 3), min_size=2, max_size=8))
def test_decoding_is_monotone_and_within_range(r_max: int, values: list[float]) -> None:
    ranks = unit_to_ranks(np.sort(values), r_max)
    assert (np.diff(ranks) >= 0).all()
    assert ranks.min() >= 0
    assert ranks.max() <= r_max


@pytest.mark.parametrize("r_max", [1, 4, 7])
def test_every_rank_has_an_interval_of_equal_width(r_max: int) -> None:
    grid = (np.arange(1000 * (r_max + 1)) + 0.5) / (500 * (r_max + 1)) - 1.0
    assert np.bincount(unit_to_ranks(grid, r_max)).tolist() == [1000] * (r_max + 1)


def test_the_unit_range_is_symmetric() -> None:
    unit = ranks_to_unit(np.arange(9), 8)
    np.testing.assert_allclose(unit, -unit[::-1], atol=1e-7)
    assert unit.dtype == np.float32
    assert abs(unit).max() < 1.0


def test_numbers_without_a_rank_are_refused() -> None:
    with pytest.raises(PolicyError, match="r_max = 0"):
        ranks_to_unit([0], 0)
    with pytest.raises(PolicyError, match="r_max = 0"):
        unit_to_ranks([0.0], 0)
    with pytest.raises(PolicyError, match="finite"):
        unit_to_ranks([0.0, np.nan], 4)
