"""What a visit comes to: how much is taken, when it is installed, what is never fetched twice."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
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
    HttpLink,
    LinkLimits,
    PrefixScore,
    StateFolder,
    Wish,
    add_tenant,
    command_check,
    current_manifest,
    publish_stream,
    rollback,
    rotate_key,
)
from airlora.delivery.device import agent, health
from airlora.delivery.device.answers import HttpError
from airlora.delivery.device.download import PartialStream, fetch_stream
from airlora.delivery.device.link import Patience
from airlora.delivery.repository.bundle import pack_bundle, unpack_bundle
from airlora.errors import AdapterError, NetworkError, SettingsError, StorageError, TrustError
from delivery import STREAMS, URL, Device, cuts_of, make_stream


def publish(device: Device, place: int, **options: float) -> None:
    publish_stream(device.repository, STREAMS[place], cuts=cuts_of(STREAMS[place], **options))


def stream_bytes(link: object) -> int:
    return sum(stop - start for path, start, stop in link.sent if path.startswith("streams/"))  # type: ignore[attr-defined]


def test_the_first_visit_brings_the_whole_release(device: Device) -> None:
    found = device.visit()
    assert (found.error, found.version, found.complete) == (None, 1, True)
    assert found.bytes_fetched == len(STREAMS[0])
    assert found.accuracy == pytest.approx(0.9)
    assert device.running() == STREAMS[0]
    assert not list(device.folder.parts.iterdir())


def test_nothing_is_fetched_of_what_runs_already(device: Device) -> None:
    device.visit()
    link = device.link()
    found = device.visit(link)
    assert (found.bytes_fetched, found.bytes_reused) == (0, len(STREAMS[0]))
    assert stream_bytes(link) == 0
    # Nothing but a look for a newer root and the timestamp.
    assert [path for path, _, _ in link.requests] == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_a_newer_release_goes_to_the_other_slot(device: Device) -> None:
    first = device.visit()
    publish(device, 1)
    second = device.visit()
    assert (second.version, second.slot != first.slot) == (2, True)
    assert device.running() == STREAMS[1]
    assert device.folder.read_slot(first.slot)[0] == STREAMS[0]


def test_it_can_be_used_long_before_it_is_whole(device: Device) -> None:
    link = device.link(rate_bps=5000)
    found = device.visit(link)
    assert found.first_usable_s is not None
    assert found.first_usable_s < 0.35 * found.seconds
    events = [entry["event"] for entry in device.folder.load().history]
    assert events[:2] == ["saw", "installed"]
    assert events[-1] == "completed"
    assert events.count("grew") >= 2


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_at_the_deadline_it_runs_what_has_come(device: Device, share: float) -> None:
    whole_s = 8 * (len(STREAMS[0]) + 2500) / 5000
    link = device.link(rate_bps=5000, deadline_s=share * whole_s)
    found = device.visit(link)
    assert found.error is None
    assert not found.complete
    assert found.seconds <= share * whole_s + 1.0
    assert found.num_segments >= 1
    again = device.link()
    rest = device.visit(again)
    assert rest.complete
    assert rest.bytes_reused == found.bytes_fetched
    assert found.bytes_fetched + stream_bytes(again) == len(STREAMS[0])
    assert device.running() == STREAMS[0]


def test_a_deadline_before_anything_can_be_used_is_no_success(device: Device) -> None:
    found = device.visit(device.link(rate_bps=5000, deadline_s=1.0))
    assert isinstance(found.error, NetworkError)
    assert found.version is None


def test_bytes_and_gain_bound_what_is_taken(device: Device) -> None:
    limit = len(STREAMS[0]) // 2
    found = device.visit(wish=Wish(max_bytes=limit))
    assert not found.complete
    assert 0.7 * limit < found.bytes_fetched <= limit
    # The last step promises .9 at most: nothing longer is worth a fifth of the answers.
    more = device.visit(wish=Wish(least_gain=0.2))
    assert not more.complete
    assert device.visit().complete


@pytest.mark.parametrize("break_after", [450, 700, 1999])
def test_breaks_cost_no_verified_byte(device: Device, break_after: int) -> None:
    device.visit(device.link(break_after=None, deadline_s=1e9), wish=Wish(max_bytes=0))
    link = device.link(break_after=break_after, rate_bps=1e5)
    found = device.visit(link)
    assert found.complete
    assert stream_bytes(link) == len(STREAMS[0]) - found.bytes_reused
    assert device.running() == STREAMS[0]


def test_a_link_that_never_brings_anything_is_given_up(device: Device) -> None:
    link = device.link(break_after=0)
    found = device.visit(link)
    assert isinstance(found.error, NetworkError)
    assert "given up after 6 attempts" in str(found.error)
    assert link.time.now_s - 1000.0 <= 0.5 + 1 + 2 + 4 + 8


def test_servers_that_are_busy_are_asked_again(device: Device) -> None:
    assert device.visit(device.link(statuses=[503, 429, 500])).complete


def test_a_stream_that_is_gone_is_told(device: Device) -> None:
    next((device.repository.folder / "streams").iterdir()).unlink()
    found = device.visit()
    assert isinstance(found.error, NetworkError)
    assert "404" in str(found.error)


def test_a_slow_link_is_given_up_in_time(device: Device) -> None:
    link = device.link(rate_bps=20, limits=LinkLimits(patience_s=30, max_attempts=2))
    found = device.visit(link)
    assert isinstance(found.error, NetworkError)
    assert "slower than" in str(found.error)
    assert link.time.now_s - 1000.0 < 300


def test_a_damaged_piece_is_fetched_again(device: Device) -> None:
    wrong = [True, True]

    def tamper(path: str, content: bytes) -> bytes:
        if path.startswith("streams/") and wrong and wrong.pop():
            return content[:900] + bytes([content[900] ^ 1]) + content[901:]
        return content

    assert device.visit(device.link(tamper=tamper)).complete
    assert device.running() == STREAMS[0]


def test_a_piece_that_stays_wrong_is_not_trusted(device: Device) -> None:
    def tamper(path: str, content: bytes) -> bytes:
        return content[:-1] + bytes([content[-1] ^ 1]) if path.startswith("streams/") else content

    found = device.visit(device.link(tamper=tamper))
    assert isinstance(found.error, TrustError)
    # What was right is run, and kept.
    assert found.version == 1
    assert not found.complete
    assert device.visit().bytes_reused > 0.5 * len(STREAMS[0])


def test_a_part_of_a_new_release_replaces_an_old_one_only_if_it_promises_more(device: Device) -> None:
    device.visit()
    publish(device, 1, low=0.7, high=0.99)
    poor = device.visit(wish=Wish(max_bytes=len(STREAMS[1]) // 2))
    assert (poor.version, poor.accuracy) == (1, pytest.approx(0.9))
    assert poor.bytes_fetched > 0
    good = device.visit(wish=Wish(max_bytes=len(STREAMS[1]) - 1))
    assert good.version == 2
    assert 0.9 < good.accuracy < 0.99
    assert not good.complete
    assert good.bytes_reused == poor.bytes_fetched


def test_a_whole_new_release_replaces_an_old_one_whatever_it_promises(device: Device) -> None:
    device.visit()
    publish(device, 1, low=0.1, high=0.2)
    assert device.visit().version == 2


def test_without_measures_an_old_release_stays_until_the_new_one_is_whole(device: Device) -> None:
    device.visit()
    publish_stream(device.repository, STREAMS[1])
    assert device.visit(wish=Wish(max_bytes=len(STREAMS[1]) - 1)).version == 1
    assert device.visit().version == 2


def test_a_candidate_that_fails_its_check_is_never_run(device: Device, tmp_path: Path) -> None:
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
    # It is not tried again, until there is another one.
    again = device.visit(checks=[check])
    assert (again.version, again.bytes_fetched, len(seen)) == (1, 0, 1)
    publish(device, 2)
    assert device.visit().version == 3


def test_a_device_without_any_adapter_says_that_the_first_was_refused(device: Device) -> None:
    found = device.visit(checks=[lambda *_: "no"])
    assert found.version is None
    assert "refused" in str(found.error)


def test_health_commands(device: Device, tmp_path: Path) -> None:
    copy = tmp_path / "seen.airs"
    script = tmp_path / "check.sh"
    script.write_text(f'#!/bin/sh\ncp "$AIRLORA_ADAPTER" {copy}\n')
    assert device.visit(checks=[command_check(f"sh {script}")]).complete
    assert copy.read_bytes() == STREAMS[0]
    assert "exited with 1" in (command_check("false")(copy, None, 9.0) or "")  # type: ignore[arg-type]
    for command in ("", "  ", "'open", "/nothing/here", "no-such-program -x"):
        with pytest.raises(SettingsError, match="health command"):
            command_check(command)


def test_a_check_that_cannot_tell_refuses_nothing_for_good(device: Device, tmp_path: Path) -> None:
    """A program that is gone, is killed or takes too long says nothing of the adapter."""
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


def test_a_check_has_no_more_time_than_the_deadline_leaves(device: Device) -> None:
    limits: list[float] = []

    def check(path: Path, decoded: DecodedStream, limit_s: float) -> None:
        limits.append(limit_s)

    device.visit(device.link(deadline_s=30.0), checks=[check])
    assert limits
    assert all(5.0 <= limit_s <= 30.0 for limit_s in limits)


def test_another_base_model_is_refused(device: Device) -> None:
    found = device.visit(base_fingerprint="f" * 64)
    assert isinstance(found.error, AdapterError)
    assert "ffffffffffff" in str(found.error)
    assert found.bytes_fetched == 0


def test_going_back_and_forward_again(device: Device) -> None:
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


def test_two_agents_on_one_state(device: Device) -> None:
    other = StateFolder(device.folder.folder)
    with other.locked(), pytest.raises(SettingsError, match="another agent"):
        device.visit()


def test_a_tenants_device(device: Device) -> None:
    add_tenant(device.repository, "acme")
    own = make_stream(7)
    publish_stream(device.repository, own, tenant="acme")
    assert device.visit(tenant="acme").complete
    assert device.running() == own
    with pytest.raises(SettingsError, match="tenant"):
        device.visit()


def test_nothing_released_yet_is_no_error(tmp_path: Path, device: Device) -> None:
    from delivery import make_repository

    (tmp_path / "new").mkdir()
    fresh = Device(StateFolder(tmp_path / "fresh"), make_repository(tmp_path / "new"))
    found = fresh.visit()
    assert (found.error, found.version, found.note) == (None, None, "nothing has been released")


def test_a_clock_before_the_expiry_and_after_it(device: Device) -> None:
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    device.repository.write()
    found = device.visit()
    assert isinstance(found.error, TrustError)
    assert "expired" in str(found.error)


def test_the_same_bytes_as_a_new_release_are_not_fetched_again(device: Device) -> None:
    device.visit()
    manifest = current_manifest(device.repository)
    publish_stream(device.repository, STREAMS[0], cuts=[*manifest.cuts[:-1]])
    found = device.visit()
    assert (found.version, found.bytes_fetched) == (2, 0)


def test_a_full_disk_is_told_and_loses_nothing(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_rate_can_be_bounded(device: Device) -> None:
    link = device.link(rate_bps=1e6, limits=LinkLimits(max_rate_bps=10_000))
    found = device.visit(link)
    assert found.complete
    assert found.seconds > 0.9 * 8 * len(STREAMS[0]) / 10_000


@pytest.mark.parametrize(
    ("name", "value"),
    [("stall_timeout_s", 0), ("max_rate_bps", -1.0), ("max_attempts", 0), ("patience_s", float("inf"))],
)
def test_limits_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        LinkLimits(**{name: value})


def test_cuts_are_what_the_manifest_says(device: Device) -> None:
    assert all(isinstance(cut, PrefixScore) for cut in current_manifest(device.repository).cuts)


def test_the_rate_leaves_out_what_answers_are_waited_for(device: Device) -> None:
    link = device.link(rate_bps=8e4, delay_s=2.0)
    device.visit(link)
    assert link.rate_bps == pytest.approx(8e4, rel=0.05)
    assert device.link().rate_bps is None


def test_a_fast_link_with_long_delays_is_not_given_up_too_soon(device: Device) -> None:
    found = device.visit(device.link(rate_bps=1e6, delay_s=3.0, deadline_s=30.0))
    assert found.complete


def test_whatever_the_disk_says_is_told(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    device.visit()
    publish(device, 1)

    def fails(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("airlora.delivery.device.agent._Visitor._drop_other_parts", fails)
    found = device.visit()
    assert isinstance(found.error, StorageError)
    assert "read-only file system" in str(found.error)
    assert found.version == 1


def test_a_write_that_fails_leaves_what_runs(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The active slot is to grow, and the disk is full when a piece is written: nothing shorter takes its place."""
    part = device.visit(wish=Wish(max_bytes=len(STREAMS[0]) // 2))
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


def test_what_came_of_a_piece_counts_when_the_time_left_is_looked_at(device: Device) -> None:
    """Asked is before a piece and after a break, not at every chunk of a piece that is on its way."""
    entry = current_manifest(device.repository).stream
    start, stop = max(pieces(STREAMS[0]), key=lambda place: place[1] - place[0])
    part = PartialStream(device.folder.part_path(entry.digest), entry)
    for place in pieces(STREAMS[0]):
        if place[1] <= start:
            part.feed(STREAMS[0][place[0] : place[1]])
    asked: list[tuple[int, int]] = []

    def wants_more(part: PartialStream, num_pending: int) -> int:
        asked.append((part.num_bytes, num_pending))
        return stop if part.num_bytes < stop else part.num_bytes

    link = device.link(chunk_bytes=50, break_after=stop - start - 100)
    fetch_stream(link, f"{URL}/{entry.path}", part, Patience(link), wants_more=wants_more)
    assert part.num_bytes == stop
    assert asked == [(start, 0), (start, stop - start - 100), (stop, 0)]


@pytest.mark.parametrize(("missing", "waits"), [(400, True), (1200, False)])
def test_a_piece_is_begun_if_the_rest_of_it_comes_in_time(device: Device, missing: int, waits: bool) -> None:
    start, stop = max(pieces(STREAMS[0]), key=lambda place: place[1] - place[0])
    link = device.link(rate_bps=8000.0, deadline_s=1.0)
    link.timed_bytes, link.busy_s = 10_000, 10.0
    entry = current_manifest(device.repository).stream
    part = PartialStream(device.folder.part_path(entry.digest), entry)
    for place in pieces(STREAMS[0]):
        if place[1] <= start:
            part.feed(STREAMS[0][place[0] : place[1]])
    visitor = agent._Visitor(device.folder, device.plan, link, Patience(link))
    assert stop - start > 1000
    limit = visitor._in_time(part, stop - start - missing, entry.total_bytes)
    assert limit == (entry.total_bytes if waits else part.num_bytes)


def pieces(stream: bytes) -> Iterator[tuple[int, int]]:
    reader = StreamReader(stream)
    yield 0, reader.head.num_bytes
    while (place := reader.next_range) is not None:
        yield place
        reader.feed(stream[place[0] : place[1]])


def test_what_was_rolled_back_is_not_rolled_back_to(device: Device) -> None:
    device.visit()
    publish(device, 1)
    device.visit()
    assert rollback(device.folder).running.version == 1
    with pytest.raises(SettingsError, match="release 2 .* rolled back before"):
        rollback(device.folder)
    assert device.visit().version == 1


def test_a_state_that_cannot_be_read_is_not_taken_for_damaged(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_only_a_server_of_files_alone_lets_everybody_proceed(
    device: Device, statuses: list[int], proceeds: bool
) -> None:
    link = device.link()
    real = link._content
    left = list(statuses)

    def content(url: str, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        if path.startswith("v1/"):
            raise HttpError(f"{url}: refused", left.pop(0) if left else 404)
        yield from real(url, path, start, stop)

    link._content = content
    found = device.visit(link, device="pump-7")
    assert found.complete == proceeds
    assert proceeds or isinstance(found.error, NetworkError)


def test_a_failure_that_nobody_took_is_told_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, object]] = []
    is_up = False

    def post(link: HttpLink, url: str, body: bytes) -> None:
        if not is_up:
            raise NetworkError(f"{url}: connection refused")
        told.append(json.loads(body))

    monkeypatch.setattr(HttpLink, "post", post)
    device.visit(device="pump-7", checks=[lambda *_: "no"])
    assert device.folder.load().untold is not None
    is_up = True
    device.visit(device="pump-7", checks=[lambda *_: "no"])
    assert [report["failed"] for report in told] == [True, False]
    assert told[0]["wanted_stream"] == current_manifest(device.repository).stream.digest
    assert device.folder.load().untold is None


def test_a_first_visit_asks_for_two_files(device: Device) -> None:
    """The metadata come in one, and the stream."""
    link = device.link(with_bundle=True)
    found = device.visit(link)
    assert (found.error, found.complete) == (None, True)
    assert [path.partition("/")[0] for path, _, _ in link.requests] == ["metadata", "streams"]
    slow = device.link()
    Device(StateFolder(device.folder.folder.parent / "other"), device.repository).visit(slow)
    assert found.metadata_bytes < 0.7 * sum(stop - start for path, start, stop in slow.sent if "streams" not in path)


def test_a_new_release_and_a_new_root_by_the_bundle(device: Device) -> None:
    device.visit(device.link(with_bundle=True))
    rotate_key(device.repository, "targets")
    publish(device, 1)
    link = device.link(with_bundle=True)
    assert device.visit(link).version == 2
    assert [path for path, _, _ in link.requests][:2] == ["metadata/bundle.z", "metadata/2.root.json"]
    assert device.running() == STREAMS[1]


@pytest.mark.parametrize(
    "bundle", [b"", b"nonsense", zlib.compress(b"{}"), zlib.compress(b"[" * 100_000), bytes(3_000_000)]
)
def test_a_bundle_that_is_none_is_done_without(device: Device, bundle: bytes) -> None:
    link = device.link(with_bundle=True, tamper=lambda path, data: bundle if path.endswith("bundle.z") else data)
    assert device.visit(link).complete


def test_a_bundle_that_lies_installs_nothing(device: Device) -> None:
    """One of another repository, and one from before: what is asked for then is what is signed."""
    stale = (device.repository.metadata / "bundle.z").read_bytes()
    device.visit()
    publish(device, 1)
    files = unpack_bundle((device.repository.metadata / "bundle.z").read_bytes())
    forged = {path: content.replace(b"latest.json", b"lastest.json") for path, content in files.items()}
    for bundle in (pack_bundle(forged)[0], stale):
        found = device.visit(
            device.link(with_bundle=True, tamper=lambda path, data, b=bundle: b if path.endswith("bundle.z") else data)
        )
        assert found.error is None
        assert device.running() in STREAMS[:2]
    assert device.visit(device.link(with_bundle=True)).version == 2


def test_a_frozen_bundle_hides_no_longer_than_a_frozen_timestamp(device: Device) -> None:
    device.visit()
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = -1
    device.repository.write()
    frozen = (device.repository.metadata / "bundle.z").read_bytes()
    with device.repository.edit_timestamp() as timestamp:
        timestamp.unrecognized_fields["x-airlora-days"] = 7
    device.repository.write()
    publish(device, 1)
    link = device.link(with_bundle=True, tamper=lambda path, data: frozen if path.endswith("bundle.z") else data)
    assert device.visit(link).version == 2


def test_a_link_that_breaks_within_the_bundle_asks_again(device: Device) -> None:
    link = device.link(with_bundle=True, break_after=900)
    assert device.visit(link).complete


def test_checks_that_take_long_do_not_hold_up_the_stream(device: Device) -> None:
    seen: list[int] = []
    link = device.link(rate_bps=50_000.0)

    def check(path: Path, decoded: DecodedStream, limit_s: float) -> None:
        seen.append(decoded.bytes_used)
        link.time.sleep(1.0)

    quick = device.visit(device.link(rate_bps=50_000.0), checks=[lambda _, decoded, __: seen.append(-1)])
    num_quick = len(seen)
    shutil.rmtree(device.folder.folder)
    seen.clear()
    device.folder = StateFolder(device.folder.folder)
    found = device.visit(link, checks=[check])
    assert found.complete
    assert quick.complete
    # The first prefix, the whole, and little between.
    assert 2 <= len(seen) < num_quick
    assert seen[-1] == len(STREAMS[0])


def test_a_probe_measures_and_refuses(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "probe.tsv"
    data.write_text("text\tlabel\nfine\t1\n")
    calls: list[list[str]] = []

    def evaluate(words: list[str], *_: object) -> health.Ended:
        calls.append(words)
        return health.Ended(0, b'{"accuracy": 0.75}', b"")

    monkeypatch.setattr(health, "run_command", evaluate)
    found = device.visit(checks=[AccuracyProbe(data, 0.7, model="some/model")])
    assert (found.complete, found.probed) == (True, 0.75)
    assert calls[-1][3:4] + calls[-1][5:] == ["evaluate", "--data", str(data), "--model", "some/model", "--json"]
    publish(device, 1)
    found = device.visit(checks=[AccuracyProbe(data, 0.8)])
    assert (found.version, found.error) == (1, None)
    assert "75.0% of the answers are right, fewer than 80.0%" in found.note
    publish(device, 2)
    missing = health.Ended(2, b"", b"airlora: the embedded model is not installed\n")
    monkeypatch.setattr(health, "run_command", lambda *_: missing)
    found = device.visit(checks=[AccuracyProbe(data, 0.1)])
    assert "probe: the embedded model is not installed" in found.note
    assert len(device.folder.load().bad) == 1
    for least in (-0.1, 1.1, float("nan")):
        with pytest.raises(SettingsError, match="least accuracy"):
            AccuracyProbe(data, least)
    with pytest.raises(SettingsError, match="no such file"):
        AccuracyProbe(tmp_path / "nothing", 0.5)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_what_a_check_starts_is_stopped_with_it_if_it_takes_too_long(device: Device, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = f"sh -c 'sleep 60 & echo $! > {pid_file}; wait'"
    found = device.visit(checks=[command_check(command, timeout_s=1.0)])
    assert "took longer than 1 s" in found.note
    deadline = time.monotonic() + 10.0
    while is_alive(int(pid_file.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(int(pid_file.read_text()))
    assert device.folder.load().bad == []


def test_a_check_may_leave_something_running(device: Device) -> None:
    began = time.monotonic()
    found = device.visit(checks=[command_check("sh -c 'sleep 20 & exit 0'")])
    assert found.complete
    assert time.monotonic() - began < 15.0


def test_of_what_a_check_says_the_end_is_kept(tmp_path: Path) -> None:
    command = "sh -c 'yes | head -c 30000000; echo the disk smells >&2; exit 3'"
    words = shlex.split(command)
    ended = health.run_command(words, tmp_path, 60.0, "sh")
    assert (ended.code, len(ended.output), ended.last_line) == (3, health.KEPT_BYTES, "the disk smells")


@pytest.mark.parametrize("with_root", [False, True])
def test_a_root_of_trust_that_is_gone_is_not_made_up_for_by_a_strangers(
    device: Device, tmp_path: Path, *, with_root: bool
) -> None:
    device.visit()
    shutil.rmtree(device.folder.trust)
    device.folder = StateFolder(device.folder.folder)
    publish(device, 1)
    found = device.visit(**({} if with_root else {"root": None}))
    if with_root:
        assert (found.version, found.error) == (2, None)
    else:
        assert isinstance(found.error, TrustError)
        assert "give it again by --root" in str(found.error)
        assert device.running() == STREAMS[0]


def test_a_rollback_waits_for_a_visit_to_end(device: Device) -> None:
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


def test_a_clock_that_jumps(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten years on nothing is fresh any more, and what runs runs on; ten years back nothing older is taken."""
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


def test_a_prefix_that_does_not_do_is_no_bad_release(device: Device) -> None:
    """A probe finds the first components too poor: what comes after them is still fetched, and the whole is run."""
    device.visit()
    publish(device, 1)

    def poor(path: Path, decoded: DecodedStream, limit_s: float) -> str | None:
        return None if decoded.bytes_used > 0.7 * len(STREAMS[1]) else "too poor"

    part = device.visit(checks=[poor], link=device.link(rate_bps=50_000.0, deadline_s=0.6 * 8 * 13_500 / 50_000.0))
    assert (part.version, part.complete) == (1, True)
    assert "do not do: too poor" in part.note or "deadline" in part.note
    assert device.folder.load().bad == []
    assert device.visit(checks=[poor]).version == 2
    # All that is wanted of it, and it does not do: that is an answer.
    publish(device, 2, low=0.95, high=0.99)
    found = device.visit(checks=[lambda *_: "too poor"], wish=Wish(max_bytes=len(STREAMS[2]) // 2))
    assert "was refused" in found.note
    assert found.version == 2
