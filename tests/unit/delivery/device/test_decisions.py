"""Decisions of the device agent without input or output."""

from __future__ import annotations

import pytest

from airlora.codec.format.container import FORMAT_VERSION
from airlora.delivery import (
    AgentConfig,
    DeviceState,
    DownloadTarget,
    InstalledAdapter,
    Manifest,
    PrefixScore,
    StreamEntry,
)
from airlora.delivery.device.decisions import (
    is_improvement,
    is_in_time,
    promised_accuracy,
    reason_to_skip,
    target_bytes,
    verify_manifest,
)
from airlora.errors import AdapterError, SettingsError, TrustError

OLD, NEW, BASE = "a" * 64, "b" * 64, "c" * 64


def manifest_of(version: int = 2, digest: str = NEW) -> Manifest:
    accuracies = ((100, 0.7), (300, 0.8), (900, 0.802))
    return Manifest(
        version=version,
        created="2026-01-01T00:00:00Z",
        base_fingerprint=BASE,
        stream=StreamEntry(digest=digest, head_bytes=10, total_bytes=900, num_segments=8),
        cuts=[
            PrefixScore(num_bytes=size, num_components=1, accuracy=accuracy, loss=0.1) for size, accuracy in accuracies
        ],
    )


def installed(digest: str, num_bytes: int = 900, accuracy: float | None = 0.75) -> InstalledAdapter:
    return InstalledAdapter(
        version=1,
        digest=digest,
        num_bytes=num_bytes,
        num_segments=1,
        is_complete=num_bytes == 900,
        accuracy=accuracy,
    )


def state_of(digest: str, **values: object) -> DeviceState:
    return DeviceState(active="a", slots={"a": installed(digest)}, newest_version=2, newest_digest=NEW, **values)


@pytest.mark.parametrize(
    ("version", "digest", "fingerprint", "error"),
    [
        (2, NEW, None, None),
        (3, OLD, BASE, None),
        (1, OLD, None, TrustError),
        (2, OLD, None, TrustError),
        (3, OLD, "d" * 64, AdapterError),
    ],
)
def test_a_manifest_must_be_new_and_fit_the_base_model(
    version: int, digest: str, fingerprint: str | None, error: type[Exception] | None
) -> None:
    config = AgentConfig("http://example.org", base_fingerprint=fingerprint)
    if error is None:
        verify_manifest(manifest_of(version, digest), state_of(OLD), config)
        return
    with pytest.raises(error):
        verify_manifest(manifest_of(version, digest), state_of(OLD), config)


def test_a_release_for_a_newer_agent_is_refused() -> None:
    config, manifest = AgentConfig("http://example.org"), manifest_of()
    for version in (1, FORMAT_VERSION, FORMAT_VERSION + 1):
        stream = manifest.stream.model_copy(update={"format_version": version})
        own = manifest.model_copy(update={"stream": stream})
        if version <= FORMAT_VERSION:
            verify_manifest(own, state_of(OLD), config)
            continue
        with pytest.raises(AdapterError, match=r"format of its stream = 3: allowed is 1 to 2; install a newer airlora"):
            verify_manifest(own, state_of(OLD), config)


def test_a_refused_or_complete_release_is_skipped() -> None:
    assert reason_to_skip(manifest_of(), state_of(OLD)) is None
    assert reason_to_skip(manifest_of(), state_of(NEW)) == "release 2 is the newest"
    assert reason_to_skip(manifest_of(), state_of(OLD, bad=[NEW])) == "release 2 was refused before"


@pytest.mark.parametrize(
    ("running", "num_bytes", "is_last", "expected"),
    [
        # Every prefix is better than none.
        (None, 10, False, True),
        # Another release is replaced by a promise of more accuracy, or by the complete stream.
        (installed(OLD), 100, True, False),
        (installed(OLD), 300, False, True),
        (installed(OLD, accuracy=None), 300, True, False),
        (installed(OLD, accuracy=0.99), 900, False, True),
        # A longer prefix of the same release counts at the end, or with a promise of more accuracy.
        (installed(NEW, 100, 0.7), 100, True, False),
        (installed(NEW, 100, 0.7), 200, False, False),
        (installed(NEW, 100, 0.7), 200, True, True),
        (installed(NEW, 100, 0.7), 300, False, True),
    ],
)
def test_a_prefix_is_installed_if_it_is_an_improvement(
    running: InstalledAdapter | None, num_bytes: int, *, is_last: bool, expected: bool
) -> None:
    is_complete = num_bytes == 900
    assert is_improvement(manifest_of(), num_bytes, running, is_complete=is_complete, is_last=is_last) == expected


def test_the_promised_accuracy_is_that_of_the_longest_measured_prefix() -> None:
    assert [promised_accuracy(manifest_of(), size) for size in (99, 100, 299, 900)] == [None, 0.7, 0.7, 0.802]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (DownloadTarget(), 900),
        (DownloadTarget(max_bytes=200), 200),
        (DownloadTarget(min_accuracy_gain=0.01), 300),
        (DownloadTarget(min_accuracy_gain=0.5), 100),
        (DownloadTarget(min_accuracy_gain=0.0), 900),
    ],
)
def test_the_target_limits_bytes_and_accuracy_gain(target: DownloadTarget, expected: int) -> None:
    assert target_bytes(manifest_of(), target) == expected


@pytest.mark.parametrize("values", [{"max_bytes": -1}, {"min_accuracy_gain": 1.1}, {"min_accuracy_gain": -0.1}])
def test_targets_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        DownloadTarget(**values)


@pytest.mark.parametrize(
    ("num_bytes", "rate_bps", "left_s", "expected"),
    [(400, 8000.0, 1.0, True), (1200, 8000.0, 1.0, False), (1200, None, 1.0, True), (1200, 8.0, float("inf"), True)],
)
def test_a_segment_is_requested_if_its_missing_bytes_arrive_before_the_deadline(
    num_bytes: int, rate_bps: float | None, left_s: float, *, expected: bool
) -> None:
    assert is_in_time(num_bytes, rate_bps, left_s) == expected


def test_the_device_chooses_the_level_at_which_base_models_are_compared() -> None:
    own = "d" * 32 + BASE[32:]
    verify_manifest(manifest_of(), DeviceState(), AgentConfig("http://x", base_fingerprint=own))
    with pytest.raises(AdapterError, match="made for the base model"):
        verify_manifest(
            manifest_of(), DeviceState(), AgentConfig("http://x", base_fingerprint=own, accept_base="exact")
        )
