import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.bench.synthetic.max_plus import Curve, combine, leaf_curve

SEEDS = st.integers(0, 2**32 - 1)


def tables_of(seed: int) -> list[tuple[np.ndarray, list[int]]]:
    """Return one to four tables of one or two modules that neither rise nor fall, with the units of their axes."""
    generator = np.random.default_rng(seed)
    tables = []
    for _ in range(generator.integers(1, 5)):
        axes = generator.integers(1, 3)
        table = generator.normal(size=generator.integers(1, 4, axes))
        tables.append((table, generator.integers(1, 4, axes).tolist()))
    return tables


def worths_within(tables: list[tuple[np.ndarray, list[int]]], units: int) -> list[float]:
    """Return the worth of every combination that takes at most so many units."""
    found = []
    for entries in itertools.product(*(np.ndindex(table.shape) for table, _ in tables)):
        taken = sum(int(np.dot(entry, cost)) for entry, (_, cost) in zip(entries, tables, strict=True))
        if taken <= units:
            found.append(sum(float(table[entry]) for entry, (table, _) in zip(entries, tables, strict=True)))
    return found


def verify_trace(curve: Curve, tables: list[tuple[np.ndarray, list[int]]]) -> None:
    """Ranks that are traced back fit their units and have the value of the curve."""
    for units, value in enumerate(curve.values):
        ranks = curve.ranks_at(units).tolist()
        worth, taken = 0.0, 0
        for table, cost in tables:
            own, ranks = ranks[: table.ndim], ranks[table.ndim :]
            worth += float(table[tuple(own)])
            taken += int(np.dot(own, cost))
        assert ranks == []
        assert taken <= units
        assert worth == pytest.approx(value)


@given(SEEDS)
def test_the_curve_is_the_best_of_all_combinations(seed: int) -> None:
    tables = tables_of(seed)
    curve = combine([leaf_curve(table, cost) for table, cost in tables])
    assert curve.values.tolist() == pytest.approx([max(worths_within(tables, u)) for u in range(len(curve.values))])
    verify_trace(curve, tables)


@given(SEEDS)
def test_more_units_are_never_worth_less(seed: int) -> None:
    values = combine([leaf_curve(table, cost) for table, cost in tables_of(seed)]).values
    assert (np.diff(values) >= 0).all()


@given(SEEDS)
def test_an_increasing_function_changes_values_and_no_choice(seed: int) -> None:
    curve = combine([leaf_curve(table, cost) for table, cost in tables_of(seed)])
    applied = curve.apply(np.exp)
    assert np.array_equal(applied.values, np.exp(curve.values))
    assert all(np.array_equal(applied.ranks_at(u), curve.ranks_at(u)) for u in range(len(curve.values)))


def test_joining_by_hand() -> None:
    # Two units for 3.0, or one unit each for 2.0 and another 0.5.
    curve = combine([leaf_curve(np.array([0.0, 3.0]), [2]), leaf_curve(np.array([0.0, 2.0, 2.5]), [1])])
    assert curve.values.tolist() == [0.0, 2.0, 3.0, 5.0, 5.5]
    assert [curve.ranks_at(units).tolist() for units in range(5)] == [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]]
