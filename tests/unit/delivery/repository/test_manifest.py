import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.delivery import Manifest, PrefixScore, StreamEntry
from airlora.delivery.repository.manifest import MAX_MANIFEST_BYTES
from airlora.errors import ReleaseError, TrustError


def manifest(**changes: object) -> Manifest:
    values = {
        "version": 3,
        "created": "2026-01-31T12:00:00Z",
        "base_fingerprint": "b" * 64,
        "stream": StreamEntry(digest="a" * 64, head_bytes=100, total_bytes=1000, num_segments=4),
        "cuts": [PrefixScore(num_bytes=500, num_components=3, accuracy=0.8, loss=0.4)],
    }
    return Manifest(**(values | changes))


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(manifest().to_bytes()) | changes).encode()


@pytest.mark.parametrize("format_version", [1, 2])
def test_a_manifest_round_trips(format_version: int) -> None:
    own = manifest(stream=manifest().stream.model_copy(update={"format_version": format_version}))
    assert Manifest.from_bytes(own.to_bytes()) == own


def test_only_a_stream_of_a_newer_format_needs_a_newer_manifest() -> None:
    first, second = (
        json.loads(manifest(stream=manifest().stream.model_copy(update={"format_version": own})).to_bytes())
        for own in (1, 2)
    )
    assert first["format"] == 1
    assert "format_version" not in first["stream"]
    assert (second["format"], second["stream"]["format_version"]) == (2, 2)


def test_the_path_of_the_stream_contains_its_digest() -> None:
    assert manifest().stream.path == f"streams/{'a' * 64}.airs"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 0}, "version"),
        ({"version": True}, "version"),
        ({"version": 1.5}, "version"),
        ({"base_fingerprint": "../../etc/passwd"}, "base_fingerprint"),
        ({"created": "yesterday"}, "created"),
        ({"format": 3}, "newer airlora"),
        ({"format": True}, "newer airlora"),
        ({"format": 2}, "1 for a stream of format 1"),
        ({"surprise": 1}, "surprise"),
        ({"stream": {"digest": "../x", "head_bytes": 1, "total_bytes": 1, "num_segments": 0}}, "digest"),
        ({"stream": {"digest": "a" * 64, "head_bytes": 9, "total_bytes": 8, "num_segments": 0}}, "head_bytes"),
        ({"stream": {"digest": "a" * 64, "head_bytes": 9, "total_bytes": 2**60, "num_segments": 0}}, "total_bytes"),
        ({"cuts": [{"num_bytes": 1, "num_components": 1, "accuracy": 2.0, "loss": 0.1}]}, "accuracy"),
        ({"cuts": [{"num_bytes": 1001, "num_components": 1, "accuracy": 0.5, "loss": 0.1}]}, "cuts"),
    ],
)
def test_invalid_fields_are_refused_in_one_line(change: dict[str, object], says: str) -> None:
    with pytest.raises(TrustError, match=says) as error:
        Manifest.from_bytes(changed(**change), error=TrustError)
    assert "\n" not in str(error.value)


def test_prefix_sizes_must_rise() -> None:
    cut = {"num_bytes": 5, "num_components": 1, "accuracy": 0.5, "loss": 0.1}
    with pytest.raises(ReleaseError, match="rising"):
        Manifest.from_bytes(changed(cuts=[cut, cut]))


def test_a_huge_manifest_is_not_parsed() -> None:
    with pytest.raises(ReleaseError, match="at most"):
        Manifest.from_bytes(b" " * (MAX_MANIFEST_BYTES + 1))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ReleaseError):
        Manifest.from_bytes(data)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda v: st.lists(v, max_size=3)))
def test_random_values_in_any_field_are_refused_or_read(value: object) -> None:
    for field in Manifest.model_fields:
        with contextlib.suppress(ReleaseError):
            Manifest.from_bytes(changed(**{field: value}))
