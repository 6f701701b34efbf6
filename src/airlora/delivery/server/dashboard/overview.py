"""Content of the dashboard: releases, devices and rollout, read from the repository and the reports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from airlora.delivery.repository.keys import KeyFolder
from airlora.delivery.repository.manifest import Manifest
from airlora.delivery.repository.publish import current_manifest
from airlora.delivery.repository.repository import SignedRepository
from airlora.delivery.server.app import ServerPlan

__all__ = ["DeviceRow", "Overview", "ReleaseRow", "read_overview"]

MAX_DEVICES = 200


@dataclass(frozen=True)
class ReleaseRow:
    """The newest release of the repository or of a tenant.

    Args:
        tenant: Name of the tenant.  Empty for devices without a tenant.
        manifest: Manifest of the release.
        tried: Number of devices that tried the release.
        failed: Number of those devices that rejected it.
    """

    tenant: str
    manifest: Manifest
    tried: int
    failed: int


@dataclass(frozen=True)
class DeviceRow:
    """The newest report of a device, as text.

    Args:
        name: Name of the device.
        age: Time since the report, such as `3 min ago`.
        runs: Installed release, such as `release 2, incomplete`.
        is_good: Whether the device runs the newest release that it saw, and its last visit did not fail.
        num_bytes: Bytes of the stream on the device.
        took: Duration of the visit, with the deadline if it had one.
        accuracy: Accuracy of the installed prefix, 0 to 1.  None if it is not known.
        note: Note in the report.
    """

    name: str
    age: str
    runs: str
    is_good: bool
    num_bytes: int
    took: str
    accuracy: float | None
    note: str


@dataclass(frozen=True)
class Overview:
    """Content of the dashboard.

    Args:
        releases: Newest release of the repository and of each tenant.
        devices: Newest reports, latest first, at most `MAX_DEVICES`.
        num_devices: Number of devices that have ever sent a report.
        expires: Expiry of the timestamp, UTC.  Devices refuse the repository after it.
        is_expiring: Whether the timestamp expires within a day.
        rollout: Description of the staged rollout.
    """

    releases: list[ReleaseRow]
    devices: list[DeviceRow]
    num_devices: int
    expires: str
    is_expiring: bool
    rollout: str


def read_overview(plan: ServerPlan, *, now_s: float | None = None) -> Overview:
    """Return the current content of the dashboard.

    Args:
        plan: Options of the server.
        now_s: Current time, seconds since 1970 UTC.  None reads the clock.

    Raises:
        ReleaseError: The repository is damaged.
        StorageError: The reports cannot be read.
    """
    now = time.time() if now_s is None else now_s
    # The dashboard signs nothing, so the private keys need not be on this machine.
    repository = SignedRepository(plan.repository, KeyFolder(plan.repository.resolve().parent, plan.repository))
    releases = []
    for tenant in [None, *repository.tenants]:
        manifest = current_manifest(repository, tenant)
        if manifest is not None:
            releases.append(ReleaseRow(tenant or "", manifest, *plan.reports.outcome(manifest.stream.digest)))
    expires = repository.timestamp().expires
    rollout = plan.rollout
    return Overview(
        releases=releases,
        devices=[_device(report, now) for report in plan.reports.latest(limit=MAX_DEVICES)],
        num_devices=plan.reports.num_devices(),
        expires=f"{expires:%Y-%m-%d %H:%M} UTC",
        is_expiring=expires.timestamp() - now < 86_400,
        rollout=(
            f"{rollout.percent:g} % of the devices"
            + "".join(f", {percent:g} % of {pattern}" for pattern, percent in rollout.groups)
            + (f", always {', '.join(rollout.first)}" if rollout.first else "")
            + f"; stops when more than {rollout.stop_share:.0%} of the devices fail"
        ),
    )


def _device(report: dict[str, Any], now: float) -> DeviceRow:
    version, wanted, complete = report["version"], report["wanted_version"], report["complete"]
    is_behind = version is not None and wanted is not None and version < wanted
    runs = "no release" if version is None else f"release {version}" + ("" if complete else ", incomplete")
    runs += ", not the newest" if is_behind else ""
    deadline = report.get("deadline_s")
    return DeviceRow(
        name=report["device"],
        age=_age(now - report["time"]),
        runs=runs,
        is_good=version is not None and version == wanted and not report["failed"],
        num_bytes=report["bytes_fetched"] + report["bytes_reused"],
        took=f"{report['seconds']:.1f} s" + (f" of {deadline:g} s" if deadline else ""),
        accuracy=report["accuracy"],
        note=report["note"],
    )


def _age(seconds: float) -> str:
    """Return a duration in its largest unit.

    Examples:
        >>> _age(4.2), _age(200), _age(7300), _age(200_000)
        ('4 s ago', '3 min ago', '2 h ago', '2 d ago')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
