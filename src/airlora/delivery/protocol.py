"""Protocol between devices and `airlora serve`: device names, HTTP routes and the report of a visit."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from airlora.errors import SettingsError

__all__ = [
    "DEVICES_PATH",
    "DEVICE_NAME",
    "DEVICE_PATH",
    "PROCEED_PATH",
    "REPORTS_PATH",
    "DeviceReport",
    "verify_device_name",
]

DEVICES_PATH = "/v1/devices"
"""Route of the newest report of every device (GET)."""

DEVICE_PATH = DEVICES_PATH + "/{device}"
"""Route of the reports of one device (GET)."""

REPORTS_PATH = DEVICE_PATH + "/reports"
"""Route that accepts a `DeviceReport` (POST)."""

PROCEED_PATH = DEVICE_PATH + "/proceed"
"""Route that tells whether a device may install a release (GET, query `version` and `stream`).

The answer is a JSON object with the keys `proceed` (bool) and `why` (str)."""

DEVICE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Regular expression that a whole device name must match."""

Count = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def verify_device_name(name: str) -> str:
    """Return the name of a device.

    Raises:
        SettingsError: The name has a character that is not allowed, or is too long.
    """
    if not re.fullmatch(DEVICE_NAME, name):
        raise SettingsError.of("device", name, "1 to 64 letters, digits, dots, dashes and underscores")
    return name


class DeviceReport(BaseModel):
    """Report that a device sends after a visit.

    Attributes:
        version: Version of the release that the device runs. None if it runs none.
        wanted_version: Newest version that the device has seen. None if it has seen none.
        wanted_stream: Digest of the stream of that version. It tells apart equal versions of different tenants.
        bytes_fetched: Bytes of the stream that were downloaded in this visit.
        bytes_reused: Bytes of the stream that were on the device before the visit.
        seconds: Duration of the visit in seconds.
        first_usable_s: Seconds until the new release was first installed. None if it was not.
        complete: Whether the device runs the complete stream of its release.
        accuracy: Measured accuracy of the installed prefix, or else the accuracy in its manifest, 0 to 1.
        rate_bps: Measured download rate in bit/s. None if too few bytes were received.
        deadline_s: Deadline of the visit in seconds. None if it had none.
        failed: Whether a health check refused the new release.
        note: Outcome of the visit in a few words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Count | None = None
    wanted_version: Count | None = None
    wanted_stream: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    bytes_fetched: Count = 0
    bytes_reused: Count = 0
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
        """Return the report in the JSON body of a request.

        Raises:
            SettingsError: The body is not valid JSON, or a value is out of range.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "report"
            raise SettingsError(f"report: {name}: {first['msg']}") from error
