import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.codec.encoder.rounding import round_nearest
from airlora.codec.format.quantiser import MAX_STEP_INDEX, MIN_STEP_INDEX, dequantise, step_sizes


@given(st.integers(MIN_STEP_INDEX, MAX_STEP_INDEX - 16))
def test_a_step_is_a_power_of_two_to_a_sixteenth_of_its_index(index: int) -> None:
    step, octave_above = step_sizes(np.array([index, index + 16])).astype(np.float64)
    assert step == pytest.approx(2 ** (index / 16), rel=1e-7)
    assert octave_above == 2 * step


def test_dequantised_values_are_exact_multiples_of_the_step() -> None:
    symbols = np.arange(-40, 41, dtype=np.int32)[None]
    indices = np.array([-37])
    values = dequantise(symbols, indices)
    assert values.dtype == np.float32
    assert (values == symbols.astype(np.float32) * step_sizes(indices)[0]).all()
    assert (round_nearest(values, indices) == symbols).all()
