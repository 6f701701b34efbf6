"""Settings of the radio link, with the names and ranges that the rest of the package checks values against."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from annotated_types import Interval
from pydantic import Field, model_validator

from airlora.settings.fields import NonNegative, Section

__all__ = ["ChannelSettings", "DeadlineMode", "FadingKind", "RateModel"]

FadingKind = Literal["none", "rayleigh", "rician"]
RateModel = Literal["shannon", "ergodic", "outage"]
DeadlineMode = Literal["price", "project", "penalty"]

MIN_SNR_DB, MAX_SNR_DB = -50.0, 100.0

SNR_DB = Interval(ge=MIN_SNR_DB, le=MAX_SNR_DB)
BANDWIDTH_HZ = Interval(gt=0, le=1e12)
CAPACITY_BPS = Interval(gt=0, le=1e15)
K_FACTOR_DB = Interval(ge=-50, le=50)
DOPPLER_HZ = Interval(ge=0, le=1e9)
BLOCK_S = Interval(gt=0, le=1e7)
OUTAGE_EPSILON = Interval(gt=0, lt=1)
DEADLINE_S = Interval(gt=0, le=1e7)
BITS_PER_PARAM = Interval(gt=0, le=64)


class ChannelSettings(Section):
    """Settings of the radio link (Eq. 4 to 8)."""

    process: str | None = None
    """Link process that draws and moves the link: none for the built-in `LinkProcess`, or `package.module:Class`. The
    class is imported only if `--set` names it. A run that was trained with one needs it named again."""
    snr_db: list[Annotated[float, SNR_DB]] = Field([-5.0, 0.0, 5.0, 10.0, 15.0], min_length=1)
    """Mean SNRs, dB. Each episode draws one."""
    bandwidth_hz: list[Annotated[float, BANDWIDTH_HZ]] = Field([5e5], min_length=1)
    """Bandwidths, Hz. Each episode draws one."""
    fading: FadingKind = "none"
    """Fading of the channel gain from block to block."""
    k_factor_db: Annotated[float, K_FACTOR_DB] | None = None
    """Rician K factor, dB. Required with `rician` fading."""
    doppler_hz: Annotated[float, DOPPLER_HZ] = 0.0
    """Largest Doppler shift, Hz. With 0 the gain stays the same for an episode."""
    block_s: Annotated[float, BLOCK_S] = 1.0
    """Length of a fading block, s. Each step of the environment moves on by one block."""
    rate: RateModel = "shannon"
    """Rate model of Eq. 5: the rate at the SNR of the block (`shannon`), its mean over the fading (`ergodic`), or
    the rate that fails with probability `outage_epsilon` (`outage`)."""
    outage_epsilon: Annotated[float, OUTAGE_EPSILON] = 0.1
    """Probability of an outage, for the rate model `outage`."""
    deadline_s: Annotated[float, DEADLINE_S] = 1.0
    """Deadline of a transfer, s (T_max of Eq. 7)."""
    bits_per_param: Annotated[float, BITS_PER_PARAM] = 32.0
    """Bits that each parameter takes on the link (b of Eq. 6)."""
    deadline_mode: DeadlineMode = "project"
    """Treatment of a rank pattern that exceeds the deadline: `price` only counts its cost, as the paper does;
    `project` truncates it to the budget; `penalty` lowers its reward."""
    penalty_weight: NonNegative = 1.0
    """Reward lost per unit of η above 1, for the mode `penalty`."""

    @model_validator(mode="after")
    def _rician_needs_k(self) -> Self:
        if self.fading == "rician" and self.k_factor_db is None:
            raise ValueError("channel.k_factor_db is needed when channel.fading is 'rician'")
        return self
