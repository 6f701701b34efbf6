import hashlib

import constriction
import numpy as np
import pytest
from scipy.stats import gennorm

from airlora.codec.format.tables import NUM_TABLES, NUM_WIDTHS, PRECISION_BITS, frequencies, largest_symbol

DIGEST = "cf7fcedbc9be078f8826768b9afe72244676ca70b06868e39d34e1f6359e3025"


def test_the_tables_have_not_changed() -> None:
    digest = hashlib.sha256()
    for table in range(NUM_TABLES):
        counts = frequencies(table).astype("<u4")
        digest.update(len(counts).to_bytes(4, "little") + counts.tobytes())
    assert digest.hexdigest() == DIGEST


@pytest.mark.parametrize("table", range(0, NUM_TABLES, 7))
def test_a_table_is_symmetric_and_does_not_increase_away_from_zero(table: int) -> None:
    counts = frequencies(table)
    half = counts[largest_symbol(table) : -1]
    assert counts.sum() == 1 << PRECISION_BITS
    assert (counts > 0).all()
    assert (counts[:-1] == counts[-2::-1]).all()
    assert (np.diff(half) <= 0).all()


@pytest.mark.parametrize("table", range(0, NUM_TABLES, 29))
def test_the_entropy_coder_uses_exactly_the_frequencies_of_a_table(table: int) -> None:
    # An ANS coder that holds one word decodes the symbol whose interval contains the low 24 bits of the word.
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
