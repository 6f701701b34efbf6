"""The link as the environment meets it: an SNR, a bandwidth and a rate per block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from airlora.channel.fading import FadingKind, FadingModel, FadingProcess, jakes_correlation
from airlora.channel.limits import (
    MAX_SNR_DB,
    MIN_SNR_DB,
    db_to_linear,
    linear_to_db,
    verify_bandwidth_hz,
    verify_choice,
    verify_outage_epsilon,
    verify_snr_db,
)
from airlora.channel.rates import RateModel, capacity_bps
from airlora.errors import ChannelError, CheckpointError

__all__ = ["LinkProcess", "LinkState", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """Every value from `low` to `high`, each decibel equally likely.

    That is uniform for an SNR in dB and log-uniform for a bandwidth in Hz.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LinkState:
    """The link during one block.

    Args:
        mean_snr_db: SNR at mean gain, dB; the same for an episode.
        snr_db: SNR of this block, mean_snr_db + 20 log10 |h|, dB, kept within -50 to 100.
        bandwidth_hz: W, Hz; the same for an episode.
        capacity_bps: Rate under the process's rate model, bit/s.
        gain: h of this block.
    """

    mean_snr_db: float
    snr_db: float
    bandwidth_hz: float
    capacity_bps: float
    gain: complex


class LinkProcess:
    """A link whose mean SNR and bandwidth are drawn per episode and whose gain fades per block.

    The state is the true one of this block. A delay of the transmitter's channel knowledge belongs between `step` and
    whoever reads the state: hand on the state of some steps ago and keep this one for the transfer itself.

    Args:
        snr_db: Mean SNR, dB: one value, several to draw from, or a `Range`.
        bandwidth_hz: Bandwidth, Hz: one value, several to draw from, or a `Range`.
        fading: "none", "rayleigh" or "rician".
        k_factor_db: Rician K factor, dB.
        doppler_hz: Largest Doppler shift, Hz.
        block_s: Length of a block, s.
        rate: "shannon" (rate at this block's SNR), "ergodic" or "outage" (rate at the mean SNR).
        outage_epsilon: Probability of an outage, for "outage".

    Raises:
        ChannelError: A value is outside its limits, or there is nothing to draw from.

    >>> link = LinkProcess(snr_db=[0.0], bandwidth_hz=1e6)
    >>> link.reset(np.random.default_rng(0)).capacity_bps
    1000000.0
    """

    def __init__(
        self,
        *,
        snr_db: float | Sequence[float] | Range,
        bandwidth_hz: float | Sequence[float] | Range,
        fading: FadingKind = "none",
        k_factor_db: float | None = None,
        doppler_hz: float = 0.0,
        block_s: float = 1.0,
        rate: RateModel = "shannon",
        outage_epsilon: float = 0.1,
    ) -> None:
        self._snrs_db = _verify_spread("snr_db", snr_db, verify_snr_db)
        self._bandwidths_hz = _verify_spread("bandwidth_hz", bandwidth_hz, verify_bandwidth_hz)
        self.fading = FadingModel(fading, k_factor_db)
        jakes_correlation(doppler_hz, block_s)
        verify_choice("rate", rate, get_args(RateModel))
        verify_outage_epsilon(outage_epsilon)
        self.rate: RateModel = rate
        self._doppler_hz = doppler_hz
        self._block_s = block_s
        self._outage_epsilon = outage_epsilon
        self._process: FadingProcess | None = None
        self._state: LinkState | None = None

    @property
    def state(self) -> LinkState:
        """The link during this block; raises `ChannelError` before the first `reset`."""
        return self._begun()[1]

    def reset(self, generator: np.random.Generator) -> LinkState:
        """Begin an episode: draw mean SNR, bandwidth and a stationary gain; return the first block's state."""
        mean_snr_db = _draw(self._snrs_db, generator, _uniform)
        bandwidth_hz = _draw(self._bandwidths_hz, generator, _log_uniform)
        process = self._new_process(generator)
        self._process = process
        self._state = self._observe(mean_snr_db, bandwidth_hz, process.gain)
        return self._state

    def step(self) -> LinkState:
        """Move to the next block of the episode and return its state; raises `ChannelError` before `reset`."""
        process, last = self._begun()
        self._state = self._observe(last.mean_snr_db, last.bandwidth_hz, process.step())
        return self._state

    def state_dict(self) -> dict[str, Any]:
        """Return what JSON can hold and `load_state_dict` needs to go on bit for bit.

        Raises:
            ChannelError: There has been no `reset` yet.
        """
        process, state = self._begun()
        return {
            "mean_snr_db": state.mean_snr_db,
            "bandwidth_hz": state.bandwidth_hz,
            "fading": process.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, on a process with the same settings.

        Raises:
            CheckpointError: The state is damaged; the process stays as it was.
        """
        try:
            mean_snr_db, bandwidth_hz, fading = state["mean_snr_db"], state["bandwidth_hz"], state["fading"]
            verify_snr_db(mean_snr_db, "mean_snr_db")
            verify_bandwidth_hz(bandwidth_hz)
        except (ChannelError, KeyError, TypeError) as error:
            raise CheckpointError(f"state of the link is damaged: {error!r}") from error
        # The seed does not matter: the loaded state replaces all that it gave.
        process = self._new_process(np.random.default_rng(0))
        process.load_state_dict(fading)
        self._process = process
        self._state = self._observe(mean_snr_db, bandwidth_hz, process.gain)

    def _begun(self) -> tuple[FadingProcess, LinkState]:
        if self._process is None or self._state is None:
            raise ChannelError("the link has no state yet: call reset first")
        return self._process, self._state

    def _new_process(self, generator: np.random.Generator) -> FadingProcess:
        return FadingProcess(
            self.fading.kind,
            k_factor_db=self.fading.k_factor_db,
            doppler_hz=self._doppler_hz,
            block_s=self._block_s,
            generator=generator,
        )

    def _observe(self, mean_snr_db: float, bandwidth_hz: float, gain: complex) -> LinkState:
        snr_db = _faded_snr_db(mean_snr_db, gain)
        capacity = capacity_bps(
            self.rate,
            mean_snr_db=mean_snr_db,
            bandwidth_hz=bandwidth_hz,
            snr_db=snr_db,
            fading=self.fading,
            outage_epsilon=self._outage_epsilon,
        )
        return LinkState(mean_snr_db, snr_db, bandwidth_hz, capacity, gain)


def _faded_snr_db(mean_snr_db: float, gain: complex) -> float:
    """Return mean + 20 log10 |h|; the floor keeps a gain of 0 finite."""
    faded_db = linear_to_db(max(abs(gain) ** 2, db_to_linear(MIN_SNR_DB - MAX_SNR_DB)))
    return min(max(mean_snr_db + faded_db, MIN_SNR_DB), MAX_SNR_DB)


def _verify_spread(
    name: str, spread: float | Sequence[float] | Range, verify: Callable[[object, str], None]
) -> tuple[float, ...] | Range:
    if isinstance(spread, Range):
        verify(spread.low, f"{name}.low")
        verify(spread.high, f"{name}.high")
        if spread.low > spread.high:
            raise ChannelError.of(name, spread, "a range whose low is not above its high")
        return spread
    values = tuple(spread) if isinstance(spread, Sequence) and not isinstance(spread, str) else (spread,)
    if not values:
        raise ChannelError.of(name, spread, "one value or more")
    for value in values:
        verify(value, name)
    return tuple(float(value) for value in values)


def _draw(
    spread: tuple[float, ...] | Range, generator: np.random.Generator, within: Callable[[Range, float], float]
) -> float:
    if isinstance(spread, Range):
        return min(spread.high, within(spread, generator.random()))  # rounding may pass the end
    return spread[int(generator.integers(len(spread)))]


def _uniform(spread: Range, share: float) -> float:
    return spread.low + share * (spread.high - spread.low)


def _log_uniform(spread: Range, share: float) -> float:
    return float(spread.low * (spread.high / spread.low) ** share)
