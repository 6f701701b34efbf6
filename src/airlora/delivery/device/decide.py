"""How much of a stream to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airlora.delivery.repository.manifest import Manifest, PrefixScore
from airlora.errors import SettingsError

__all__ = ["Wish", "accuracy_at", "wanted_bytes"]


@dataclass(frozen=True)
class Wish:
    """What a device wants at most.

    Args:
        max_bytes: Of the stream, from its start; None: all.
        least_gain: Stop where no longer prefix promises so much more accuracy, as a share of right answers; None:
            take what there is.
    """

    max_bytes: int | None = None
    least_gain: float | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes < 0:
            raise SettingsError.of("max_bytes", self.max_bytes, "0 or more")
        if self.least_gain is not None and not 0.0 <= self.least_gain <= 1.0:
            raise SettingsError.of("least_gain", self.least_gain, "a share of right answers, 0 to 1")


def wanted_bytes(manifest: Manifest, wish: Wish) -> int:
    """Return up to which byte the stream is wanted, by the wish alone; the deadline ends it sooner.

    >>> from airlora.release import StreamEntry
    >>> entry = StreamEntry(digest="a" * 64, head_bytes=10, total_bytes=900, num_segments=8)
    >>> worth = ((100, 0.7), (300, 0.8), (900, 0.802))
    >>> cuts = [PrefixScore(num_bytes=size, num_components=1, accuracy=accuracy, loss=0.1) for size, accuracy in worth]
    >>> manifest = Manifest(
    ...     version=1, created="2026-01-01T00:00:00Z", base_fingerprint="b" * 64, stream=entry, cuts=cuts
    ... )
    >>> wanted_bytes(manifest, Wish()), wanted_bytes(manifest, Wish(least_gain=0.01)), wanted_bytes(manifest, Wish(200))
    (900, 300, 200)
    """
    wanted = manifest.stream.total_bytes
    if wish.least_gain is not None and manifest.cuts:
        wanted = _enough(manifest.cuts, wish.least_gain)
    return wanted if wish.max_bytes is None else min(wanted, wish.max_bytes)


def _enough(cuts: Sequence[PrefixScore], least_gain: float) -> int:
    """Return the bytes of the first cut that no later one betters by `least_gain`."""
    for place, cut in enumerate(cuts):
        if all(later.accuracy < cut.accuracy + least_gain for later in cuts[place + 1 :]):
            return cut.num_bytes
    return cuts[-1].num_bytes


def accuracy_at(manifest: Manifest, num_bytes: int) -> float | None:
    """Return what a prefix promises: the accuracy of the longest measured one within it; None: nothing was measured."""
    within = [cut.accuracy for cut in manifest.cuts if cut.num_bytes <= num_bytes]
    return within[-1] if within else None
