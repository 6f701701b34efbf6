"""Visits of a device: what is downloaded, when it is installed, what is never downloaded twice."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from types import SimpleNamespace

import pytest
from tuf.ngclient._internal import trusted_metadata_set

from airlora.codec import DecodedStream, StreamReader
from airlora.delivery import (
    AccuracyProbe,
    DeviceReport,
    DownloadLimits,
    DownloadTarget,
    PrefixScore,
    StateFolder,
    add_tenant,
    command_check,
    current_manifest,
    publish_stream,
    rollback,
    rotate_key,
)
from airlora.delivery.device import health
from airlora.delivery.device.download import PartialStream, fetch_stream
from airlora.delivery.device.transport import RetryPolicy
from airlora.delivery.repository.bundle import pack_bundle, unpack_bundle
from airlora.errors import AdapterError, NetworkError, SettingsError, StorageError, TrustError
from delivery import STREAMS, URL, Device, cuts_of, make_stream


def publish(device: Device, place: int, **options: float) -> None:
    publish_stream(device.repository, STREAMS[place], cuts=cuts_of(STREAMS[place], **options))


def stream_bytes(transport: object) -> int:
    return sum(stop - start for path, start, stop in transport.sent if path.startswith("streams/"))  # type: ignore[attr-defined]


def test_the_first_visit_installs_the_complete_release(device: Device) -> None:
    found = device.visit()
    assert (found.error, found.version, found.complete) == (None, 1, True)
    assert found.bytes_fetched == len(STREAMS[0])
    assert found.accuracy == pytest.approx(0.9)
    assert device.running() == STREAMS[0]
    assert not list(device.folder.parts.iterdir())


def test_a_release_that_runs_is_not_downloaded_again(device: Device) -> None:
    device.visit()
    transport = device.transport()
    found = device.visit(transport)
    assert (found.bytes_fetched, found.bytes_reused) == (0, len(STREAMS[0]))
    assert stream_bytes(transport) == 0
    # Only a newer root and the timestamp are requested.
    assert [path for path, _, _ in transport.requests] == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_newer_release_is_installed_in_the_other_slot(device: Device) -> None:
    first = device.visit()
    publish(device, 1)
    second = device.visit()
    assert (second.version, second.slot != first.slot) == (2, True)
    assert device.running() == STREAMS[1]
    assert device.folder.read_slot(first.slot)[0] == STREAMS[0]


def test_the_first_prefix_is_installed_long_before_the_complete_stream(device: Device) -> None:
    transport = device.transport(rate_bps=5000)
    found = device.visit(transport)
    assert found.first_usable_s is not None
    assert found.first_usable_s < 0.35 * found.seconds
    events = [entry["event"] for entry in device.folder.load().history]
    assert events[:2] == ["saw", "installed"]
    assert events[-1] == "completed"
    assert events.count("grew") >= 2


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_the_prefix_received_by_the_deadline_is_installed_and_completed_later(device: Device, share: float) -> None:
    whole_s = 8 * (len(STREAMS[0]) + 2500) / 5000
    transport = device.transport(rate_bps=5000, deadline_s=share * whole_s)
    found = device.visit(transport)
    assert found.error is None
    assert not found.complete
    assert found.seconds <= share * whole_s + 1.0
    assert found.num_segments >= 1
    again = device.transport()
    rest = device.visit(again)
    assert rest.complete
    assert rest.bytes_reused == found.bytes_fetched
    assert found.bytes_fetched + stream_bytes(again) == len(STREAMS[0])
    assert device.running() == STREAMS[0]


def test_a_deadline_before_the_first_usable_prefix_is_an_error(device: Device) -> None:
    found = device.visit(device.transport(rate_bps=5000, deadline_s=1.0))
    assert isinstance(found.error, NetworkError)
    assert found.version is None


def test_the_target_bounds_the_downloaded_bytes(device: Device) -> None:
    limit = len(STREAMS[0]) // 2
    found = device.visit(target=DownloadTarget(max_bytes=limit))
    assert not found.complete
    assert 0.7 * limit < found.bytes_fetched <= limit
    # No longer prefix promises a gain of .2.
    more = device.visit(target=DownloadTarget(min_accuracy_gain=0.2))
    assert not more.complete
    assert device.visit().complete


@pytest.mark.parametrize("break_after", [450, 700, 1999])
def test_interrupted_downloads_resume_without_repeating_bytes(device: Device, break_after: int) -> None:
    device.visit(device.transport(break_after=None, deadline_s=1e9), target=DownloadTarget(max_bytes=0))
    transport = device.transport(break_after=break_after, rate_bps=1e5)
    found = device.visit(transport)
    assert found.complete
    assert stream_bytes(transport) == len(STREAMS[0]) - found.bytes_reused
    assert device.running() == STREAMS[0]


def test_a_transport_without_any_byte_ends_the_visit_after_six_attempts(device: Device) -> None:
    transport = device.transport(break_after=0)
    found = device.visit(transport)
    assert isinstance(found.error, NetworkError)
    assert "stopped after 6 attempts" in str(found.error)
    assert transport.time.now_s - 1000.0 <= 0.5 + 1 + 2 + 4 + 8


def test_transient_http_errors_are_retried(device: Device) -> None:
    assert device.visit(device.transport(statuses=[503, 429, 500])).complete


def test_a_missing_stream_is_a_network_error(device: Device) -> None:
    next((device.repository.folder / "streams").iterdir()).unlink()
    found = device.visit()
    assert isinstance(found.error, NetworkError)
    assert "404" in str(found.error)


def test_a_rate_below_the_minimum_ends_the_visit(device: Device) -> None:
    transport = device.transport(rate_bps=20, limits=DownloadLimits(min_rate_grace_s=30, max_attempts=2))
    found = device.visit(transport)
    assert isinstance(found.error, NetworkError)
    assert "slower than" in str(found.error)
    assert transport.time.now_s - 1000.0 < 300


def test_a_damaged_segment_is_downloaded_again(device: Device) -> None:
    wrong = [True, True]

    def tamper(path: str, content: bytes) -> bytes:
        if path.startswith("streams/") and wrong and wrong.pop():
            return content[:900] + bytes([content[900] ^ 1]) + content[901:]
        return content

    assert device.visit(device.transport(tamper=tamper)).complete
    assert device.running() == STREAMS[0]


def test_a_segment_that_stays_damaged_is_a_trust_error(device: Device) -> None:
    def tamper(path: str, content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1]) if path.startswith("streams/") else content

    found = device.visit(device.transport(tamper=tamper))
    assert isinstance(found.error, TrustError)
    # The valid segments are installed and kept.
    assert found.version == 1
    assert not found.complete
    assert device.visit().bytes_reused > 0.5 * len(STREAMS[0])


def test_a_prefix_of_a_new_release_is_installed_only_if_it_promises_more_accuracy(device: Device) -> None:
    device.visit()
    publish(device, 1, low=0.7, high=0.99)
    poor = device.visit(target=DownloadTarget(max_bytes=len(STREAMS[1]) // 2))
    assert (poor.version, poor.accuracy) == (1, pytest.approx(0.9))
    assert poor.bytes_fetched > 0
    good = device.visit(target=DownloadTarget(max_bytes=len(STREAMS[1]) - 1))
    assert good.version == 2
    assert 0.9 < good.accuracy < 0.99
    assert not good.complete
    assert good.bytes_reused == poor.bytes_fetched


def test_a_complete_new_release_is_installed_whatever_accuracy_it_promises(device: Device) -> None:
    device.visit()
    publish(device, 1, low=0.1, high=0.2)
    assert device.visit().version == 2


def test_without_measured_accuracies_only_a_complete_new_release_is_installed(device: Device) -> None:
    device.visit()
    publish_stream(device.repository, STREAMS[1])
    assert device.visit(target=DownloadTarget(max_bytes=len(STREAMS[1]) - 1)).version == 1
    assert device.visit().version == 2


def test_a_release_that_fails_a_check_is_never_installed(device: Device, tmp_path: Path) -> None:
    device.visit()
    publish(device, 1)
    seen = []

    def check(path: Path, decoded: DecodedStream, limit_s: float) -> str | None:
        seen.append(decoded.bytes_used)
        return "logits are wrong"

    found = device.visit(checks=[check])
    assert (found.version, found.error) == (1, None)
    assert "logits are wrong" in found.note
    assert device.running() == STREAMS[0]
    # The release is not tried again.
    again = device.visit(checks=[check])
    assert (again.version, again.bytes_fetched, len(seen)) == (1, 0, 1)
    publish(device, 2)
    assert device.visit().version == 3


def test_a_refused_first_release_is_reported_as_an_error(device: Device) -> None:
    found = device.visit(checks=[lambda *_: "no"])
    assert found.version is None
    assert "refused" in str(found.error)


def test_a_health_command_sees_the_candidate_and_decides_by_its_exit_code(device: Device, tmp_path: Path) -> None:
    copy = tmp_path / "seen.airs"
    script = tmp_path / "check.sh"
    script.write_text(f'#!/bin/sh\ncp "$AIRLORA_ADAPTER" {copy}\n')
    assert device.visit(checks=[command_check(f"sh {script}")]).complete
    assert copy.read_bytes() == STREAMS[0]
    assert "exited with 1" in (command_check("false")(copy, None, 9.0) or "")  # type: ignore[arg-type]
    for command in ("", "  ", "'open", "/nothing/here", "no-such-program -x"):
        with pytest.raises(SettingsError, match="health command"):
            command_check(command)


def test_a_check_that_cannot_run_postpones_the_installation(device: Device, tmp_path: Path) -> None:
    device.visit()
    publish(device, 1)
    program = tmp_path / "check"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    gone = command_check(str(program))
    program.unlink()
    checks = (
        (gone, "no such file"),
        (command_check("sleep 9", timeout_s=0.2), "longer than 0.2 s"),
        (command_check("sh -c 'kill -9 $$'"), "killed by signal 9"),
    )
    for check, says in checks:
        found = device.visit(checks=[check])
        assert (found.version, found.error) == (1, None)
        assert says in found.note
        assert device.running() == STREAMS[0]
    found = device.visit(checks=[command_check("true")])
    assert (found.version, found.bytes_fetched) == (2, 0)


def test_a_check_has_at_most_the_time_until_the_deadline(device: Device) -> None:
    limits: list[float] = []

    def check(path: Path, decoded: DecodedStream, limit_s: float) -> None:
        limits.append(limit_s)

    device.visit(device.transport(deadline_s=30.0), checks=[check])
    assert limits
    assert all(5.0 <= limit_s <= 30.0 for limit_s in limits)


def test_a_release_for_another_base_model_is_refused(device: Device) -> None:
    found = device.visit(base_fingerprint="f" * 64)
    assert isinstance(found.error, AdapterError)
    assert "ffffffffffff" in str(found.error)
    assert found.bytes_fetched == 0


def test_a_rollback_lasts_until_a_newer_release(device: Device) -> None:
    device.visit()
    with pytest.raises(SettingsError, match="no earlier adapter"):
        rollback(device.folder)
    publish(device, 1)
    device.visit()
    assert rollback(device.folder).running.version == 1
    assert device.running() == STREAMS[0]
    assert device.visit().version == 1
    publish(device, 2)
    assert device.visit().version == 3


def test_two_agents_cannot_use_one_state_folder(device: Device) -> None:
    other = StateFolder(device.folder.folder)
    with other.locked(), pytest.raises(SettingsError, match="another agent"):
        device.visit()


def test_a_device_keeps_the_tenant_of_its_first_visit(device: Device) -> None:
    add_tenant(device.repository, "acme")
    own = make_stream(7)
    publish_stream(device.repository, own, tenant="acme")
    assert device.visit(tenant="acme").complete
    assert device.running() == own
    with pytest.raises(SettingsError, match="tenant"):
        device.visit()


def test_a_repository_without_a_release_is_no_error(tmp_path: Path, device: Device) -> None:
    from delivery import make_repository

    (tmp_path / "new").mkdir()
    fresh = Device(StateFolder(tmp_path / "fresh"), make_repository(tmp_path / "new"))
    found = fresh.visit()
    assert (found.error, found.version, found.note) == (None, None, "nothing has been released")


def test_expired_metadata_are_a_trust_error(device: Device) -> None:
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    device.repository.write()
    found = device.visit()
    assert isinstance(found.error, TrustError)
    assert "expired" in str(found.error)


def test_the_same_stream_under_a_new_version_is_not_downloaded_again(device: Device) -> None:
    device.visit()
    manifest = current_manifest(device.repository)
    publish_stream(device.repository, STREAMS[0], cuts=[*manifest.cuts[:-1]])
    found = device.visit()
    assert (found.version, found.bytes_fetched) == (2, 0)


def test_a_full_disk_is_an_error_and_loses_no_verified_byte(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.visit()
    publish(device, 1)

    def full(*_: object, **__: object) -> None:
        raise StorageError("cannot write: no space left on device")

    monkeypatch.setattr(StateFolder, "write_candidate", full)
    found = device.visit()
    assert isinstance(found.error, StorageError)
    assert (found.version, device.running()) == (1, STREAMS[0])
    monkeypatch.undo()
    assert device.visit().bytes_fetched < len(STREAMS[1])
    assert device.running() == STREAMS[1]


def test_the_maximum_rate_is_kept(device: Device) -> None:
    transport = device.transport(rate_bps=1e6, limits=DownloadLimits(max_rate_bps=10_000))
    found = device.visit(transport)
    assert found.complete
    assert found.seconds > 0.9 * 8 * len(STREAMS[0]) / 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("stall_timeout_s", 0), ("max_rate_bps", -1.0), ("max_attempts", 0), ("min_rate_grace_s", float("inf"))],
)
def test_download_limits_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        DownloadLimits(**{name: value})


def test_the_manifest_holds_cuts(device: Device) -> None:
    assert all(isinstance(cut, PrefixScore) for cut in current_manifest(device.repository).cuts)


def test_the_measured_rate_excludes_waits_for_answers(device: Device) -> None:
    transport = device.transport(rate_bps=8e4, delay_s=2.0)
    device.visit(transport)
    assert transport.monitor.rate_bps == pytest.approx(8e4, rel=0.05)
    assert device.transport().monitor.rate_bps is None


def test_a_high_rate_with_long_delays_meets_the_deadline(device: Device) -> None:
    found = device.visit(device.transport(rate_bps=1e6, delay_s=3.0, deadline_s=30.0))
    assert found.complete


def test_an_operating_system_error_is_a_storage_error(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.visit()
    publish(device, 1)

    def fails(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(StateFolder, "drop_partials", fails)
    found = device.visit()
    assert isinstance(found.error, StorageError)
    assert "read-only file system" in str(found.error)
    assert found.version == 1


def test_a_failed_write_of_a_segment_keeps_the_running_adapter(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    part = device.visit(target=DownloadTarget(max_bytes=len(STREAMS[0]) // 2))
    before = device.running()
    assert 0 < len(before) < len(STREAMS[0])
    assert not part.complete
    for cut_at in range(1, 6):
        count = 0

        def full(descriptor: int, cut_at: int = cut_at) -> None:
            nonlocal count
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(device.folder.parts)):
                count += 1
                if count >= cut_at:
                    os.ftruncate(descriptor, 10)
                    raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            found = device.visit()
        assert isinstance(found.error, StorageError)
        assert len(device.running()) >= len(before)
        assert STREAMS[0].startswith(device.running())
    assert device.visit().complete
    assert device.running() == STREAMS[0]


def test_the_end_is_chosen_before_a_segment_and_after_an_interruption(device: Device) -> None:
    entry = current_manifest(device.repository).stream
    start, stop = max(segment_ranges(STREAMS[0]), key=lambda place: place[1] - place[0])
    part = PartialStream(device.folder.partial_path(entry.digest), entry)
    for place in segment_ranges(STREAMS[0]):
        if place[1] <= start:
            part.feed(STREAMS[0][place[0] : place[1]])
    asked: list[tuple[int, int]] = []

    def choose_end(part: PartialStream, num_pending: int) -> int:
        asked.append((part.num_bytes, num_pending))
        return stop if part.num_bytes < stop else part.num_bytes

    transport = device.transport(chunk_bytes=50, break_after=stop - start - 100)
    fetch_stream(transport, f"{URL}/{entry.path}", part, RetryPolicy(transport.monitor), choose_end=choose_end)
    assert part.num_bytes == stop
    assert asked == [(start, 0), (start, stop - start - 100), (stop, 0)]


def segment_ranges(stream: bytes) -> Iterator[tuple[int, int]]:
    reader = StreamReader(stream)
    yield 0, reader.index.num_bytes
    while (place := reader.next_range) is not None:
        yield place
        reader.feed(stream[place[0] : place[1]])


def test_a_second_rollback_does_not_restore_the_refused_release(device: Device) -> None:
    device.visit()
    publish(device, 1)
    device.visit()
    assert rollback(device.folder).running.version == 1
    with pytest.raises(SettingsError, match="release 2 .* rolled back before"):
        rollback(device.folder)
    assert device.visit().version == 1


def test_an_unreadable_state_is_not_treated_as_damaged(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.visit()
    publish(device, 1)
    device.visit()
    real = Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name in ("state.json", "adapter.airs"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", denied)
        with pytest.raises(StorageError, match="permission denied"):
            device.visit()
    assert device.folder.load().running.version == 2


@pytest.mark.parametrize(
    ("statuses", "proceeds"),
    [([404], True), ([405], True), ([503, 503, 404], True), ([503] * 9, False), ([403], False), ([429] * 9, False)],
)
def test_only_a_static_server_may_leave_the_rollout_question_unanswered(
    device: Device, statuses: list[int], proceeds: bool
) -> None:
    transport = device.transport(statuses=statuses, statuses_below="v1/")
    found = device.visit(transport, device="pump-7")
    assert found.complete == proceeds
    assert proceeds or isinstance(found.error, NetworkError)


def test_an_undelivered_report_of_a_failure_is_sent_again(device: Device) -> None:
    offline = device.transport(post_error=NetworkError("connection refused"))
    device.visit(offline, device="pump-7", checks=[lambda *_: "no"])
    assert device.folder.load().untold is not None
    online = device.transport()
    device.visit(online, device="pump-7", checks=[lambda *_: "no"])
    assert [report["failed"] for report in online.posts] == [True, False]
    assert set(online.posts[0]) == set(DeviceReport.model_fields)
    assert online.posts[0]["wanted_stream"] == current_manifest(device.repository).stream.digest
    assert device.folder.load().untold is None


def test_a_first_visit_requests_the_bundle_and_the_stream_alone(device: Device) -> None:
    transport = device.transport(with_bundle=True)
    found = device.visit(transport)
    assert (found.error, found.complete) == (None, True)
    assert [path.partition("/")[0] for path, _, _ in transport.requests] == ["metadata", "streams"]
    slow = device.transport()
    Device(StateFolder(device.folder.folder.parent / "other"), device.repository).visit(slow)
    assert found.metadata_bytes < 0.7 * sum(stop - start for path, start, stop in slow.sent if "streams" not in path)


def test_a_new_root_is_fetched_besides_the_bundle(device: Device) -> None:
    device.visit(device.transport(with_bundle=True))
    rotate_key(device.repository, "targets")
    publish(device, 1)
    transport = device.transport(with_bundle=True)
    assert device.visit(transport).version == 2
    assert [path for path, _, _ in transport.requests][:2] == ["metadata/bundle.z", "metadata/2.root.json"]
    assert device.running() == STREAMS[1]


@pytest.mark.parametrize(
    "bundle", [b"", b"nonsense", zlib.compress(b"{}"), zlib.compress(b"[" * 100_000), bytes(3_000_000)]
)
def test_an_invalid_bundle_is_replaced_by_single_files(device: Device, bundle: bytes) -> None:
    transport = device.transport(
        with_bundle=True, tamper=lambda path, data: bundle if path.endswith("bundle.z") else data
    )
    assert device.visit(transport).complete


def test_a_forged_or_old_bundle_installs_nothing_unsigned(device: Device) -> None:
    stale = (device.repository.metadata / "bundle.z").read_bytes()
    device.visit()
    publish(device, 1)
    files = unpack_bundle((device.repository.metadata / "bundle.z").read_bytes())
    forged = {path: content.replace(b"latest.json", b"lastest.json") for path, content in files.items()}
    for bundle in (pack_bundle(forged)[0], stale):
        found = device.visit(
            device.transport(
                with_bundle=True, tamper=lambda path, data, b=bundle: b if path.endswith("bundle.z") else data
            )
        )
        assert found.error is None
        assert device.running() in STREAMS[:2]
    assert device.visit(device.transport(with_bundle=True)).version == 2


def test_an_expired_bundle_is_replaced_by_single_files(device: Device) -> None:
    device.visit()
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    device.repository.write()
    frozen = (device.repository.metadata / "bundle.z").read_bytes()
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = 7
    device.repository.write()
    publish(device, 1)
    transport = device.transport(
        with_bundle=True, tamper=lambda path, data: frozen if path.endswith("bundle.z") else data
    )
    assert device.visit(transport).version == 2


def test_an_interrupted_bundle_is_resumed(device: Device) -> None:
    transport = device.transport(with_bundle=True, break_after=900)
    assert device.visit(transport).complete


def test_slow_checks_run_rarely_during_a_download(device: Device) -> None:
    seen: list[int] = []
    transport = device.transport(rate_bps=50_000.0)

    def check(path: Path, decoded: DecodedStream, limit_s: float) -> None:
        seen.append(decoded.bytes_used)
        transport.time.sleep(1.0)

    quick = device.visit(device.transport(rate_bps=50_000.0), checks=[lambda _, decoded, __: seen.append(-1)])
    num_quick = len(seen)
    shutil.rmtree(device.folder.folder)
    seen.clear()
    device.folder = StateFolder(device.folder.folder)
    found = device.visit(transport, checks=[check])
    assert found.complete
    assert quick.complete
    # The first prefix, the complete stream and few prefixes between are checked.
    assert 2 <= len(seen) < num_quick
    assert seen[-1] == len(STREAMS[0])


def test_a_probe_refuses_a_release_below_its_minimum_accuracy(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "probe.tsv"
    data.write_text("text\tlabel\nfine\t1\n")
    calls: list[list[str]] = []

    def evaluate(words: list[str], *_: object) -> health.CommandResult:
        calls.append(words)
        return health.CommandResult(0, b'{"quality": 0.75}', b"")

    monkeypatch.setattr(health, "run_command", evaluate)
    found = device.visit(checks=[AccuracyProbe(data, 0.7, model="some/model")])
    assert (found.complete, found.probed) == (True, 0.75)
    assert calls[-1][3:4] + calls[-1][5:] == ["evaluate", "--data", str(data), "--model", "some/model", "--json"]
    publish(device, 1)
    found = device.visit(checks=[AccuracyProbe(data, 0.8)])
    assert (found.version, found.error) == (1, None)
    assert "accuracy 75.0%, below 80.0%" in found.note
    publish(device, 2)
    missing = health.CommandResult(2, b"", b"airlora: the embedded model is not installed\n")
    monkeypatch.setattr(health, "run_command", lambda *_: missing)
    found = device.visit(checks=[AccuracyProbe(data, 0.1)])
    assert "probe: the embedded model is not installed" in found.note
    assert len(device.folder.load().bad) == 1
    for least in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match="minimum accuracy"):
            AccuracyProbe(data, least)
    with pytest.raises(SettingsError, match="no such file"):
        AccuracyProbe(tmp_path / "nothing", 0.5)


def is_alive(pid: int) -> bool:
    """Return whether a process runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_a_command_that_takes_too_long_is_killed_with_its_children(device: Device, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = f"sh -c 'sleep 60 & echo $! > {pid_file}; wait'"
    found = device.visit(checks=[command_check(command, timeout_s=1.0)])
    assert "took longer than 1 s" in found.note
    deadline = time.monotonic() + 10.0
    while is_alive(int(pid_file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(int(pid_file.read_text()))
    assert device.folder.load().bad == []


def test_a_command_may_leave_a_process_running(device: Device) -> None:
    began = time.monotonic()
    found = device.visit(checks=[command_check("sh -c 'sleep 20 & exit 0'")])
    assert found.complete
    assert time.monotonic() - began < 15.0


def test_only_the_end_of_a_commands_output_is_kept(tmp_path: Path) -> None:
    command = "sh -c 'yes | head -c 30000000; echo the disk smells >&2; exit 3'"
    words = shlex.split(command)
    ended = health.run_command(words, tmp_path, 60.0, "sh")
    assert (ended.code, len(ended.output), ended.last_line) == (3, health.MAX_OUTPUT_BYTES, "the disk smells")


@pytest.mark.parametrize("with_root", [False, True])
def test_a_lost_root_is_not_replaced_by_an_unverified_one(device: Device, tmp_path: Path, *, with_root: bool) -> None:
    device.visit()
    shutil.rmtree(device.folder.trust)
    device.folder = StateFolder(device.folder.folder)
    publish(device, 1)
    found = device.visit(**({} if with_root else {"root": None}))
    if with_root:
        assert (found.version, found.error) == (2, None)
    else:
        assert isinstance(found.error, TrustError)
        assert "No trusted root metadata" in str(found.error)
        assert device.running() == STREAMS[0]


def test_a_rollback_waits_for_the_end_of_a_visit(device: Device) -> None:
    device.visit()
    publish(device, 1)
    device.visit()
    inside = threading.Event()

    def agent_at_work() -> None:
        with device.folder.locked():
            inside.set()
            time.sleep(0.5)

    thread = threading.Thread(target=agent_at_work)
    thread.start()
    inside.wait()
    with pytest.raises(SettingsError, match="another agent"):
        rollback(StateFolder(device.folder.folder))
    rollback(StateFolder(device.folder.folder), wait_s=30.0)
    thread.join()
    assert device.running() == STREAMS[0]


def test_a_clock_ten_years_ahead_or_behind_installs_no_older_release(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.visit()
    publish(device, 1)
    for years, says in ((10, "expired"), (-10, None)):
        with monkeypatch.context() as patch:
            patch.setattr(trusted_metadata_set, "datetime", SimpleNamespace(datetime=jumped(years), timezone=timezone))
            found = device.visit()
        if says is None:
            assert (found.version, found.error) == (2, None)
        else:
            assert isinstance(found.error, TrustError)
            assert says in str(found.error)
            assert (found.version, device.running()) == (1, STREAMS[0])
    assert device.visit().version == 2


def jumped(years: int) -> type:
    class Jumped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(days=365 * years)

    return Jumped


def test_a_prefix_that_fails_a_check_does_not_refuse_the_release(device: Device) -> None:
    device.visit()
    publish(device, 1)

    def poor(path: Path, decoded: DecodedStream, limit_s: float) -> str | None:
        return None if decoded.bytes_used > 0.7 * len(STREAMS[1]) else "too poor"

    part = device.visit(
        checks=[poor], transport=device.transport(rate_bps=50_000.0, deadline_s=0.6 * 8 * 13_500 / 50_000.0)
    )
    assert (part.version, part.complete) == (1, True)
    assert "fail a check: too poor" in part.note or "deadline" in part.note
    assert device.folder.load().bad == []
    assert device.visit(checks=[poor]).version == 2
    # All that is wanted of a release fails the check: the release is refused.
    publish(device, 2, low=0.95, high=0.99)
    found = device.visit(checks=[lambda *_: "too poor"], target=DownloadTarget(max_bytes=len(STREAMS[2]) // 2))
    assert "was refused" in found.note
    assert found.version == 2


def test_the_agent_logs_what_it_decides(device: Device, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "airlora.delivery")
    device.visit(target=DownloadTarget(max_bytes=len(STREAMS[0]) // 2))
    num_held = device.folder.load().running.num_bytes
    device.visit()
    publish(device, 1)
    device.visit(checks=[lambda *_: "bad\n\x1b[31mlogits"])
    for text in (
        f"release 1: downloading up to byte {len(STREAMS[0]) // 2} of {len(STREAMS[0])}, resuming at byte 0",
        "installed: version 1, ",
        f"resuming at byte {num_held}",
        f"completed: version 1, num_bytes {len(STREAMS[0])}, slot a",
        "refused: version 2, reason bad  [31mlogits",
        "release 2 was refused: bad  [31mlogits",
    ):
        assert text in caplog.text
    assert "\x1b" not in caplog.text


def test_a_visit_loads_no_training_code(device: Device) -> None:
    script = """
import sys
from pathlib import Path
from airlora.delivery.device.agent import visit
from airlora.delivery.device.decisions import AgentConfig
from airlora.delivery.device.http_transport import HttpTransport
from airlora.delivery.device.state import StateFolder
from airlora.testing.simulated import SimulatedTransport

repository, state = map(Path, sys.argv[1:])
root = (repository / "metadata" / "1.root.json").read_bytes()
found = visit(StateFolder(state), AgentConfig("http://x", root=root), SimulatedTransport(repository, lambda _: 1e9))
assert found.error is None and found.complete, found
heavy = ("torch", "transformers", "peft", "scipy", "matplotlib", "airlora.adapters", "airlora.codec.encoder")
print([name for name in sys.modules if name.startswith(heavy)])
"""
    command = [sys.executable, "-c", script, str(device.repository.folder), str(device.folder.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
