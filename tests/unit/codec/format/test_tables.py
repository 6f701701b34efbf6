import constriction
import numpy as np
import pytest
from scipy.stats import gennorm

from airlora.codec.encoder.costs import choose_tables, code_lengths, row_histograms
from airlora.codec.format.tables import (
    NUM_TABLES,
    NUM_WIDTHS,
    PRECISION_BITS,
    frequencies,
    largest_symbol,
    tables_digest,
)

DIGEST = "cf7fcedbc9be078f8826768b9afe72244676ca70b06868e39d34e1f6359e3025"


def test_the_tables_are_those_of_the_format() -> None:
    assert tables_digest() == DIGEST


@pytest.mark.parametrize("table", range(0, NUM_TABLES, 7))
def test_a_table_is_a_symmetric_distribution_that_falls_from_zero(table: int) -> None:
    counts = frequencies(table)
    half = counts[largest_symbol(table) : -1]
    assert counts.sum() == 1 << PRECISION_BITS
    assert (counts > 0).all()
    assert (counts[:-1] == counts[-2::-1]).all()
    assert (np.diff(half) <= 0).all()


@pytest.mark.parametrize("table", range(0, NUM_TABLES, 29))
def test_the_coder_uses_exactly_these_frequencies(table: int) -> None:
    # An ANS coder whose only word is w decodes the symbol in whose interval the low 24 bits of w lie.
    model = constriction.stream.model.Categorical((frequencies(table) - 1).astype(np.float64), perfect=False)
    ends = np.cumsum(frequencies(table))
    for symbol in {0, len(ends) // 2 - 1, len(ends) // 2, len(ends) - 2}:
        for offset, expected in ((-1, symbol), (0, symbol + 1)):
            word = np.array([(1 << PRECISION_BITS) + int(ends[symbol]) + offset], dtype=np.uint32)
            assert constriction.stream.stack.AnsCoder(word).decode(model) == expected


@pytest.mark.parametrize(
    ("shape", "beta", "delta"), [(0, 2.0, 6 / 64), (1, 1.5, 6 / 64), (2, 1.0, 6 / 64), (3, 0.5, 4 / 64)]
)
@pytest.mark.parametrize("width", [24, 40, 56])
def test_a_table_is_the_discretised_generalised_gaussian(shape: int, beta: float, delta: float, width: int) -> None:
    table = shape * NUM_WIDTHS + width
    sigma = 2 ** ((width - 24) / 8)
    density = gennorm(beta, scale=sigma / gennorm(beta).std())
    edges = np.arange(largest_symbol(table) + 1) + 0.5 + delta
    masses = np.diff(density.cdf(edges), prepend=0.5)
    masses[0] *= 2
    expected = masses / (2 * masses.sum() - masses[0])
    found = frequencies(table)[largest_symbol(table) : -1] / 2**PRECISION_BITS
    assert np.abs(found - expected).max() < 0.01
    assert (expected * np.log2(expected / found)).sum() < 0.006


def test_code_lengths_of_a_table_satisfy_kraft() -> None:
    lengths = code_lengths()
    for table in range(0, NUM_TABLES, 31):
        largest = largest_symbol(table)
        shares = 2.0 ** -lengths[table, : largest + 1]
        assert shares[0] + 2 * shares[1:].sum() < 1


def test_escapes_cost_more_the_larger_they_are() -> None:
    row = code_lengths()[2 * NUM_WIDTHS]
    assert (np.diff(row[largest_symbol(2 * NUM_WIDTHS) + 1 :]) >= 0).all()


@pytest.mark.parametrize("draw", ["normal", "laplace"])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0, 60.0])
def test_the_chosen_table_is_within_two_per_cent_of_the_empirical_entropy(draw: str, sigma: float) -> None:
    generator = np.random.default_rng(0)
    symbols = np.rint(getattr(generator, draw)(0, sigma, (1, 200_000))).astype(np.int32)
    histogram = row_histograms(symbols)
    _, bits = choose_tables(histogram)
    _, counts = np.unique(symbols, return_counts=True)
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    assert entropy * 0.999 < bits[0] < entropy * 1.02


def test_the_chosen_table_is_nearly_the_best_of_all() -> None:
    generator = np.random.default_rng(1)
    for sigma in (0.2, 0.7, 3.0, 20.0):
        histogram = row_histograms(np.rint(generator.laplace(0, sigma, (4, 768))).astype(np.int32))
        _, bits = choose_tables(histogram)
        best = (code_lengths()[:, : histogram.shape[1]] @ histogram.T).min(axis=0)
        assert (bits <= best * 1.005 + 1).all()
