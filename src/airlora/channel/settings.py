"""Settings of the link."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from airlora.settings.fields import BandwidthHz, NonNegative, Positive, Section, SnrDb

__all__ = ["ChannelSettings"]


class ChannelSettings(Section):
    """The link (Eq. 4-8)."""

    snr_db: list[SnrDb] = Field([-5.0, 0.0, 5.0, 10.0, 15.0], min_length=1, description="mean SNRs drawn from")
    bandwidth_hz: list[BandwidthHz] = Field([5e5], min_length=1, description="bandwidths drawn from")
    fading: Literal["none", "rayleigh", "rician"] = "none"
    k_factor_db: Annotated[float, Field(ge=-50, le=50)] | None = None
    doppler_hz: NonNegative = 0.0
    block_s: Positive = 1.0
    rate: Literal["shannon", "ergodic", "outage"] = "shannon"
    outage_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1
    deadline_s: Positive = 1.0
    bits_per_param: Annotated[float, Field(gt=0, le=64)] = 32.0
    deadline_mode: Literal["price", "project", "penalty"] = Field("project", description="`price` is the paper's")
    penalty_weight: NonNegative = Field(1.0, description="reward lost per unit of eta above 1, mode `penalty`")

    @model_validator(mode="after")
    def _rician_needs_k(self) -> Self:
        if self.fading == "rician" and self.k_factor_db is None:
            raise ValueError("channel.k_factor_db is needed when channel.fading is 'rician'")
        return self
