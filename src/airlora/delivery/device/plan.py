"""What a device is to do on a visit, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airlora.delivery.device.decide import Wish
from airlora.delivery.device.health import HealthCheck
from airlora.delivery.device.reporting import verify_device
from airlora.delivery.device.state import SlotName
from airlora.errors import AirloraError

__all__ = ["AgentPlan", "Visit"]


@dataclass(frozen=True)
class AgentPlan:
    """What a device is to do.

    Args:
        url: Of the repository.
        root: To trust at first; None: what is trusted already, or else the repository's first root, unseen.
        tenant: Whose releases.
        wish: How much of a stream.
        base_fingerprint: Of the base model that the device has; None: whatever the release says.
        checks: What a candidate must pass beside `numbers_check`.
        device: Name to report by, and to ask by whether it is this device's turn; None: neither.
    """

    url: str
    root: bytes | None = None
    tenant: str | None = None
    wish: Wish = field(default_factory=Wish)
    base_fingerprint: str | None = None
    checks: Sequence[HealthCheck] = ()
    device: str | None = None

    def __post_init__(self) -> None:
        if self.device is not None:
            verify_device(self.device)


@dataclass
class Visit:
    """What came of it.

    Args:
        version: Of the release that the device runs now; None: it runs none.
        bytes_fetched: Of the stream, over the link, in this visit.
        bytes_reused: Of the stream, verified and on disk before.
        metadata_bytes: Beside the stream.
        num_segments: Of the adapter that runs.
        complete: Whether that is all of its release.
        slot: Where it lies.
        accuracy: What its release promises for so much of it.
        probed: What an `AccuracyProbe` among the checks measured of it; None: there is none, or nothing was installed.
        first_usable_s: Seconds until the new release was first installed; None: it was not.
        seconds: That the visit took.
        note: What happened, in a few words.
        error: Why it ended early, if it did; what was running before is running still, or what had come of the new.
    """

    version: int | None = None
    bytes_fetched: int = 0
    bytes_reused: int = 0
    metadata_bytes: int = 0
    num_segments: int = 0
    complete: bool = False
    slot: SlotName | None = None
    accuracy: float | None = None
    probed: float | None = None
    first_usable_s: float | None = None
    seconds: float = 0.0
    note: str = ""
    error: AirloraError | None = None
