"""Which devices may take a new release already.

The answer can only hold a device back: what it installs is decided by signatures alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from airlora.cloud.reports import ReportStore
from airlora.errors import SettingsError

__all__ = ["Rollout"]


@dataclass(frozen=True)
class Rollout:
    """Who comes first, and when to stop.

    Args:
        percent: Of the devices, drawn by their name and the release's version; 100: all.
        first: Devices that are always among them.
        stop_share: Nobody else goes on once a larger share of those that tried it had to refuse it.
        least_tried: Before so many have tried it nothing is stopped.

    Raises:
        SettingsError: A number is out of range.
    """

    percent: float = 100.0
    first: tuple[str, ...] = ()
    stop_share: float = 0.1
    least_tried: int = 5

    def __post_init__(self) -> None:
        if not 0.0 <= self.percent <= 100.0:
            raise SettingsError.of("rollout percent", self.percent, "0 to 100")
        if not 0.0 <= self.stop_share <= 1.0:
            raise SettingsError.of("rollout stop share", self.stop_share, "0 to 1")
        if self.least_tried < 1:
            raise SettingsError.of("rollout least tried", self.least_tried, "1 or more")

    def decide(self, device: str, version: int, reports: ReportStore) -> tuple[bool, str]:
        """Return whether a device may take a release, and why not."""
        tried, failed = reports.outcome(version)
        if tried >= self.least_tried and failed > self.stop_share * tried:
            return False, f"release {version} failed on {failed} of {tried} devices and is stopped"
        if device in self.first or _draw(device, version) * 100.0 < self.percent:
            return True, ""
        return False, f"release {version} is with {self.percent:g} % of the devices so far"


def _draw(device: str, version: int) -> float:
    """Return a number from 0 to below 1 that belongs to a device and a release.

    >>> 0 <= _draw("pump-7", 3) < 1, _draw("pump-7", 3) == _draw("pump-7", 3)
    (True, True)
    """
    digest = hashlib.sha256(f"{version}:{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
