import json

import numpy as np
import pytest

from airlora.errors import SettingsError
from airlora.observation import NUM_CONTEXT, Observation, ObservationSpec

SPEC = ObservationSpec(num_modules=3, r_max=8, snr_db_range=(-5.0, 15.0), bandwidth_hz_range=(1e5, 1e7))


def observation(**changes: object) -> Observation:
    values: dict[str, object] = {
        "snr_db": 5.0,
        "bandwidth_hz": 1e6,
        "entropy_nats": 2.5,
        "oov_rate": 0.5,
        "ranks": np.asarray([0, 4, 8]),
        "budget_params": 100,
    }
    return Observation(**(values | changes))  # type: ignore[arg-type]


def test_middle_of_every_range_maps_to_zero() -> None:
    vector = SPEC.to_vector(observation())
    assert vector.dtype == np.float32
    assert vector.shape == (SPEC.size,) == (NUM_CONTEXT + 3,)
    np.testing.assert_allclose(vector, [0, 0, 0, 0, -1, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("field", "low", "high", "index"),
    [
        ("snr_db", -5.0, 15.0, 0),
        ("bandwidth_hz", 1e5, 1e7, 1),
        ("entropy_nats", 0.0, 5.0, 2),
        ("oov_rate", 0.0, 1.0, 3),
    ],
)
def test_ends_of_every_range_map_to_minus_one_and_one(field: str, low: float, high: float, index: int) -> None:
    assert SPEC.to_vector(observation(**{field: low}))[index] == pytest.approx(-1.0)
    assert SPEC.to_vector(observation(**{field: high}))[index] == pytest.approx(1.0)


def test_values_outside_the_range_stay_distinct_up_to_the_limit() -> None:
    near, far = (SPEC.to_vector(observation(snr_db=snr_db))[0] for snr_db in (25.0, 100.0))
    assert 1.0 < near < far == ObservationSpec.LIMIT


def test_specification_survives_json() -> None:
    assert ObservationSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_modules", 0),
        ("r_max", 0),
        ("snr_db_range", (5.0, 5.0)),
        ("bandwidth_hz_range", (0.0, 1.0)),
        ("bandwidth_hz_range", (2.0, 1.0)),
        ("entropy_max_nats", 0.0),
    ],
)
def test_empty_ranges_and_counts_below_one_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        ObservationSpec(**({"num_modules": 1, "r_max": 1} | {name: value}))  # type: ignore[arg-type]


def test_observations_are_equal_if_all_fields_are() -> None:
    assert observation() == observation(ranks=np.asarray([0, 4, 8]))
    assert observation() != observation(ranks=np.asarray([0, 4, 7]))
    assert observation() != observation(snr_db=5.1)
    assert observation() != "observation"
