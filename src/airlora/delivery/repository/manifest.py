"""The manifest of a release: the file that is signed.

The manifest names the stream by the SHA-256 of the stream's header.  The header lists every segment with its length
and SHA-256.  A device that trusts the manifest can therefore verify each segment before it uses it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airlora.errors import AirloraError, ReleaseError

__all__ = ["MANIFEST_FORMATS", "MAX_MANIFEST_BYTES", "Manifest", "PrefixScore", "StreamEntry"]

MANIFEST_FORMATS = (1, 2)
"""Known versions of the manifest's format. The second one states the format of the stream, if that is not the first."""

MAX_MANIFEST_BYTES = 64 * 1024

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamEntry(_Record):
    """The stream of a release.

    Attributes:
        digest: SHA-256 of the stream's header, 64 hexadecimal digits.
        head_bytes: Size of the stream's header, bytes.
        total_bytes: Size of the whole stream, bytes.
        num_segments: Number of segments after the header.
        format_version: Version of the stream's format that a device must know to read it.
    """

    digest: Digest
    head_bytes: Annotated[int, Field(ge=1, le=2**32)]
    total_bytes: Annotated[int, Field(ge=1, le=2**48)]
    num_segments: Count
    format_version: Annotated[int, Field(ge=1, le=255)] = 1

    @property
    def path(self) -> str:
        """Path of the stream below the repository."""
        return f"streams/{self.digest}.airs"

    @model_validator(mode="after")
    def _head_is_inside(self) -> StreamEntry:
        if self.head_bytes > self.total_bytes:
            raise ValueError(f"head_bytes = {self.head_bytes} is above total_bytes = {self.total_bytes}")
        return self


class PrefixScore(_Record):
    """Measured quality of the adapter in a prefix of the stream.

    Attributes:
        num_bytes: Length of the prefix, bytes.
        num_components: Number of rank-one components in the prefix.
        accuracy: Accuracy on held-out data, 0 to 1.
        loss: Mean loss on the same data, nats.
    """

    num_bytes: Count
    num_components: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    loss: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Manifest(_Record):
    """The manifest of a release.

    Attributes:
        version: Number of the release: 1 for the first one of a repository or tenant, then rising by one.
        created: Time of publication in UTC, such as `2026-01-31T12:00:00Z`.
        base_fingerprint: SHA-256 of the weights of the base model, 64 hexadecimal digits.
        stream: The adapter's stream.
        cuts: Measured quality of prefixes, shortest first.  May be empty.
    """

    version: Annotated[int, Field(ge=1, le=2**53)]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    base_fingerprint: Digest
    stream: StreamEntry
    cuts: Annotated[list[PrefixScore], Field(max_length=64)] = []

    @model_validator(mode="after")
    def _cuts_rise(self) -> Manifest:
        sizes = [score.num_bytes for score in self.cuts]
        if sizes != sorted(set(sizes)) or any(size > self.stream.total_bytes for size in sizes):
            raise ValueError(f"cuts = {sizes}: allowed are rising sizes up to {self.stream.total_bytes}")
        return self

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON without spaces. Devices of every version read a stream of the first format."""
        value = self.model_dump()
        if self.stream.format_version == 1:
            del value["stream"]["format_version"]
        value["format"] = MANIFEST_FORMATS[self.stream.format_version > 1]
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, error: type[AirloraError] = ReleaseError) -> Manifest:
        """Return the manifest in `data`; raises `error` if it is malformed, inconsistent, or of a newer format."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise error.of("bytes of the manifest", len(data), f"at most {MAX_MANIFEST_BYTES}")
        value = _json_object(data, error)
        found = value.pop("format", None)
        if type(found) is not int or found not in MANIFEST_FORMATS:
            known = " or ".join(map(str, MANIFEST_FORMATS))
            raise error.of("format of the manifest", found, f"{known}; a newer airlora may read it")
        try:
            manifest = cls.model_validate(value)
        except ValidationError as cause:
            first = cause.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise error(f"manifest: {name}: {first['msg']}") from cause
        if found != MANIFEST_FORMATS[manifest.stream.format_version > 1]:
            raise error.of("format of the manifest", found, f"1 for a stream of format 1, else {MANIFEST_FORMATS[-1]}")
        return manifest


def _json_object(data: bytes, error: type[AirloraError]) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise error("manifest: not valid JSON") from cause
    if not isinstance(value, dict):
        raise error("manifest: not a JSON object")
    return value
