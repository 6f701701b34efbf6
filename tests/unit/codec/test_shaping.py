from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from airlora.codec import ErrorMetric, ModuleUpdate, Rounding, cut, decode_stream, encode_stream
from airlora.codec.coding import code_rows
from airlora.codec.quantise import MAX_SYMBOL, round_nearest, round_rate_distortion
from airlora.codec.shaping import DAMPING, round_shaped, squared_norms
from airlora.errors import CodecError


def correlated(size: int, *, seed: int = 0, decay: float = 0.05) -> NDArray[np.float64]:
    """Return a second moment with a spectrum that falls fast, as that of a layer's inputs."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]
    result: NDArray[np.float64] = (basis * np.exp(-decay * np.arange(size))) @ basis.T
    return result


def test_the_norm_in_the_metric_is_that_of_the_damped_and_scaled_second_moment() -> None:
    moment = correlated(20)
    metric = ErrorMetric.of([moment * 7.0])
    rows = np.random.default_rng(1).standard_normal((5, 20))
    damped = moment / np.trace(moment) * 20 + DAMPING * np.eye(20)
    damped /= np.exp(np.linalg.slogdet(damped)[1] / 20)
    assert squared_norms(rows, metric) == pytest.approx(np.einsum("ri,ij,rj->r", rows, damped, rows), rel=1e-5)


def test_blocks_are_the_whole_where_nothing_is_between_them() -> None:
    first, second = correlated(6), correlated(9, seed=2)
    whole = np.zeros((15, 15))
    whole[:6, :6], whole[6:, 6:] = first, second
    values = np.random.default_rng(4).standard_normal((3, 15)).astype(np.float32)
    arguments = values, np.array([-20, -10, 0]), np.array([3, 9, 20])
    one, two = (round_shaped(*arguments, ErrorMetric.of(blocks), tradeoff=0.1) for blocks in ([whole], [first, second]))
    assert (one == two).all()


@pytest.mark.parametrize("moment", [np.eye(50), np.zeros((50, 50))])
def test_where_all_errors_count_alike_it_is_rounding_without_a_metric(moment: NDArray[np.float64]) -> None:
    values = np.random.default_rng(2).standard_normal((3, 50)).astype(np.float32)
    indices = np.array([-30, -8, 8])
    tables = code_rows(values, indices).tables
    metric = ErrorMetric.of([moment])
    assert (round_shaped(values, indices, tables, metric, tradeoff=0.0) == round_nearest(values, indices)).all()
    shaped = round_shaped(values, indices, tables, metric, tradeoff=0.12)
    assert (shaped == round_rate_distortion(values, indices, tables, tradeoff=0.12)).all()


@pytest.mark.parametrize("rounding", [Rounding.RATE_DISTORTION, Rounding.NEAREST])
@pytest.mark.parametrize("bits", [1.0, 2.0, 3.0])
def test_at_equal_bits_it_errs_less_in_the_metric(bits: float, rounding: Rounding) -> None:
    metric = ErrorMetric.of([correlated(128)])
    values = np.random.default_rng(3).standard_normal((40, 128)).astype(np.float32)

    def snr_db(shaped: bool) -> float:
        curve = []
        for index in range(-40, 40, 4):
            steps = np.full(40, index)
            coded = code_rows(values, steps, rounding=rounding, metric=metric if shaped else None)
            gaps = coded.symbols * 2.0 ** (index / 16) - values
            curve.append((coded.bits.sum() / values.size, squared_norms(gaps, metric).sum()))
        rates, errors = np.array(curve[::-1]).T
        return float(np.interp(bits, rates, 10 * np.log10(squared_norms(values, metric).sum() / errors)))

    assert snr_db(True) > snr_db(False) + 1.0


def test_to_the_nearest_vectors_keep_more_of_their_length() -> None:
    metric = ErrorMetric.of([correlated(128)])
    values = np.random.default_rng(5).standard_normal((40, 128)).astype(np.float32)
    steps = np.full(40, 16)  # of twice their root mean square
    kept = {}
    for rounding in (Rounding.RATE_DISTORTION, Rounding.NEAREST):
        decoded = 2.0 * code_rows(values, steps, rounding=rounding, metric=metric).symbols
        kept[rounding] = np.sum(metric.weigh(decoded) * metric.weigh(values)) / squared_norms(values, metric).sum()
    assert kept[Rounding.RATE_DISTORTION] < kept[Rounding.NEAREST] - 0.1
    assert kept[Rounding.NEAREST] < 1.0


def test_what_cannot_be_coded_is_clipped() -> None:
    values = np.array([[1e9, -1e9, 1.0]], dtype=np.float32)
    symbols = round_shaped(values, np.array([0]), np.array([0]), ErrorMetric.of([np.eye(3)]), tradeoff=0.1)
    assert symbols[0, :2].tolist() == [MAX_SYMBOL, -MAX_SYMBOL]


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "blocks = 0: allowed is one or more"),
        ([np.zeros((2, 3))], r"shape of a second moment = \(2, 3\): allowed is square"),
        ([np.full((2, 2), np.nan)], "not finite"),
        ([np.array([[1.0, 5.0], [5.0, 1.0]])], "not positive semidefinite"),
    ],
)
def test_what_is_no_second_moment_is_refused(blocks: list[NDArray[Any]], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ErrorMetric.of(blocks)


def test_metrics_of_other_sizes_than_the_factors_are_refused() -> None:
    metric = ErrorMetric.of([np.eye(4)])
    with pytest.raises(CodecError, match=r"sizes of metrics = \(4, 4\): allowed is d_out and d_in, 3 and 4"):
        ModuleUpdate(np.ones((3, 1)), np.ones((1, 4)), np.ones(1), (metric, metric))


def test_balanced_vectors_are_of_one_length_in_the_metrics_and_keep_their_product() -> None:
    generator = np.random.default_rng(0)
    metrics = ErrorMetric.of([correlated(6)]), ErrorMetric.of([correlated(9, seed=1)])
    update = ModuleUpdate(generator.standard_normal((6, 2)), generator.standard_normal((2, 9)), np.ones(2), metrics)
    u, v = update.balanced()
    assert squared_norms(u, metrics[0]) == pytest.approx(squared_norms(v, metrics[1]), rel=1e-5)
    assert np.einsum("ri,rj->rij", u, v) == pytest.approx(np.einsum("ir,rj->rij", update.U, update.V), rel=1e-5)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_fixed_precision_is_that_of_the_numbers_whatever_they_do(make: Callable[..., Any], bits: int) -> None:
    header, updates, tensors = make(layers=2, d=48)
    metered = {
        name: replace(own, metrics=tuple(ErrorMetric.of([correlated(size)]) for size in (len(own.U), own.V.shape[1])))
        for name, own in updates.items()
    }
    sizes = [len(encode_stream(header, own, tensors, bits=bits)) for own in (updates, metered)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_stream_with_metrics_is_near_the_size_asked_for_and_decodes_at_every_cut(
    make: Callable[..., Any], layers: int
) -> None:
    header, updates, tensors = make(layers=4, d=96)
    updates = {
        name: replace(own, metrics=tuple(ErrorMetric.of([correlated(size)]) for size in (len(own.U), own.V.shape[1])))
        for name, own in updates.items()
    }
    data = encode_stream(header, updates, tensors, max_bytes=2500, layers=layers)
    assert len(data) == pytest.approx(2500, rel=0.15)
    lost = []
    for size in (1500, 2000, len(data)):
        modules = decode_stream(cut(data, size)).modules
        products = {name: U @ V for name, (U, V) in modules.items()}
        lost.append(sum(float(np.square(own.U @ own.V - products[name]).sum()) for name, own in updates.items()))
    assert lost == sorted(lost, reverse=True)
    assert len(set(lost)) == len(lost)
