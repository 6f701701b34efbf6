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


def test_the_middle_of_every_range_is_zero() -> None:
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
def test_the_ends_of_every_range_are_minus_one_and_one(field: str, low: float, high: float, index: int) -> None:
    assert SPEC.to_vector(observation(**{field: low}))[index] == pytest.approx(-1.0)
    assert SPEC.to_vector(observation(**{field: high}))[index] == pytest.approx(1.0)


def test_beyond_the_range_is_told_apart_and_then_clipped() -> None:
    near, far = (SPEC.to_vector(observation(snr_db=snr_db))[0] for snr_db in (25.0, 100.0))
    assert 1.0 < near < far == ObservationSpec.LIMIT


def test_round_trip_through_json() -> None:
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
def test_refuses_empty_ranges(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        ObservationSpec(**({"num_modules": 1, "r_max": 1} | {name: value}))  # type: ignore[arg-type]


def test_two_observations_are_equal_when_all_is() -> None:
    assert observation() == observation(ranks=np.asarray([0, 4, 8]))
    assert observation() != observation(ranks=np.asarray([0, 4, 7]))
    assert observation() != observation(snr_db=5.1)
    assert observation() != "observation"
