import numpy as np
import pytest

from airlora.codec.encoder.costs import choose_tables, code_lengths, row_histograms
from airlora.codec.format.tables import NUM_TABLES, NUM_WIDTHS, largest_symbol


def test_the_code_lengths_of_a_table_satisfy_the_kraft_inequality() -> None:
    lengths = code_lengths()
    for table in range(0, NUM_TABLES, 31):
        largest = largest_symbol(table)
        shares = 2.0 ** -lengths[table, : largest + 1]
        assert shares[0] + 2 * shares[1:].sum() < 1


def test_larger_escaped_symbols_cost_more() -> None:
    row = code_lengths()[2 * NUM_WIDTHS]
    assert (np.diff(row[largest_symbol(2 * NUM_WIDTHS) + 1 :]) >= 0).all()


@pytest.mark.parametrize("draw", ["normal", "laplace"])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0, 60.0])
def test_the_chosen_table_costs_at_most_two_per_cent_more_than_the_empirical_entropy(draw: str, sigma: float) -> None:
    generator = np.random.default_rng(0)
    symbols = np.rint(getattr(generator, draw)(0, sigma, (1, 200_000))).astype(np.int32)
    histogram = row_histograms(symbols)
    _, bits = choose_tables(histogram)
    _, counts = np.unique(symbols, return_counts=True)
    entropy = -(counts * np.log2(counts / counts.sum())).sum()
    assert entropy * 0.999 < bits[0] < entropy * 1.02


def test_the_chosen_table_costs_little_more_than_the_best_table() -> None:
    generator = np.random.default_rng(1)
    for sigma in (0.2, 0.7, 3.0, 20.0):
        histogram = row_histograms(np.rint(generator.laplace(0, sigma, (4, 768))).astype(np.int32))
        _, bits = choose_tables(histogram)
        best = (code_lengths()[:, : histogram.shape[1]] @ histogram.T).min(axis=0)
        assert (bits <= best * 1.005 + 1).all()
