import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.codec.encoder.precision import find_multiplier, monotone_densities, steps_for_bits, steps_for_multiplier
from airlora.codec.encoder.rounding import TRADEOFF
from airlora.codec.encoder.sources import DenseTensor, ModuleUpdate
from airlora.codec.format.quantiser import step_sizes

PAIRS = st.lists(st.tuples(st.floats(0, 1e3), st.floats(0.1, 1e3)), min_size=1, max_size=20)


@given(PAIRS)
def test_monotone_densities_do_not_increase_and_keep_the_total(pairs: list[tuple[float, float]]) -> None:
    reductions, sizes = np.array(pairs).T
    densities = monotone_densities(reductions, sizes)
    assert (np.diff(densities) <= 1e-9 * (1 + densities[0])).all()
    assert densities @ sizes == pytest.approx(reductions.sum())
    # The densities form the upper concave hull: no prefix reduces the loss by more than they say.
    assert (np.cumsum(densities * sizes) >= np.cumsum(reductions) * (1 - 1e-9) - 1e-300).all()


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-9, 1e-3))
def test_a_step_matches_the_closed_form(norm: float, importance: float, multiplier: float) -> None:
    step = step_sizes(steps_for_multiplier(np.array([norm]), np.array([importance]), multiplier))[0]
    expected = max(norm * np.sqrt(multiplier / (8 * TRADEOFF * importance)), norm / (1 << 16))
    assert step == pytest.approx(expected, rel=0.023)


def test_zero_vectors_and_zero_importance_have_a_step() -> None:
    assert steps_for_multiplier(np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), 1e-3).shape == (3,)
    assert steps_for_bits(np.array([0.0]), 10, 4).shape == (1,)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_step_for_bits_gives_a_gaussian_vector_that_entropy(bits: int) -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    step = step_sizes(steps_for_bits(np.array([np.linalg.norm(values)]), values.size, bits))[0]
    _, counts = np.unique(np.rint(values / step), return_counts=True)
    assert -(counts / counts.sum() * np.log2(counts / counts.sum())).sum() == pytest.approx(bits, abs=0.06)


def test_the_multiplier_found_is_just_sufficient() -> None:
    generator = np.random.default_rng(1)
    update = ModuleUpdate(
        generator.standard_normal((64, 4)), generator.standard_normal((4, 64)), np.geomspace(1, 0.1, 4)
    )
    tensors = {"w": DenseTensor(generator.standard_normal((2, 64)), 0.5)}
    point = find_multiplier({"a": update}, tensors, is_sufficient=lambda p: p.loss <= 0.05 * p.total_loss)
    assert point.total_loss == pytest.approx(update.importance.sum() + 0.5)
    assert 0.04 * point.total_loss < point.loss <= 0.05 * point.total_loss
    larger = find_multiplier({"a": update}, tensors, is_sufficient=lambda p: p.num_bytes >= 1.5 * point.num_bytes)
    assert larger.multiplier < point.multiplier
