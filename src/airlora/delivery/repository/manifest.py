"""The manifest of a release: the one file of it that is signed.

It names the stream by the digest of the stream's head.  The head lists every segment with its length and SHA-256, so
that who trusts the manifest can trust each segment before it is used, and nothing is listed twice.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from airlora.errors import AirloraError, ReleaseError

__all__ = ["MANIFEST_FORMAT", "MAX_MANIFEST_BYTES", "Cut", "Manifest", "StreamEntry"]

MANIFEST_FORMAT = 1

MAX_MANIFEST_BYTES = 64 * 1024

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StreamEntry(_Part):
    """A stream of the release.

    Attributes:
        digest: SHA-256 that the stream's head carries, 64 hexadecimal digits.
        head_bytes: Bytes of the head.
        total_bytes: Bytes of the whole stream.
        num_segments: Segments behind the head.
    """

    digest: Digest
    head_bytes: Annotated[int, Field(ge=1, le=2**32)]
    total_bytes: Annotated[int, Field(ge=1, le=2**48)]
    num_segments: Count

    @property
    def path(self) -> str:
        """Where the stream lies below the repository."""
        return f"streams/{self.digest}.airs"

    @model_validator(mode="after")
    def _head_is_inside(self) -> StreamEntry:
        if self.head_bytes > self.total_bytes:
            raise ValueError(f"head_bytes = {self.head_bytes} is above total_bytes = {self.total_bytes}")
        return self


class Cut(_Part):
    """What a prefix of the stream was measured to be worth.

    Attributes:
        num_bytes: Bytes from the start of the stream.
        num_components: Rank-one components in them.
        accuracy: Share of right answers on held-out data, 0 to 1.
        loss: Mean cross-entropy on them, nats.
    """

    num_bytes: Count
    num_components: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    loss: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Manifest(_Part):
    """What a release is.

    Attributes:
        version: 1 for a repository's (or tenant's) first release, one more for each.
        created: When, in UTC, such as `2026-01-31T12:00:00Z`.
        base_fingerprint: Digest of the base model that the adapter belongs to.
        stream: The adapter.
        cuts: What to expect of prefixes, shortest first; may be empty.
        format: Of this manifest.
    """

    version: Annotated[int, Field(ge=1, le=2**53)]
    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    base_fingerprint: Digest
    stream: StreamEntry
    cuts: Annotated[list[Cut], Field(max_length=64)] = []
    format: int = MANIFEST_FORMAT

    @model_validator(mode="after")
    def _cuts_rise(self) -> Manifest:
        sizes = [cut.num_bytes for cut in self.cuts]
        if sizes != sorted(set(sizes)) or any(size > self.stream.total_bytes for size in sizes):
            raise ValueError(f"cuts = {sizes}: allowed are rising sizes up to {self.stream.total_bytes}")
        return self

    def to_bytes(self) -> bytes:
        """Return it as JSON without spaces."""
        return json.dumps(self.model_dump(), separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, error: type[AirloraError] = ReleaseError) -> Manifest:
        """Return the manifest in `data`; raises `error` where it is none, newer, or says what cannot be."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise error.of("bytes of the manifest", len(data), f"at most {MAX_MANIFEST_BYTES}")
        value = _json_object(data, error)
        if value.get("format") != MANIFEST_FORMAT:
            raise error.of(
                "format of the manifest", value.get("format"), f"{MANIFEST_FORMAT}; a newer airlora may read it"
            )
        try:
            return cls.model_validate(value)
        except ValidationError as cause:
            first = cause.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise error(f"manifest: {place}: {first['msg']}") from cause


def _json_object(data: bytes, error: type[AirloraError]) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as cause:
        raise error("manifest: not valid JSON") from cause
    if not isinstance(value, dict):
        raise error("manifest: no JSON object")
    return value
