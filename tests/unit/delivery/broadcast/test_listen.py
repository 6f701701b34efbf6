"""A broadcast: what is lost, forged, replayed or comes in any order, and what a device makes of it."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airlora.delivery import (
    ObjectId,
    StateFolder,
    Visit,
    Wish,
    add_tenant,
    current_manifest,
    open_carousel,
    open_packet,
    packet_keys,
    publish_stream,
    renew,
    rotate_key,
    visit,
)
from airlora.delivery.broadcast.carousel import Carousel
from airlora.delivery.broadcast.carousel import _object as carousel_object
from airlora.delivery.broadcast.cast import LONGEST_LAG_S, CastPlan, cast
from airlora.delivery.broadcast.listen import AIR_URL, BroadcastLink, known_version, listen_at, trusted_keys
from airlora.delivery.broadcast.packets import PACKET_OVERHEAD
from airlora.delivery.repository.bundle import pack_bundle, unpack_bundle
from airlora.errors import MissingDependencyError, NetworkError, ReleaseError, SettingsError, TrustError
from airlora.testing.simulated import VirtualTime
from delivery import STREAMS, Device, cuts_of, make_repository

RATE_BPS = 50_000.0


class Air:
    """Packets in virtual time; those that come to nobody's ears are left out.

    Args:
        packets: What is sent.
        time: The clock.
        loss: Share of the packets that are lost.
        tamper: Given a packet, returns what comes in its place.
    """

    def __init__(
        self,
        packets: Iterator[bytes],
        time: VirtualTime,
        *,
        loss: float = 0.0,
        tamper: Callable[[bytes], list[bytes]] = lambda packet: [packet],
        seed: int = 0,
    ) -> None:
        self._packets, self._time, self._loss, self._tamper = packets, time, loss, tamper
        self._random, self._waiting, self._timeout = random.Random(seed), [], 1.0

    def settimeout(self, seconds: float, /) -> None:
        self._timeout = seconds

    def recv(self, _size: int, /) -> bytes:
        waited = 0.0
        while not self._waiting:
            packet = next(self._packets, None)
            if packet is None or waited > self._timeout:
                self._time.sleep(self._timeout - waited if packet is None else 0.0)
                raise TimeoutError
            self._time.sleep(8 * len(packet) / RATE_BPS)
            waited += 8 * len(packet) / RATE_BPS
            if self._random.random() >= self._loss:
                self._waiting = self._tamper(packet)
        return self._waiting.pop(0)


def rounds(device: Device, *, packet_bytes: int = 300, first: int = 0, tenant: str | None = None) -> Iterator[bytes]:
    carousel = open_carousel(device.repository, packet_bytes=packet_bytes, tenant=tenant)
    for number in itertools.count(first):
        yield from carousel.round(number)


def heard(device: Device, packets: Iterator[bytes], *, deadline_s: float = 1e6, **options: object) -> Visit:
    time = VirtualTime(1000.0)
    wish, tenant = options.pop("wish", Wish()), options.pop("tenant", None)
    air = Air(packets, time, **options)  # type: ignore[arg-type]
    plan = replace(device.plan, url=AIR_URL, wish=wish, tenant=tenant)
    link = BroadcastLink(air, trusted_keys(device.folder.trust, plan.root), clock=time.clock)
    version = known_version(device.folder.trust)
    link.begin(trusted_keys(device.folder.trust, plan.root), time.now_s + deadline_s, least_version=version)
    found = visit(device.folder, plan, link, seed=0)
    device.link_used = link  # type: ignore[attr-defined]
    return found


def test_a_device_that_only_listens_has_the_release(device: Device) -> None:
    found = heard(device, rounds(device))
    assert (found.error, found.version, found.complete) == (None, 1, True)
    assert device.running() == STREAMS[0]
    # What is on the air beside the stream: signatures, names, metadata, protection.
    assert device.link_used.air_bytes < 3.5 * len(STREAMS[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("loss", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_cost_time_and_nothing_else(device: Device, loss: float, seed: int) -> None:
    found = heard(device, rounds(device), loss=loss, seed=seed)
    assert found.complete
    assert device.running() == STREAMS[0]


def test_the_first_adapter_comes_long_before_the_whole(device: Device) -> None:
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = heard(device, rounds(device), loss=0.3)
    assert found.first_usable_s is not None
    assert found.first_usable_s < 0.5 * found.seconds


def test_who_begins_in_the_middle_has_it_too(device: Device) -> None:
    packets = rounds(device, first=3)
    for _ in range(40):
        next(packets)
    assert heard(device, packets, loss=0.2).complete


def test_forged_and_damaged_packets_are_counted_and_left(device: Device) -> None:
    generator = random.Random(7)
    other = next(iter(rounds(Device(device.folder, make_repository_of_a_thief(device)))))

    def tamper(packet: bytes) -> list[bytes]:
        damaged = bytearray(packet)
        damaged[generator.randrange(len(packet))] ^= 1 << generator.randrange(8)
        return [bytes(damaged), packet[:-1], b"", b"ALC1", generator.randbytes(300), other, packet, packet]

    found = heard(device, rounds(device), tamper=tamper)
    assert found.complete
    assert device.running() == STREAMS[0]
    link = device.link_used  # type: ignore[attr-defined]
    assert link.num_refused > 0.7 * link.num_packets


def make_repository_of_a_thief(device: Device) -> object:
    folder = device.folder.folder.parent / "thief"
    folder.mkdir()
    repository = make_repository(folder)
    publish_stream(repository, STREAMS[2])
    return repository


def test_an_old_broadcast_played_again_changes_nothing(device: Device) -> None:
    recorded = list(itertools.islice(rounds(device), 400))
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert heard(device, rounds(device)).version == 2
    found = heard(device, iter(recorded))
    assert isinstance(found.error, NetworkError)
    assert device.running() == STREAMS[1]
    # Nor does it hide what is sent besides.
    publish_stream(device.repository, STREAMS[2], cuts=cuts_of(STREAMS[2]))
    mixed = itertools.chain.from_iterable(zip(itertools.cycle(recorded), rounds(device), strict=False))
    assert heard(device, mixed).version == 3
    # A device that trusts nothing yet takes the old one for the newest, and the new one once it hears of it.
    other = Device(StateFolder(device.folder.folder.parent / "other"), device.repository)
    assert heard(other, iter(recorded * 3)).version == 1
    assert heard(other, rounds(device)).version == 3


def test_a_visit_that_ends_early_is_gone_on_with(device: Device) -> None:
    first = heard(device, rounds(device), deadline_s=3.0)
    assert not first.complete
    assert first.bytes_fetched > 0
    second = heard(device, rounds(device))
    assert second.bytes_reused == first.bytes_fetched
    assert second.complete


def test_silence_is_given_up(device: Device) -> None:
    found = heard(device, iter([]))
    assert isinstance(found.error, NetworkError)
    assert "nothing was heard" in str(found.error)


def test_what_is_taken_off_the_air_is_not_waited_for(device: Device) -> None:
    """A newer release takes the place of the one that is being heard: the next visit takes that one."""
    packets = list(itertools.islice(rounds(device), 40))
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = heard(device, itertools.chain(packets, rounds(device)))
    assert "not on the air" in str(found.error or found.note)
    assert heard(device, rounds(device)).version == 2


def test_a_tenants_release(device: Device) -> None:
    add_tenant(device.repository, "acme")
    publish_stream(device.repository, STREAMS[2], tenant="acme")
    assert heard(device, rounds(device, tenant="acme"), tenant="acme").complete
    assert device.running() == STREAMS[2]


def test_new_keys_are_learnt_from_the_air_where_the_old_one_signs(device: Device) -> None:
    heard(device, rounds(device))
    rotate_key(device.repository, "root")
    renew(device.repository)
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert heard(device, rounds(device)).version == 2


def test_only_what_is_wanted_is_waited_for(device: Device) -> None:
    found = heard(device, rounds(device), wish=Wish(max_bytes=len(STREAMS[0]) // 2))
    assert found.version == 1
    assert not found.complete
    assert found.bytes_fetched <= len(STREAMS[0]) // 2


@pytest.mark.parametrize("packet_bytes", [PACKET_OVERHEAD + 8, 222, 1200, 60_000])
def test_packets_of_any_size(device: Device, packet_bytes: int) -> None:
    packets = list(open_carousel(device.repository, packet_bytes=packet_bytes).round(0))
    assert max(map(len, packets)) <= packet_bytes
    assert heard(device, rounds(device, packet_bytes=packet_bytes)).complete


def test_each_round_sends_other_symbols(device: Device) -> None:
    carousel = open_carousel(device.repository, packet_bytes=300)
    assert not set(carousel.round(0)) & set(carousel.round(1))


def test_bad_packets_are_named(device: Device) -> None:
    root = (device.repository.metadata / "1.root.json").read_bytes()
    keys = packet_keys(root)
    packet = next(open_carousel(device.repository).round(0))
    what, symbol = open_packet(keys, packet)
    assert (what.is_bundle, len(symbol)) == (True, what.symbol_bytes + 4)
    for bad in (b"", packet[:-1], b"X" + packet[1:], packet[:-1] + bytes([packet[-1] ^ 1]), packet + b"\0"):
        with pytest.raises(TrustError, match="packet"):
            open_packet(keys, bad)
    with pytest.raises(TrustError, match="packet"):
        open_packet([], packet)
    with pytest.raises(TrustError, match="root"):
        packet_keys(b"{}")


@pytest.mark.parametrize(
    ("what", "symbol"),
    [
        (ObjectId(bytes(16), 0, 0, 8), bytes(12)),
        (ObjectId(bytes(16), 0, 2**31, 8), bytes(12)),
        (ObjectId(bytes(16), 0, 100, 16), bytes(12)),
        (ObjectId(bytes(16), 0, 100, 9), bytes(13)),
        (ObjectId(bytes(16), 0, 100, 8), b"\1" + bytes(11)),
    ],
)
def test_signed_packets_that_cannot_be(device: Device, what: ObjectId, symbol: bytes) -> None:
    """What would make the decoder panic or take memory without end does not reach it."""
    from airlora.delivery.broadcast.packets import seal_packet

    root = device.repository.root()
    signer = device.repository.signer("timestamp", root.roles["timestamp"].keyids[0])
    with pytest.raises(TrustError, match="form"):
        open_packet(packet_keys(device.repository.open("root").to_bytes()), seal_packet(signer, what, symbol))


def test_bundles_that_are_none() -> None:
    import zlib

    bundle, name = pack_bundle({"metadata/x.json": b"{}"})
    assert (unpack_bundle(bundle), len(name)) == ({"metadata/x.json": b"{}"}, 16)
    bomb = zlib.compress(b'{"a": "' + b"a" * 10_000_000 + b'"}')
    for bad in (b"", bundle[:-3], b"nonsense", bomb, zlib.compress(b"[]"), zlib.compress(b'{"a": 1}')):
        with pytest.raises(TrustError, match="bundle"):
            unpack_bundle(bad)


def test_what_cannot_be_sent(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReleaseError, match="packet bytes"):
        open_carousel(device.repository, packet_bytes=50)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match="no release has been published"):
        open_carousel(make_repository(tmp_path / "empty"))
    with pytest.raises(SettingsError, match="rounds"):
        CastPlan("127.0.0.1", 9, num_rounds=0)
    with pytest.raises(SettingsError, match="address"):
        cast(device.repository, CastPlan("no.such.host.invalid", 9, num_rounds=1))
    with pytest.raises(SettingsError, match="address"):
        listen_at("192.0.2.1", 9)
    with pytest.raises(SettingsError, match="--root"):
        trusted_keys(tmp_path, None)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "raptorq", None)
        with pytest.raises(MissingDependencyError, match=r"airlora\[broadcast\]"):
            open_carousel(device.repository)
    for path in (tmp_path / "keys" / "timestamp").glob("*.pem"):
        path.unlink()
    with pytest.raises(ReleaseError, match="timestamp key"):
        open_carousel(device.repository)


def test_the_rate_is_kept(device: Device) -> None:
    clock = VirtualTime(0.0)
    plan = CastPlan("127.0.0.1", 9, rate_bps=20_000.0, num_rounds=2, packet_bytes=500)
    result = cast(device.repository, plan, now_s=lambda: clock.now_s, sleep=clock.sleep)
    assert result.num_rounds == 2
    assert 8 * result.num_bytes / result.seconds == pytest.approx(20_000.0, rel=0.05)
    assert current_manifest(device.repository).version == result.version
    assert StateFolder(device.folder.folder).load().running is None


def test_a_machine_that_slept_sends_no_burst(device: Device) -> None:
    clock, sent_s = VirtualTime(0.0), []

    def told(_round: int, _num_bytes: int) -> None:
        sent_s.append(clock.now_s)
        if len(sent_s) == 5:
            clock.sleep(3600.0)

    plan = CastPlan("127.0.0.1", 9, rate_bps=20_000.0, num_rounds=1, packet_bytes=500)
    cast(device.repository, plan, on_packet=told, now_s=lambda: clock.now_s, sleep=clock.sleep)
    in_a_second = [sum(1 for other in sent_s if 0 <= other - at < 1.0) for at in sent_s]
    assert max(in_a_second) <= 20_000.0 * (1.0 + LONGEST_LAG_S) / (8 * 400) + 1


def test_a_stream_may_be_larger_than_what_is_held(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    room = len(STREAMS[0]) // 3
    monkeypatch.setattr("airlora.delivery.broadcast.listen.MAX_HELD_BYTES", room)
    monkeypatch.setattr("airlora.delivery.broadcast.carousel.MAX_OBJECT_BYTES", room // 3)
    feed = BroadcastLink._feed

    def watched(link: BroadcastLink, what: ObjectId, symbol: bytes) -> None:
        nonlocal largest
        feed(link, what, symbol)
        streamed = (other for other in (*link._decoders, *link._objects) if not other.is_bundle)
        largest = max(largest, sum(other.length for other in streamed))

    monkeypatch.setattr(BroadcastLink, "_feed", watched)
    found = heard(device, rounds(device), loss=0.1)
    assert found.complete
    assert device.running() == STREAMS[0]
    assert 0 < largest <= room


def test_another_broadcast_that_came_before_does_not_keep_the_new_one_out(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whole rounds of an old release, played again before the metadata come, fill all that may be held.
    monkeypatch.setattr("airlora.delivery.broadcast.listen.MAX_HELD_BYTES", len(STREAMS[0]))
    carousel = open_carousel(device.repository, packet_bytes=300)
    old = [
        packet for packet in carousel.round(0) if packet[4:20] == bytes.fromhex(carousel.manifest.stream.digest)[:16]
    ]
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = heard(device, itertools.chain(old, rounds(device)))
    assert (found.version, found.complete) == (2, True)
    assert device.running() == STREAMS[1]


def stream_packet(carousel: Carousel, packet: bytes) -> bool:
    return packet[4:20] == bytes.fromhex(carousel.manifest.stream.digest)[:16]


def test_after_a_new_timestamp_key_the_new_root_opens_the_ears(device: Device) -> None:
    heard(device, rounds(device))
    rotate_key(device.repository, "timestamp")
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert isinstance(heard(device, rounds(device), deadline_s=300.0).error, NetworkError)
    newest = (device.repository.metadata / "2.root.json").read_bytes()
    device.plan = replace(device.plan, root=newest)
    found = heard(device, rounds(device))
    assert (found.error, found.version) == (None, 2)
    # From then on it is known without.
    device.plan = replace(device.plan, root=None)
    publish_stream(device.repository, STREAMS[2], cuts=cuts_of(STREAMS[2]))
    assert heard(device, rounds(device)).version == 3


def test_a_strangers_root_opens_the_ears_and_nothing_else(device: Device) -> None:
    heard(device, rounds(device))
    thief = make_repository_of_a_thief(device)
    device.plan = replace(device.plan, root=(thief.metadata / "1.root.json").read_bytes())
    other = Device(device.folder, thief)
    publish_stream(thief, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = heard(device, rounds(other), deadline_s=300.0)
    assert found.error is not None
    assert device.running() == STREAMS[0]


@pytest.mark.parametrize("name", ["root.json", "root_history/1.root.json", "first.root"])
def test_a_flipped_bit_in_a_root_makes_nobody_deaf(device: Device, name: str) -> None:
    heard(device, rounds(device))
    path = device.folder.trust / name
    content = bytearray(path.read_bytes())
    # In the public key of the timestamp, if it is there in words.
    key = device.repository.root().roles["timestamp"].keyids[0]
    value = device.repository.root().keys[key].keyval["public"].encode()
    place = bytes(content).find(value)
    content[place + 5 if place >= 0 else len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert heard(device, rounds(device)).version == 2


def test_what_a_stolen_key_signed_is_forgotten_once_it_does_not_fit(device: Device) -> None:
    carousel = open_carousel(device.repository, packet_bytes=300)
    bad = bytes(len(STREAMS[0]))
    forged = Carousel(
        carousel.manifest,
        [replace_content(item, bad) for item in carousel._objects if not item.what.is_bundle],
        carousel._signer,
    )
    found = heard(device, itertools.chain(forged.round(0), rounds(device)))
    assert found.complete
    assert device.running() == STREAMS[0]


def replace_content(item: object, content: bytes) -> object:
    """Return an object of the same name that comes to something else."""
    what: ObjectId = item.what  # type: ignore[attr-defined]
    made = carousel_object(
        what.stream, what.start, content[what.start : what.start + what.length], what.symbol_bytes, 1.0
    )
    return replace(made, what=what)


def test_many_old_metadata_played_again_do_not_keep_the_new_ones_out(device: Device) -> None:
    old: list[list[bytes]] = []
    for _ in range(20):
        carousel = open_carousel(device.repository, packet_bytes=300)
        old.append([packet for packet in carousel.round(0) if packet[20:24] == b"\xff" * 4])
        renew(device.repository)
    heard(device, rounds(device))
    renew(device.repository)
    replayed = itertools.cycle(itertools.chain.from_iterable(zip(*old, strict=False)))

    def mixed() -> Iterator[bytes]:
        for packet in rounds(device):
            yield packet
            yield from itertools.islice(replayed, 5)

    before = known_version(device.folder.trust)
    found = heard(device, mixed(), deadline_s=600.0)
    assert (found.error, found.complete) == (None, True)
    assert known_version(device.folder.trust) > before


def test_who_waits_for_a_broadcast_keeps_nobody_from_the_state(device: Device) -> None:
    held = []

    def watched() -> Iterator[bytes]:
        for packet in rounds(device):
            if packet[20:24] == b"\xff" * 4:
                try:
                    with StateFolder(device.folder.folder).locked():
                        held.append(False)
                except SettingsError:
                    held.append(True)
            yield packet

    assert heard(device, watched()).complete
    assert held[0] is False


def test_bytes_are_counted_by_visit(device: Device) -> None:
    air = Air(rounds(device), time := VirtualTime(1000.0))
    plan = replace(device.plan, url=AIR_URL)
    link = BroadcastLink(air, trusted_keys(device.folder.trust, plan.root), clock=time.clock)
    found = []
    for _ in range(2):
        link.begin(link.keys, float("inf"))
        found.append(visit(device.folder, plan, link, seed=0).metadata_bytes)
    # The second time there is less to ask for.
    assert 0 < found[1] < found[0]


def test_news_are_waited_for(device: Device) -> None:
    clock = VirtualTime(0.0)
    first = list(open_carousel(device.repository, packet_bytes=300).round(0))
    air = Air(itertools.chain(first, first, [], news(device)), clock)
    link = BroadcastLink(air, trusted_keys(device.folder.trust, device.plan.root), clock=clock.clock)
    link.begin(link.keys, float("inf"))
    link.prepare()
    taken = link.num_packets
    link.wait_for_news()
    assert link.num_packets > taken + len(first)


def news(device: Device) -> Iterator[bytes]:
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    yield from rounds(device)
