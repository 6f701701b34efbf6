"""A link that somebody names, beside those that the environment draws."""

from __future__ import annotations

from dataclasses import dataclass

from airlora.channel import ChannelSettings, FadingModel, capacity_bps

__all__ = ["Link"]


@dataclass(frozen=True, slots=True)
class Link:
    """A link by its mean SNR and its bandwidth.

    Args:
        snr_db: Mean SNR, dB.
        bandwidth_hz: Bandwidth, Hz.
    """

    snr_db: float
    bandwidth_hz: float

    def capacity_bps(self, channel: ChannelSettings) -> float:
        """Return the rate of Eq. 5 by the settings' rate model, bit/s; raises `ChannelError`."""
        return capacity_bps(
            channel.rate,
            mean_snr_db=self.snr_db,
            bandwidth_hz=self.bandwidth_hz,
            fading=FadingModel(channel.fading, channel.k_factor_db),
            outage_epsilon=channel.outage_epsilon,
        )
