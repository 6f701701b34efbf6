"""What the dashboard shows: releases, devices, rollout, read anew from the repository and the reports."""

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
    """The newest release of everybody or of a tenant.

    Args:
        tenant: Whose; empty: everybody's.
        manifest: Of the release.
        tried: Devices that tried it.
        failed: Of them those that had to refuse it.
    """

    tenant: str
    manifest: Manifest
    tried: int
    failed: int


@dataclass(frozen=True)
class DeviceRow:
    """A device as it last reported.

    Args:
        name: Of the device.
        age: How long ago, in words.
        runs: What it runs, in words.
        is_good: Whether it runs the newest that it saw, and nothing failed.
        num_bytes: Of the stream that it has fetched or had.
        took: Seconds of the visit, and the deadline if there was one.
        accuracy: Promised for what it runs; None: not known.
        note: In its own words.
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
    """All of it.

    Args:
        releases: Newest by tenant.
        devices: The latest to report first, `MAX_DEVICES` at most.
        num_devices: All that ever reported.
        expires: When the timestamp does, UTC; what is served is refused by devices after that.
        is_expiring: Whether that is within a day.
        rollout: In words.
    """

    releases: list[ReleaseRow]
    devices: list[DeviceRow]
    num_devices: int
    expires: str
    is_expiring: bool
    rollout: str


def read_overview(plan: ServerPlan, *, now_s: float | None = None) -> Overview:
    """Return what there is now.

    Raises:
        ReleaseError: The repository is damaged.
        StorageError: The reports cannot be read.
    """
    now = time.time() if now_s is None else now_s
    # Nothing is signed here: the keys are not needed, and need not be on this machine.
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
            + (f", and first {', '.join(rollout.first)}" if rollout.first else "")
            + f"; stopped where more than {rollout.stop_share:.0%} fail"
        ),
    )


def _device(report: dict[str, Any], now: float) -> DeviceRow:
    version, wanted, complete = report["version"], report["wanted_version"], report["complete"]
    is_behind = version is not None and wanted is not None and version < wanted
    runs = "nothing yet" if version is None else f"release {version}" + ("" if complete else ", a part of it")
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
    """Return a time span in its largest unit.

    >>> _age(4.2), _age(200), _age(7300), _age(200_000)
    ('4 s ago', '3 min ago', '2 h ago', '2 d ago')
    """
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
