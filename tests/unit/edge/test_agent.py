"""What a visit comes to: how much is taken, when it is installed, what is never fetched twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from airlora.codec import DecodedStream
from airlora.edge import LinkLimits, StateFolder, Wish, command_check, rollback
from airlora.errors import AdapterError, NetworkError, SettingsError, StorageError, TrustError
from airlora.release import Cut, add_tenant, current_manifest, publish_stream
from delivery import STREAMS, Device, cuts_of, make_stream


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

    def check(path: Path, decoded: DecodedStream) -> str | None:
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
    found = device.visit(checks=[lambda path, decoded: "no"])
    assert found.version is None
    assert "refused" in str(found.error)


def test_health_commands(device: Device, tmp_path: Path) -> None:
    copy = tmp_path / "seen.airs"
    script = tmp_path / "check.sh"
    script.write_text(f'#!/bin/sh\ncp "$AIRLORA_ADAPTER" {copy}\n')
    assert device.visit(checks=[command_check(f"sh {script}")]).complete
    assert copy.read_bytes() == STREAMS[0]
    for command, says in (("false", "exited with 1"), ("sleep 9", "longer than"), ("/nothing/here", "no such file")):
        check = command_check(command, timeout_s=0.2)
        assert says in (check(copy, None) or "")  # type: ignore[arg-type]
    for command in ("", "  ", "'open"):
        with pytest.raises(SettingsError, match="health command"):
            command_check(command)


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
    assert all(isinstance(cut, Cut) for cut in current_manifest(device.repository).cuts)


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

    monkeypatch.setattr("airlora.edge.agent._Visitor._drop_other_parts", fails)
    found = device.visit()
    assert isinstance(found.error, StorageError)
    assert "read-only file system" in str(found.error)
    assert found.version == 1
