"""Decisions of the device agent, made without input or output: what to trust, what to download, what to install."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airlora.codec.format.container import FORMAT_VERSION
from airlora.delivery.device.health import HealthCheck
from airlora.delivery.device.state import DeviceState, InstalledAdapter
from airlora.delivery.protocol import verify_device_name
from airlora.delivery.repository.manifest import Manifest
from airlora.errors import AdapterError, SettingsError, TrustError
from airlora.identity import BaseLevel, is_same_base

__all__ = [
    "AgentConfig",
    "DownloadTarget",
    "is_improvement",
    "is_in_time",
    "promised_accuracy",
    "reason_to_skip",
    "target_bytes",
    "verify_manifest",
]


@dataclass(frozen=True)
class DownloadTarget:
    """Part of a stream that a device downloads.

    Args:
        max_bytes: Maximum size of the prefix in bytes. None for the complete stream.
        min_accuracy_gain: Minimum gain in accuracy, 0 to 1, that a longer prefix must promise to be downloaded. None
            downloads the complete stream.

    Raises:
        SettingsError: A value is out of range.
    """

    max_bytes: int | None = None
    min_accuracy_gain: float | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes < 0:
            raise SettingsError.of("max_bytes", self.max_bytes, "0 or more")
        if self.min_accuracy_gain is not None and not 0.0 <= self.min_accuracy_gain <= 1.0:
            raise SettingsError.of("min_accuracy_gain", self.min_accuracy_gain, "a share of right answers, 0 to 1")


@dataclass(frozen=True)
class AgentConfig:
    """Configuration of the device agent.

    Args:
        url: Address of the repository.
        root: Root metadata to trust first. None uses the root that the device trusts already. A new device then
            downloads the repository's first root and trusts it unverified.
        tenant: Tenant whose releases the device installs. None for the releases without a tenant.
        target: Part of a stream to download.
        base_fingerprint: Fingerprint of the device's base model. None accepts releases for every base model.
        accept_base: Level at which the base model of a release is that of the device.
        checks: Health checks that a candidate must pass, besides `parameter_check`.
        device: Name under which the device reports and asks for its turn. None does neither.

    Raises:
        SettingsError: `device` is not a valid name.
    """

    url: str
    root: bytes | None = None
    tenant: str | None = None
    target: DownloadTarget = field(default_factory=DownloadTarget)
    base_fingerprint: str | None = None
    accept_base: BaseLevel = "bfloat16"
    checks: Sequence[HealthCheck] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None:
            verify_device_name(self.device)


def verify_manifest(manifest: Manifest, state: DeviceState, config: AgentConfig) -> None:
    """Verify that a signed manifest is not older than the releases seen before, and fits base model and agent.

    Args:
        manifest: Manifest whose signatures have been verified.
        state: State of the device.
        config: Configuration of the agent.

    Raises:
        TrustError: The version is older than the newest version seen, or names another stream than it did.
        AdapterError: The release was made for another base model, or needs a newer airlora.
    """
    version, digest = manifest.version, manifest.stream.digest
    if version < state.newest_version or (version == state.newest_version and digest != state.newest_digest):
        raise TrustError.of("version of the release", version, f"above {state.newest_version}, the newest version seen")
    own = config.base_fingerprint
    if own is not None and not is_same_base(own, manifest.base_fingerprint, config.accept_base):
        raise AdapterError(
            f"release {version}: made for the base model {manifest.base_fingerprint[:12]}, the device has {own[:12]}"
        )
    if manifest.stream.format_version > FORMAT_VERSION:
        raise AdapterError.of(
            f"release {version}: format of its stream",
            manifest.stream.format_version,
            f"1 to {FORMAT_VERSION}; install a newer airlora on the device",
        )


def reason_to_skip(manifest: Manifest, state: DeviceState) -> str | None:
    """Return why nothing of a release is downloaded: it was refused before, or it runs completely. Otherwise None."""
    if manifest.stream.digest in state.bad:
        return f"release {manifest.version} was refused before"
    running = state.running
    if running is not None and running.digest == manifest.stream.digest and running.is_complete:
        return f"release {manifest.version} is the newest"
    return None


def target_bytes(manifest: Manifest, target: DownloadTarget) -> int:
    """Return the size of the prefix to download, in bytes. The deadline of a visit may end the download earlier.

    Examples:
        >>> from airlora.delivery import PrefixScore, StreamEntry
        >>> entry = StreamEntry(digest="a" * 64, head_bytes=10, total_bytes=900, num_segments=8)
        >>> scores = [
        ...     PrefixScore(num_bytes=size, num_components=1, accuracy=accuracy, loss=0.1)
        ...     for size, accuracy in ((100, 0.7), (300, 0.8), (900, 0.802))
        ... ]
        >>> manifest = Manifest(
        ...     version=1, created="2026-01-01T00:00:00Z", base_fingerprint="b" * 64, stream=entry, cuts=scores
        ... )
        >>> target_bytes(manifest, DownloadTarget())
        900
        >>> target_bytes(manifest, DownloadTarget(min_accuracy_gain=0.01))
        300
        >>> target_bytes(manifest, DownloadTarget(max_bytes=200))
        200
    """
    num_bytes, scores = manifest.stream.total_bytes, manifest.cuts
    if target.min_accuracy_gain is not None and scores:
        num_bytes = next(
            score.num_bytes
            for index, score in enumerate(scores)
            if all(later.accuracy < score.accuracy + target.min_accuracy_gain for later in scores[index + 1 :])
        )
    return num_bytes if target.max_bytes is None else min(num_bytes, target.max_bytes)


def promised_accuracy(manifest: Manifest, num_bytes: int) -> float | None:
    """Return the accuracy of the longest measured prefix of at most `num_bytes` bytes. None if none was measured."""
    measured = [score.accuracy for score in manifest.cuts if score.num_bytes <= num_bytes]
    return measured[-1] if measured else None


def is_in_time(num_bytes: int, rate_bps: float | None, left_s: float) -> bool:
    """Return whether a number of bytes arrives before the deadline. An unknown rate counts as fast enough."""
    return rate_bps is None or 8 * num_bytes <= rate_bps * left_s


def is_improvement(
    manifest: Manifest, num_bytes: int, running: InstalledAdapter | None, *, is_complete: bool, is_last: bool
) -> bool:
    """Return whether a downloaded prefix is better than the running adapter.

    Every prefix is better than none. A complete new release replaces an older one. A part of a new release replaces it
    only if the manifest promises a higher accuracy. A longer prefix of the running release replaces it at the end of a
    visit, and before that only if it promises a higher accuracy.

    Args:
        manifest: Manifest of the release.
        num_bytes: Size of the prefix in bytes.
        running: Adapter that the device runs. None if it runs none.
        is_complete: Whether the prefix is the complete stream.
        is_last: Whether nothing more is downloaded in this visit.
    """
    if running is None:
        return True
    promised = promised_accuracy(manifest, num_bytes)
    if running.digest == manifest.stream.digest:
        is_better = promised is not None and (running.accuracy is None or promised > running.accuracy)
        return num_bytes > running.num_bytes and (is_last or is_complete or is_better)
    is_better = promised is not None and running.accuracy is not None and promised > running.accuracy
    return is_complete or is_better
