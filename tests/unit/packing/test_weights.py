import numpy as np
import pytest

from airlora.adapters import ModuleComponents
from airlora.errors import SettingsError
from airlora.packing.pack import MEASURED_FLOOR, weigh_components


def module(*singular_values: float) -> ModuleComponents:
    rank = len(singular_values)
    return ModuleComponents(
        left=np.eye(4, rank, dtype=np.float32),
        singular_values=np.asarray(singular_values, dtype=np.float64),
        right=np.eye(rank, 5, dtype=np.float32),
    )


COMPONENTS = {"first": module(3.0, 1.0), "second": module(2.0, 0.0)}
MEASURED = np.asarray([[4.0, 9.0], [1.0, 16.0]])


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ("singular", [9.0, 1.0, 4.0, 0.0]),
        ("gradient", [4.0, 9.0, 1.0, 16.0]),
        ("taylor", [4.0, 9.0, 1.0, 16.0]),
        ("balanced", [4.0, 9.0, 1.0, 16.0]),
        ("path", [4.0, 9.0, 1.0, 16.0]),
        ("combined", [6.0, 3.0, 2.0, 0.0]),
    ],
)
def test_weights_are_what_the_table_says_and_sum_to_one(importance: str, expected: list[float]) -> None:
    weights = weigh_components(COMPONENTS, MEASURED, importance)
    found = np.concatenate(list(weights.values()))
    np.testing.assert_allclose(found, np.asarray(expected) / sum(expected))


def test_what_measured_nothing_keeps_a_little_by_its_size() -> None:
    weights = weigh_components(COMPONENTS, np.asarray([[0.3, -0.1], [0.1, -5.0]]), "measured")
    found = np.concatenate(list(weights.values()))
    floor = MEASURED_FLOOR * np.asarray([9.0, 1.0, 4.0, 0.0]) / 14.0
    np.testing.assert_allclose(found, (np.asarray([0.75, 0.0, 0.25, 0.0]) + floor) / (1.0 + MEASURED_FLOOR))


def test_without_measurements_only_singular_values_weigh() -> None:
    with pytest.raises(SettingsError, match="'taylor' is measured"):
        weigh_components(COMPONENTS, None, "taylor")
