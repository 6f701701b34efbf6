import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from airlora.codec import ErrorMetric, Rounding
from airlora.codec.encoder.metric import squared_norms
from airlora.codec.encoder.rounding import (
    QuantisedRows,
    RowGroup,
    quantise_groups,
    round_nearest,
    round_rate_distortion,
    round_stochastic,
    round_with_feedback,
)
from airlora.codec.format.quantiser import MAX_SYMBOL, dequantise, step_sizes


def correlated_moment(size: int, *, seed: int = 0, decay: float = 0.05) -> NDArray[np.float64]:
    """Return a second moment whose eigenvalues fall exponentially, like that of the inputs of a layer."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    result: NDArray[np.float64] = (basis * np.exp(-decay * np.arange(size))) @ basis.T
    return result


def quantise_rows(
    values: NDArray[np.float32],
    indices: NDArray[np.int64],
    rounding: Rounding = Rounding.RATE_DISTORTION,
    metric: ErrorMetric | None = None,
) -> QuantisedRows:
    """Return the rows of a single group, quantised."""
    return quantise_groups([RowGroup(values, indices, metric)], rounding=rounding)[0]


@given(st.integers(0, 2**32 - 1), st.integers(-64, 64))
def test_nearest_rounding_has_an_error_of_at_most_half_a_step(seed: int, index: int) -> None:
    values = np.random.default_rng(seed).standard_normal((2, 50)).astype(np.float32)
    indices = np.array([index, index])
    errors = dequantise(round_nearest(values, indices), indices) - values
    assert np.abs(errors).max() <= step_sizes(indices)[0] * 0.501 + 1e-6


def test_stochastic_rounding_is_unbiased() -> None:
    values = np.full((1, 100_000), 0.3, dtype=np.float32)
    symbols = round_stochastic(values, np.array([0]), np.random.default_rng(0))
    assert set(np.unique(symbols)) == {0, 1}
    assert symbols.mean() == pytest.approx(0.3, abs=0.01)


def test_large_values_are_clipped_to_the_largest_symbol() -> None:
    symbols = round_nearest(np.array([[1e9, -1e9]], dtype=np.float32), np.array([0]))
    assert symbols.tolist() == [[MAX_SYMBOL, -MAX_SYMBOL]]


def test_rate_distortion_rounding_moves_values_towards_zero_unless_the_tradeoff_is_zero() -> None:
    values = np.random.default_rng(2).standard_normal((3, 768)).astype(np.float32)
    indices = np.array([-8, 0, 8])
    nearest = quantise_rows(values, indices, rounding=Rounding.NEAREST)
    assert (round_rate_distortion(values, indices, nearest.tables, tradeoff=0) == nearest.symbols).all()
    moved = round_rate_distortion(values, indices, nearest.tables, tradeoff=0.12)
    assert (np.abs(moved) <= np.abs(nearest.symbols)).all()
    assert (np.abs(moved - nearest.symbols) <= 1).all()
    assert (moved != nearest.symbols).any()


@pytest.mark.parametrize("draw", ["normal", "laplace"])
@pytest.mark.parametrize("bits", [1.0, 2.0])
def test_rate_distortion_rounding_beats_nearest_rounding_at_equal_bits(draw: str, bits: float) -> None:
    values = getattr(np.random.default_rng(3), draw)(size=(40, 768)).astype(np.float32)

    def snr_db(rounding: Rounding) -> float:
        curve = []
        for index in range(-16, 36, 4):
            quantised = quantise_rows(values, np.full(40, index), rounding=rounding)
            curve.append((quantised.bits.sum() / values.size, quantised.squared_errors.sum()))
        rates, errors = np.array(curve[::-1]).T
        return float(np.interp(bits, rates, 10 * np.log10((values**2).sum() / errors)))

    assert snr_db(Rounding.RATE_DISTORTION) > snr_db(Rounding.NEAREST) + (0.05 if bits == 2 else 0.5)


def test_two_bits_per_value_give_a_gaussian_more_than_ten_decibels() -> None:
    # The bound of entropy-coded scalar quantisation at 2 bits is about 12.04 - 1.53 = 10.5 dB.
    values = np.random.default_rng(4).standard_normal((40, 768)).astype(np.float32)
    quantised = quantise_rows(values, np.full(40, -2))
    rate = quantised.bits.sum() / values.size
    snr_db = 10 * np.log10((values**2).sum() / quantised.squared_errors.sum())
    assert 6.02 * rate - snr_db < 1.62


def test_separate_blocks_equal_a_block_diagonal_matrix() -> None:
    first, second = correlated_moment(6), correlated_moment(9, seed=2)
    joined = np.zeros((15, 15))
    joined[:6, :6], joined[6:, 6:] = first, second
    values = np.random.default_rng(4).standard_normal((3, 15)).astype(np.float32)
    steps, tables = np.array([-20, -10, 0]), np.array([3, 9, 20])
    groups = [RowGroup(values, steps, ErrorMetric.from_moments(blocks)) for blocks in ([joined], [first, second])]
    one, two = round_with_feedback(groups, [tables, tables], tradeoff=0.1)
    assert (one == two).all()


@pytest.mark.parametrize("moment", [np.eye(50), np.zeros((50, 50))])
def test_feedback_has_no_effect_in_the_euclidean_norm(moment: NDArray[np.float64]) -> None:
    values = np.random.default_rng(2).standard_normal((3, 50)).astype(np.float32)
    indices = np.array([-30, -8, 8])
    tables = quantise_rows(values, indices).tables
    metric = ErrorMetric.from_moments([moment])
    group = RowGroup(values, indices, metric)
    without_tradeoff = round_with_feedback([group], [tables], tradeoff=0.0)[0]
    assert (without_tradeoff == round_nearest(values, indices)).all()
    with_tradeoff = round_with_feedback([group], [tables], tradeoff=0.12)[0]
    assert (with_tradeoff == round_rate_distortion(values, indices, tables, tradeoff=0.12)).all()


@pytest.mark.parametrize("rounding", [Rounding.RATE_DISTORTION, Rounding.NEAREST])
@pytest.mark.parametrize("bits", [1.0, 2.0, 3.0])
def test_feedback_reduces_the_error_in_the_metric_at_equal_bits(bits: float, rounding: Rounding) -> None:
    metric = ErrorMetric.from_moments([correlated_moment(128)])
    values = np.random.default_rng(3).standard_normal((40, 128)).astype(np.float32)

    def snr_db(with_feedback: bool) -> float:
        curve = []
        for index in range(-40, 40, 4):
            steps = np.full(40, index)
            quantised = quantise_rows(values, steps, rounding=rounding, metric=metric if with_feedback else None)
            errors = quantised.symbols * 2.0 ** (index / 16) - values
            curve.append((quantised.bits.sum() / values.size, squared_norms(errors, metric).sum()))
        rates, distortions = np.array(curve[::-1]).T
        return float(np.interp(bits, rates, 10 * np.log10(squared_norms(values, metric).sum() / distortions)))

    assert snr_db(True) > snr_db(False) + 1.0


def test_the_mean_squared_diagonal_predicts_the_error_of_fine_rounding_with_feedback() -> None:
    metric = ErrorMetric.from_moments([correlated_moment(64)])
    values = np.random.default_rng(6).standard_normal((200, 64)).astype(np.float32)
    steps = np.full(200, -48)
    with_feedback = quantise_rows(values, steps, rounding=Rounding.NEAREST, metric=metric).squared_errors.sum()
    without = quantise_rows(values, steps, rounding=Rounding.NEAREST).squared_errors.sum()
    assert with_feedback / without == pytest.approx(metric.mean_squared_diagonal, rel=0.03)


def test_nearest_rounding_shortens_vectors_less_than_rate_distortion_rounding() -> None:
    metric = ErrorMetric.from_moments([correlated_moment(128)])
    values = np.random.default_rng(5).standard_normal((40, 128)).astype(np.float32)
    steps = np.full(40, 16)  # twice the root mean square of the values
    kept = {}
    for rounding in (Rounding.RATE_DISTORTION, Rounding.NEAREST):
        decoded = 2.0 * quantise_rows(values, steps, rounding=rounding, metric=metric).symbols
        product = np.sum(metric.transform(decoded) * metric.transform(values))
        kept[rounding] = product / squared_norms(values, metric).sum()
    assert kept[Rounding.RATE_DISTORTION] < kept[Rounding.NEAREST] - 0.1
    assert kept[Rounding.NEAREST] < 1.0


def test_feedback_clips_large_values_to_the_largest_symbol() -> None:
    values = np.array([[1e9, -1e9, 1.0]], dtype=np.float32)
    metric = ErrorMetric.from_moments([np.eye(3)])
    symbols = round_with_feedback([RowGroup(values, np.array([0]), metric)], [np.array([0])], tradeoff=0.1)[0]
    assert symbols[0, :2].tolist() == [MAX_SYMBOL, -MAX_SYMBOL]


@pytest.mark.parametrize("rounding", [Rounding.RATE_DISTORTION, Rounding.NEAREST])
def test_groups_rounded_together_get_what_each_gets_alone(rounding: Rounding) -> None:
    generator = np.random.default_rng(7)
    metrics = [ErrorMetric.from_moments([correlated_moment(40, seed=seed)]) for seed in range(3)]
    two_blocks = ErrorMetric.from_moments([correlated_moment(20, seed=3), correlated_moment(84, seed=4)])
    shapes = [(1, 40, metrics[0]), (5, 40, metrics[1]), (2, 104, two_blocks), (3, 40, None), (0, 40, metrics[2])]
    groups = [
        RowGroup(generator.standard_normal((rows, length)).astype(np.float32), generator.integers(-30, 5, rows), metric)
        for rows, length, metric in shapes
    ]
    for group, together in zip(groups, quantise_groups(groups, rounding=rounding), strict=True):
        alone = quantise_groups([group], rounding=rounding)[0]
        assert (together.symbols == alone.symbols).all()
        assert (together.tables == alone.tables).all()
        assert together.squared_errors == pytest.approx(alone.squared_errors)
