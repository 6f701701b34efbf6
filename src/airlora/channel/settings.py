"""Settings of the link."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from airlora.settings.fields import BandwidthHz, NonNegative, Positive, Section, SnrDb

__all__ = ["ChannelSettings"]


class ChannelSettings(Section):
    """Settings of the radio link (Eq. 4 to 8)."""

    snr_db: list[SnrDb] = Field([-5.0, 0.0, 5.0, 10.0, 15.0], min_length=1)
    """Mean SNRs, dB. Each episode draws one."""
    bandwidth_hz: list[BandwidthHz] = Field([5e5], min_length=1)
    """Bandwidths, Hz. Each episode draws one."""
    fading: Literal["none", "rayleigh", "rician"] = "none"
    """Fading of the channel gain from block to block."""
    k_factor_db: Annotated[float, Field(ge=-50, le=50)] | None = None
    """Rician K factor, dB. Required with `rician` fading."""
    doppler_hz: NonNegative = 0.0
    """Largest Doppler shift, Hz. With 0 the gain stays the same for an episode."""
    block_s: Positive = 1.0
    """Length of a fading block, s. Each step of the environment moves on by one block."""
    rate: Literal["shannon", "ergodic", "outage"] = "shannon"
    """Rate model of Eq. 5: the rate at the SNR of the block (`shannon`), its mean over the fading (`ergodic`), or
    the rate that fails with probability `outage_epsilon` (`outage`)."""
    outage_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Probability of an outage, for the rate model `outage`."""
    deadline_s: Positive = 1.0
    """Deadline of a transfer, s (T_max of Eq. 7)."""
    bits_per_param: Annotated[float, Field(gt=0, le=64)] = 32.0
    """Bits that each parameter takes on the link (b of Eq. 6)."""
    deadline_mode: Literal["price", "project", "penalty"] = "project"
    """Treatment of a rank pattern that exceeds the deadline: `price` only counts its cost, as the paper does;
    `project` truncates it to the budget; `penalty` lowers its reward."""
    penalty_weight: NonNegative = 1.0
    """Reward lost per unit of η above 1, for the mode `penalty`."""

    @model_validator(mode="after")
    def _rician_needs_k(self) -> Self:
        if self.fading == "rician" and self.k_factor_db is None:
            raise ValueError("channel.k_factor_db is needed when channel.fading is 'rician'")
        return self
