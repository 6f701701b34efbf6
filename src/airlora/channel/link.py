"""Links as the environment sees them: mean SNR, bandwidth and rate per block.

A link process draws a link per episode and moves it from block to block. `LinkProcess` is the built-in one. Any class
with the members of `LinkModel` can replace it: pass an instance as `link=` to `RankAllocationEnv`, or name the class by
`--set channel.process=package.module:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from annotated_types import Interval

from airlora.channel.fading import FadingProcess, jakes_correlation, make_fading
from airlora.channel.limits import db_to_linear, linear_to_db, verify_number
from airlora.channel.rates import capacity_bps
from airlora.channel.settings import BANDWIDTH_HZ, MAX_SNR_DB, MIN_SNR_DB, SNR_DB, ChannelSettings
from airlora.errors import ChannelError, CheckpointError, SettingsError
from airlora.settings.plugins import load_named_class

__all__ = [
    "LINK_PROCESSES",
    "Link",
    "LinkModel",
    "LinkProcess",
    "LinkState",
    "Range",
    "make_link",
    "register_link_process",
]


_MAX_BITS = 2.0**60
"""Largest number of bits before a deadline. A higher one shows a wrong unit."""


@dataclass(frozen=True, slots=True)
class Link:
    """A link given by its mean SNR and its bandwidth.

    Args:
        snr_db: Mean SNR, dB.
        bandwidth_hz: Bandwidth, Hz.
    """

    snr_db: float
    bandwidth_hz: float

    def capacity_bps(self, channel: ChannelSettings) -> float:
        """Return the rate of this link by the process and the rate model of the settings, bit/s.

        Raises:
            ChannelError: A value is out of range.
            SettingsError: The settings name a link process that is not registered.
        """
        return make_link(channel).capacity_bps(self)

    def carried_bytes(self, channel: ChannelSettings, deadline_s: float) -> int:
        """Return how many whole bytes this link carries before a deadline.

        Args:
            channel: Settings with the process and the rate model.
            deadline_s: Time for the transfer, s.

        Raises:
            ChannelError: A value is out of range.
            SettingsError: The time is not above 0, or so long that the link carries 2^60 bits.
        """
        if not deadline_s > 0:
            raise SettingsError.of("deadline_s", deadline_s, "a number of seconds above 0")
        num_bits = self.capacity_bps(channel) * deadline_s
        if not num_bits < _MAX_BITS:
            raise SettingsError.of(
                "deadline_s", deadline_s, f"a time in which the link carries fewer than {_MAX_BITS:g} bits"
            )
        return int(num_bits / 8)


@dataclass(frozen=True, slots=True)
class LinkState:
    """State of a link during one block.

    Args:
        mean_snr_db: SNR at mean gain, dB.
        snr_db: SNR of this block, dB.
        bandwidth_hz: Bandwidth W, Hz.
        capacity_bps: Rate of this block, bit/s.
        gain: Complex gain h of this block.
    """

    mean_snr_db: float
    snr_db: float
    bandwidth_hz: float
    capacity_bps: float
    gain: complex = 1.0


class LinkModel(Protocol):
    """Members that the environment needs of a link process.

    A class that `channel.process` names is called with one argument, the run's `ChannelSettings`.
    """

    @property
    def state(self) -> LinkState:
        """State of the current block."""
        ...

    def reset(self, generator: np.random.Generator) -> LinkState:
        """Start an episode and return the state of its first block.

        Args:
            generator: Generator for every random draw of the episode. The process keeps it.
        """
        ...

    def step(self) -> LinkState:
        """Move to the next block and return its state."""
        ...

    def capacity_bps(self, link: Link) -> float:
        """Return the rate that a policy can expect at a given mean SNR and bandwidth, bit/s."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the process as values that JSON can hold."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`, so that the process continues as if it had not stopped."""
        ...


@dataclass(frozen=True, slots=True)
class Range:
    """Interval that a quantity is drawn from, uniform in decibels.

    An SNR in dB is drawn uniformly. A bandwidth in Hz is drawn log-uniformly.
    """

    low: float
    high: float


class LinkProcess:
    """Link whose mean SNR and bandwidth are drawn per episode and whose gain fades from block to block.

    The state holds the SNR of the current block, mean_snr_db + 20 log10 |h|, limited to -50 to 100 dB.

    Args:
        channel: Settings of the link: SNRs, bandwidths, fading, Doppler shift and rate model.
        snr_db: Mean SNR, dB: one value, several to draw from, or a `Range`. None takes those of the settings.
        bandwidth_hz: Bandwidth, Hz: one value, several to draw from, or a `Range`. None takes those of the settings.

    Raises:
        ChannelError: A value is out of range, or a list is empty.

    Examples:
        >>> link = LinkProcess(ChannelSettings(snr_db=[0.0], bandwidth_hz=[1e6]))
        >>> link.reset(np.random.default_rng(0)).capacity_bps
        1000000.0
    """

    def __init__(
        self,
        channel: ChannelSettings,
        *,
        snr_db: float | Sequence[float] | Range | None = None,
        bandwidth_hz: float | Sequence[float] | Range | None = None,
    ) -> None:
        self.channel = channel
        self._snrs_db = _verify_spread("snr_db", channel.snr_db if snr_db is None else snr_db, SNR_DB)
        self._bandwidths_hz = _verify_spread(
            "bandwidth_hz", channel.bandwidth_hz if bandwidth_hz is None else bandwidth_hz, BANDWIDTH_HZ
        )
        # A copy of settings may hold values that were never validated: these calls check them.
        self._fading = make_fading(channel)
        jakes_correlation(channel.doppler_hz, channel.block_s)
        capacity_bps(channel, mean_snr_db=0.0, bandwidth_hz=1.0)
        self._process: FadingProcess | None = None
        self._state: LinkState | None = None

    @property
    def state(self) -> LinkState:
        """State of the current block; raises `ChannelError` before the first `reset`."""
        return self._started()[1]

    def reset(self, generator: np.random.Generator) -> LinkState:
        """Draw mean SNR, bandwidth and gain of an episode, and return the state of its first block.

        Args:
            generator: Generator of the draws.
        """
        mean_snr_db = _draw(self._snrs_db, generator, _uniform)
        bandwidth_hz = _draw(self._bandwidths_hz, generator, _log_uniform)
        self._process = self._new_process(generator)
        self._state = self._observe(mean_snr_db, bandwidth_hz, self._process.gain)
        return self._state

    def step(self) -> LinkState:
        """Move to the next block and return its state; raises `ChannelError` before the first `reset`."""
        process, last = self._started()
        self._state = self._observe(last.mean_snr_db, last.bandwidth_hz, process.step())
        return self._state

    def capacity_bps(self, link: Link) -> float:
        """Return the rate of a link by the rate model of the settings, bit/s; raises `ChannelError`."""
        return capacity_bps(self.channel, mean_snr_db=link.snr_db, bandwidth_hz=link.bandwidth_hz)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the process as values that JSON can hold.

        Raises:
            ChannelError: `reset` has not been called.
        """
        process, state = self._started()
        return {
            "mean_snr_db": state.mean_snr_db,
            "bandwidth_hz": state.bandwidth_hz,
            "fading": process.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict` of a process with the same settings. It then continues bit for bit.

        Raises:
            CheckpointError: The state is damaged. The process is unchanged.
        """
        try:
            mean_snr_db, bandwidth_hz, fading = state["mean_snr_db"], state["bandwidth_hz"], state["fading"]
            verify_number("mean_snr_db", mean_snr_db, SNR_DB)
            verify_number("bandwidth_hz", bandwidth_hz, BANDWIDTH_HZ)
        except (ChannelError, KeyError, TypeError) as error:
            raise CheckpointError(f"state of the link is damaged: {error!r}") from error
        # The loaded state replaces everything that this seed determines.
        process = self._new_process(np.random.default_rng(0))
        process.load_state_dict(fading)
        self._process = process
        self._state = self._observe(mean_snr_db, bandwidth_hz, process.gain)

    def _started(self) -> tuple[FadingProcess, LinkState]:
        if self._process is None or self._state is None:
            raise ChannelError("the link has no state yet: call reset first")
        return self._process, self._state

    def _new_process(self, generator: np.random.Generator) -> FadingProcess:
        channel = self.channel
        return FadingProcess(self._fading, doppler_hz=channel.doppler_hz, block_s=channel.block_s, generator=generator)

    def _observe(self, mean_snr_db: float, bandwidth_hz: float, gain: complex) -> LinkState:
        snr_db = _faded_snr_db(mean_snr_db, gain)
        capacity = capacity_bps(self.channel, mean_snr_db=mean_snr_db, bandwidth_hz=bandwidth_hz, snr_db=snr_db)
        return LinkState(mean_snr_db, snr_db, bandwidth_hz, capacity, gain)


LINK_PROCESSES: dict[str, Callable[[ChannelSettings], LinkModel]] = {}
"""Link processes that `channel.process` can name, beside the built-in one. `register_link_process` adds to them."""


def register_link_process(name: str, factory: Callable[[ChannelSettings], LinkModel] | None = None) -> None:
    """Allow the setting `channel.process` to name a link process.

    The command line calls this function for `--set channel.process=NAME`. Loading a file of settings never does: a
    file cannot make airlora import a class.

    Args:
        name: Value of `channel.process`: `package.module:Class`, or any other name with a factory.
        factory: Class or function that makes the process from the settings. None imports the class that `name` names.

    Raises:
        SettingsError: The class cannot be imported, or it lacks a method of `LinkModel`.
    """
    methods = ("reset", "step", "capacity_bps", "state_dict", "load_state_dict")
    LINK_PROCESSES[name] = factory or load_named_class(name, "channel.process", methods)


def make_link(channel: ChannelSettings) -> LinkModel:
    """Return the link process that the settings name.

    Raises:
        ChannelError: A value of the settings is out of range.
        SettingsError: `channel.process` is not registered in this process of Python.
    """
    name = channel.process
    if name is None:
        return LinkProcess(channel)
    if name not in LINK_PROCESSES:
        raise SettingsError(
            f"channel.process = {name!r}: allowed is a class that the command line names; a class that only a file "
            f"names is not imported. Name it again with --set channel.process={name}, or in Python by "
            f"airlora.channel.register_link_process({name!r})"
        )
    return LINK_PROCESSES[name](channel)


def _faded_snr_db(mean_snr_db: float, gain: complex) -> float:
    # The floor keeps the decibels of a gain of 0 finite.
    faded_db = linear_to_db(max(abs(gain) ** 2, db_to_linear(MIN_SNR_DB - MAX_SNR_DB)))
    return min(max(mean_snr_db + faded_db, MIN_SNR_DB), MAX_SNR_DB)


def _verify_spread(name: str, spread: float | Sequence[float] | Range, allowed: Interval) -> tuple[float, ...] | Range:
    if isinstance(spread, Range):
        verify_number(f"{name}.low", spread.low, allowed)
        verify_number(f"{name}.high", spread.high, allowed)
        if spread.low > spread.high:
            raise ChannelError.of(name, spread, "a range whose low is not above its high")
        return spread
    values = tuple(spread) if isinstance(spread, Sequence) and not isinstance(spread, str) else (spread,)
    if not values:
        raise ChannelError.of(name, spread, "one value or more")
    for value in values:
        verify_number(name, value, allowed)
    return tuple(float(value) for value in values)


def _draw(
    spread: tuple[float, ...] | Range, generator: np.random.Generator, within: Callable[[Range, float], float]
) -> float:
    if isinstance(spread, Range):
        return min(spread.high, within(spread, generator.random()))  # rounding may exceed the end
    return spread[int(generator.integers(len(spread)))]


def _uniform(spread: Range, share: float) -> float:
    return spread.low + share * (spread.high - spread.low)


def _log_uniform(spread: Range, share: float) -> float:
    return float(spread.low * (spread.high / spread.low) ** share)
