"""Which devices may take a new release already.

The answer can only hold a device back: what it installs is decided by signatures alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from airlora.delivery.server.reports import ReportStore
from airlora.errors import SettingsError

__all__ = ["Rollout"]


@dataclass(frozen=True)
class Rollout:
    """Who comes first, and when to stop.

    Args:
        percent: Of the devices, drawn by their name and the release; 100: all.
        first: Devices that are always among them.
        groups: Patterns of names, such as `lab-*`, and the percentage of the devices that they match; the first that
            matches counts, and `percent` for those that none does.
        stop_share: Nobody else goes on once a larger share of those that tried it had to refuse it.
        least_tried: Before so many have tried it nothing is stopped.

    Raises:
        SettingsError: A number is out of range.
    """

    percent: float = 100.0
    first: tuple[str, ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    stop_share: float = 0.1
    least_tried: int = 5

    def __post_init__(self) -> None:
        for name, percent in (("", self.percent), *self.groups):
            if not 0.0 <= percent <= 100.0:
                raise SettingsError.of(f"rollout percent{name and f' of {name}'}", percent, "0 to 100")
        if not 0.0 <= self.stop_share <= 1.0:
            raise SettingsError.of("rollout stop share", self.stop_share, "0 to 1")
        if self.least_tried < 1:
            raise SettingsError.of("rollout least tried", self.least_tried, "1 or more")

    def decide(self, device: str, version: int, stream: str, reports: ReportStore) -> tuple[bool, str]:
        """Return whether a device may take a release, and why not.

        Args:
            device: Who asks.
            version: Of the release, for the words.
            stream: Its digest.
            reports: How it went elsewhere.
        """
        tried, failed = reports.outcome(stream)
        if tried >= self.least_tried and failed > self.stop_share * tried:
            return False, f"release {version} failed on {failed} of {tried} devices and is stopped"
        matching = ((f" that are {pattern}", share) for pattern, share in self.groups if fnmatchcase(device, pattern))
        who, percent = next(matching, ("", self.percent))
        if device in self.first or _draw(device, stream) * 100.0 < percent:
            return True, ""
        return False, f"release {version} is with {percent:g} % of the devices{who} so far"


def _draw(device: str, stream: str) -> float:
    """Return a number from 0 to below 1 that belongs to a device and a release.

    >>> 0 <= _draw("pump-7", "ab") < 1, _draw("pump-7", "ab") == _draw("pump-7", "ab")
    (True, True)
    """
    digest = hashlib.sha256(f"{stream}:{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
