"""Reports of devices, stored in SQLite."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airlora.errors import SettingsError, StorageError

__all__ = ["DEVICE_NAME", "DeviceReport", "ReportStore"]

DEVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DeviceReport(BaseModel):
    """Report of a device after a visit to the server.

    Args:
        version: Number of the release that the device runs.  None if it runs none.
        wanted_version: Number of the newest release that the device saw.  None if it saw none.
        wanted_stream: Digest of that release's stream.  It distinguishes releases of different tenants.
        bytes_fetched: Bytes of the stream that were fetched in this visit.
        bytes_reused: Bytes of the stream that the device held before.
        seconds: Duration of the visit, s.
        first_usable_s: Time from the start of the visit until the new release was installed, s.
        complete: Whether the device holds the whole stream.
        accuracy: Accuracy that the manifest states for the installed prefix, or that a probe measured, 0 to 1.
        rate_bps: Observed rate of the transport, bit/s.
        deadline_s: Deadline of the visit, s.  None if it had none.
        failed: Whether the device rejected the release because of a health check.
        note: Short free text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=0, le=2**53)] | None = None
    wanted_version: Annotated[int, Field(ge=0, le=2**53)] | None = None
    wanted_stream: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    bytes_fetched: Annotated[int, Field(ge=0, le=2**53)] = 0
    bytes_reused: Annotated[int, Field(ge=0, le=2**53)] = 0
    seconds: Amount = 0.0
    first_usable_s: Amount | None = None
    complete: bool = False
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    rate_bps: Amount | None = None
    deadline_s: Amount | None = None
    failed: bool = False
    note: Annotated[str, Field(max_length=500)] = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceReport:
        """Return the report in the JSON body of a request; raises `SettingsError` if it is malformed."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "report"
            raise SettingsError(f"report: {place}: {first['msg']}") from error


class ReportStore:
    """Thread-safe store of the reports of all devices.

    Args:
        path: SQLite file, created if missing.  `:memory:` keeps the reports in memory only.
        keep: Number of reports kept per device.
        max_devices: Largest number of device names.  It bounds the store where clients need no token.
        max_reports: Largest number of reports of all devices together.  The oldest are removed.

    Raises:
        StorageError: The file cannot be opened, or is not an SQLite database.
    """

    def __init__(
        self, path: Path | str, *, keep: int = 1000, max_devices: int = 100_000, max_reports: int = 1_000_000
    ) -> None:
        self._path, self._keep, self._lock = str(path), keep, threading.Lock()
        self._max_devices, self._max_reports = max_devices, max_reports
        try:
            self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS reports (id INTEGER PRIMARY KEY, device TEXT NOT NULL, time REAL NOT NULL,"
                " version INTEGER, wanted INTEGER, stream TEXT, failed INTEGER NOT NULL, report TEXT NOT NULL)"
            )
            self._connection.execute("CREATE INDEX IF NOT EXISTS by_device ON reports (device, id)")
            columns = {row[1] for row in self._connection.execute("PRAGMA table_info(reports)")}
            if "stream" not in columns:
                self._connection.execute("ALTER TABLE reports ADD COLUMN stream TEXT")
            self._connection.execute("CREATE INDEX IF NOT EXISTS by_stream ON reports (stream, failed)")
            self._devices = {name for (name,) in self._connection.execute("SELECT DISTINCT device FROM reports")}
        except sqlite3.Error as error:
            raise StorageError(f"reports {path}: {error}") from error

    def add(self, device: str, report: DeviceReport, *, time_s: float | None = None) -> None:
        """Store a report, and remove reports beyond the limits.

        Args:
            device: Name of the device.
            report: The report.
            time_s: Time of the report, seconds since 1970 UTC.  None is now.

        Raises:
            SettingsError: The device is new, and the store already has `max_devices` devices.
            StorageError: The report cannot be written.
        """
        if device not in self._devices and len(self._devices) >= self._max_devices:
            raise SettingsError.of(
                "device", device, f"one of the {self._max_devices} known devices; the store takes no more"
            )
        now = time.time() if time_s is None else time_s
        told = (report.version, report.wanted_version, report.wanted_stream, report.failed, report.model_dump_json())
        self._run(
            "INSERT INTO reports (device, time, version, wanted, stream, failed, report) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (device, now, *told),
        )
        self._devices.add(device)
        self._run(
            "DELETE FROM reports WHERE device = ? AND id <= (SELECT id FROM reports WHERE device = ?"
            " ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (device, device, self._keep),
        )
        self._run("DELETE FROM reports WHERE id <= (SELECT MAX(id) FROM reports) - ?", (self._max_reports,))

    def latest(self, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the newest report of every device, latest first, at most `limit`."""
        rows = self._run(
            "SELECT device, time, report FROM reports WHERE id IN (SELECT MAX(id) FROM reports GROUP BY device)"
            " ORDER BY time DESC LIMIT ?",
            (limit,),
        )
        return [_record(*row) for row in rows]

    def of_device(self, device: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return the reports of a device, latest first, at most `limit`."""
        rows = self._run(
            "SELECT device, time, report FROM reports WHERE device = ? ORDER BY id DESC LIMIT ?", (device, limit)
        )
        return [_record(*row) for row in rows]

    def outcome(self, stream: str) -> tuple[int, int]:
        """Return the number of devices that tried the release with this stream digest, and on how many it failed."""
        rows = self._run(
            "SELECT COUNT(DISTINCT device), COUNT(DISTINCT CASE WHEN failed THEN device END) FROM reports"
            " WHERE stream = ? AND (version = wanted OR failed)",
            (stream,),
        )
        return int(rows[0][0]), int(rows[0][1])

    def last_id(self) -> int:
        """Return the id of the newest report, which rises with every report."""
        return int(self._run("SELECT COALESCE(MAX(id), 0) FROM reports", ())[0][0])

    def num_devices(self) -> int:
        """Return the number of devices that have ever sent a report."""
        return len(self._devices)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def _run(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"reports {self._path}: {error}") from error


def _record(device: str, time_s: float, report: str) -> dict[str, Any]:
    return {"device": device, "time": time_s, **json.loads(report)}
