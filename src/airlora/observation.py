"""Observation of a policy: the paper's state s_t = {SNR, W, H, rho, r} (IV-A1).

`Observation` holds the quantities in their units, as planners need them. `ObservationSpec` maps an observation to the
normalised vector that networks and Gymnasium use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from airlora.errors import SettingsError

__all__ = ["NUM_CONTEXT", "FloatArray", "IntArray", "Observation", "ObservationSpec"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

NUM_CONTEXT = 4
"""Number of entries before the ranks in the vector: SNR, bandwidth, lexical entropy and OOV rate."""


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """The state s_t with its quantities in physical units.

    Args:
        snr_db: SNR of the link as known to the transmitter, dB.
        bandwidth_hz: Bandwidth W of the link, Hz, > 0.
        entropy_nats: Lexical entropy H of the text, nats per word, >= 0.
        oov_rate: Out-of-vocabulary rate rho of the text, 0 to 1.
        ranks: Current ranks r_t, int64 [num_modules].
        budget_params: Number of adapter parameters that the link carries before its deadline at this SNR (Eq. 7 solved
            for the count), after the head; >= 0. Planners use it; the paper's state lacks it.
    """

    snr_db: float
    bandwidth_hz: float
    entropy_nats: float
    oov_rate: float
    ranks: IntArray
    budget_params: int

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Observation):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # arrays are not hashable


@dataclass(frozen=True, slots=True)
class ObservationSpec:
    """Mapping from an `Observation` to a normalised vector.

    | index | quantity | range mapped linearly to [-1, 1] |
    |---|---|---|
    | 0 | SNR, dB | `snr_db_range` |
    | 1 | log10 of the bandwidth, Hz | log10 of `bandwidth_hz_range` |
    | 2 | lexical entropy, nats per word | [0, `entropy_max_nats`] |
    | 3 | OOV rate | [0, 1] |
    | 4 ... | rank per module | [0, r_max] |

    Values outside the ranges map outside [-1, 1] and are clipped at `-LIMIT` and `LIMIT`. A policy can therefore
    distinguish links slightly outside the ranges.

    Args:
        num_modules: Number of adapted modules, 6L in the paper.
        r_max: Largest rank, >= 1.
        snr_db_range: Lowest and highest expected SNR, dB.
        bandwidth_hz_range: Lowest and highest expected bandwidth, Hz, > 0.
        entropy_max_nats: Largest expected lexical entropy, nats per word, > 0.

    Raises:
        SettingsError: A count is below 1 or a range is empty.
    """

    num_modules: int
    r_max: int
    snr_db_range: tuple[float, float] = (-5.0, 15.0)
    bandwidth_hz_range: tuple[float, float] = (1e5, 1e8)
    entropy_max_nats: float = 5.0

    LIMIT = 4.0

    def __post_init__(self) -> None:
        if self.num_modules < 1:
            raise SettingsError.of("num_modules", self.num_modules, "a whole number, 1 or more")
        if self.r_max < 1:
            raise SettingsError.of("r_max", self.r_max, "a whole number, 1 or more")
        if not self.snr_db_range[0] < self.snr_db_range[1]:
            raise SettingsError.of("snr_db_range", self.snr_db_range, "two numbers, the lower first")
        if not 0 < self.bandwidth_hz_range[0] < self.bandwidth_hz_range[1]:
            raise SettingsError.of("bandwidth_hz_range", self.bandwidth_hz_range, "two numbers above 0, lower first")
        if not self.entropy_max_nats > 0:
            raise SettingsError.of("entropy_max_nats", self.entropy_max_nats, "a number above 0")

    @property
    def size(self) -> int:
        """Length of the vector: 4 + num_modules."""
        return NUM_CONTEXT + self.num_modules

    def to_vector(self, observation: Observation) -> FloatArray:
        """Return the normalised state, float32 [4 + num_modules], with entries from -LIMIT to LIMIT."""
        low_hz, high_hz = (math.log10(value) for value in self.bandwidth_hz_range)
        context = (
            _to_unit(observation.snr_db, *self.snr_db_range),
            _to_unit(math.log10(observation.bandwidth_hz), low_hz, high_hz),
            _to_unit(observation.entropy_nats, 0.0, self.entropy_max_nats),
            _to_unit(observation.oov_rate, 0.0, 1.0),
        )
        ranks = 2.0 * np.asarray(observation.ranks, dtype=np.float64) / self.r_max - 1.0
        vector = np.concatenate([np.asarray(context), ranks])
        clipped: FloatArray = np.clip(vector, -self.LIMIT, self.LIMIT).astype(np.float32)
        return clipped

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-compatible values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ObservationSpec:
        """Return the specification from the result of `to_dict`."""
        given = dict(value)
        given["snr_db_range"] = tuple(given["snr_db_range"])
        given["bandwidth_hz_range"] = tuple(given["bandwidth_hz_range"])
        return cls(**given)


def _to_unit(value: float, low: float, high: float) -> float:
    return 2.0 * (value - low) / (high - low) - 1.0
