import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.codec import HeadTensor, ModuleUpdate
from airlora.codec.coding import TRADEOFF
from airlora.codec.plan import find_price, nominal_steps, priced_steps, respect_order
from airlora.codec.steps import step_sizes

PAIRS = st.lists(st.tuples(st.floats(0, 1e3), st.floats(0.1, 1e3)), min_size=1, max_size=20)


@given(PAIRS)
def test_ordered_densities_never_rise_and_keep_the_total(pairs: list[tuple[float, float]]) -> None:
    gains, sizes = np.array(pairs).T
    densities = respect_order(gains, sizes)
    assert (np.diff(densities) <= 1e-9 * (1 + densities[0])).all()
    assert densities @ sizes == pytest.approx(gains.sum())
    # The upper concave hull: no cut gains more than the pooled densities say.
    assert (np.cumsum(densities * sizes) >= np.cumsum(gains) * (1 - 1e-9) - 1e-300).all()


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-9, 1e-3))
def test_a_step_is_the_closed_form(norm: float, weight: float, price: float) -> None:
    step = step_sizes(priced_steps(np.array([norm]), np.array([weight]), price))[0]
    expected = max(norm * np.sqrt(price / (8 * TRADEOFF * weight)), norm / (1 << 16))
    assert step == pytest.approx(expected, rel=0.023)


def test_no_norm_and_no_weight_are_no_trouble() -> None:
    assert priced_steps(np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), 1e-3).shape == (3,)
    assert nominal_steps(np.array([0.0]), 10, 4).shape == (1,)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_nominal_step_gives_the_entropy_of_a_fine_gaussian(bits: int) -> None:
    values = np.random.default_rng(0).standard_normal(200_000)
    step = step_sizes(nominal_steps(np.array([np.linalg.norm(values)]), values.size, bits))[0]
    _, counts = np.unique(np.rint(values / step), return_counts=True)
    assert -(counts / counts.sum() * np.log2(counts / counts.sum())).sum() == pytest.approx(bits, abs=0.06)


def test_the_price_found_buys_just_enough() -> None:
    generator = np.random.default_rng(1)
    update = ModuleUpdate(
        generator.standard_normal((64, 4)), generator.standard_normal((4, 64)), np.geomspace(1, 0.1, 4)
    )
    tensors = {"w": HeadTensor(generator.standard_normal((2, 64)), 0.5)}
    bought = find_price({"a": update}, tensors, is_enough=lambda b: b.loss <= 0.05 * b.total)
    assert bought.total == pytest.approx(update.weights.sum() + 0.5)
    assert 0.04 * bought.total < bought.loss <= 0.05 * bought.total
    dearer = find_price({"a": update}, tensors, is_enough=lambda b: b.num_bytes >= 1.5 * bought.num_bytes)
    assert dearer.price < bought.price
