"""Staged rollout: the decision whether a device may install a new release yet.

The rollout can only delay an installation.  Signatures alone decide what a device accepts.
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
    """Options of a staged rollout.

    Args:
        percent: Percentage of the devices that may install a release, 0 to 100.  A hash of device name and release
            draws them.
        first: Names of devices that may install a release at any percentage, until it is stopped.
        groups: Pairs of a name pattern, such as `lab-*`, and the percentage for matching devices.  The first matching
            pattern applies, and `percent` to devices that match none.
        stop_share: Largest share of failed installations, 0 to 1.  Above it, no other device may install the release.
        min_tried: Number of devices that must have tried a release before it can be stopped, 1 or more.

    Raises:
        SettingsError: A number is out of range.
    """

    percent: float = 100.0
    first: tuple[str, ...] = ()
    groups: tuple[tuple[str, float], ...] = ()
    stop_share: float = 0.1
    min_tried: int = 5

    def __post_init__(self) -> None:
        for name, percent in (("", self.percent), *self.groups):
            if not 0.0 <= percent <= 100.0:
                raise SettingsError.of(f"rollout percent{name and f' of {name}'}", percent, "0 to 100")
        if not 0.0 <= self.stop_share <= 1.0:
            raise SettingsError.of("rollout stop share", self.stop_share, "0 to 1")
        if self.min_tried < 1:
            raise SettingsError.of("rollout minimum of tries", self.min_tried, "1 or more")

    def decide(self, device: str, version: int, stream: str, reports: ReportStore) -> tuple[bool, str]:
        """Return whether a device may install a release, and otherwise the reason.

        Args:
            device: Name of the device.
            version: Number of the release, for the text of the reason.
            stream: Digest of the release's stream.
            reports: Reports of the other devices.
        """
        tried, failed = reports.outcome(stream)
        if tried >= self.min_tried and failed > self.stop_share * tried:
            return False, f"release {version} failed on {failed} of {tried} devices and is stopped"
        matching = ((f" matching {pattern}", share) for pattern, share in self.groups if fnmatchcase(device, pattern))
        who, percent = next(matching, ("", self.percent))
        if device in self.first or _draw(device, stream) * 100.0 < percent:
            return True, ""
        return False, f"release {version} is limited to {percent:g} % of the devices{who}"


def _draw(device: str, stream: str) -> float:
    """Return a number in [0, 1) that is a hash of a device and a release.

    Examples:
        >>> 0 <= _draw("pump-7", "ab") < 1, _draw("pump-7", "ab") == _draw("pump-7", "ab")
        (True, True)
    """
    digest = hashlib.sha256(f"{stream}:{device}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64
