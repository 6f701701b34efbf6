"""Reception of broadcasts with lost, forged, replayed and reordered packets."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airlora.delivery import (
    DownloadTarget,
    ObjectId,
    StateFolder,
    VisitResult,
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
from airlora.delivery.broadcast.cast import MAX_LAG_S, CastPlan, cast
from airlora.delivery.broadcast.listen import (
    BROADCAST_URL,
    BroadcastTransport,
    _ObjectStore,
    open_receiver,
    trusted_timestamp_version,
)
from airlora.delivery.broadcast.packets import PACKET_OVERHEAD
from airlora.delivery.repository.bundle import pack_bundle, unpack_bundle
from airlora.errors import MissingDependencyError, NetworkError, ReleaseError, SettingsError, TrustError
from airlora.testing.simulated import VirtualTime
from delivery import STREAMS, Device, cuts_of, make_repository

RATE_BPS = 50_000.0


class Air:
    """Receiver of packets in virtual time, some of which are lost.

    Args:
        packets: Packets that are sent.
        time: Virtual time.
        loss: Share of lost packets, 0 to 1.
        tamper: Function of a packet that returns the packets received in its place.
        seed: Seed of the generator of the losses.
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


def receive(device: Device, packets: Iterator[bytes], *, deadline_s: float = 1e6, **options: object) -> VisitResult:
    time = VirtualTime(1000.0)
    changes = {"target": options.pop("target", DownloadTarget()), "tenant": options.pop("tenant", None)}
    config = replace(device.config, url=BROADCAST_URL, **changes)  # type: ignore[arg-type]
    air = Air(packets, time, **options)  # type: ignore[arg-type]
    transport = BroadcastTransport(air, device.folder.trust, root=config.root, clock=time.clock)
    transport.monitor.set_deadline(deadline_s)
    found = visit(device.folder, config, transport, seed=0)
    device.last_transport = transport  # type: ignore[attr-defined]
    return found


def test_a_device_without_an_uplink_installs_the_release(device: Device) -> None:
    found = receive(device, rounds(device))
    assert (found.error, found.version, found.complete) == (None, 1, True)
    assert device.running() == STREAMS[0]
    # The packets carry signatures, headers, metadata and repair symbols besides the stream.
    assert device.last_transport.received_bytes < 3.5 * len(STREAMS[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("loss", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_release_is_complete_despite_lost_packets(device: Device, loss: float, seed: int) -> None:
    found = receive(device, rounds(device), loss=loss, seed=seed)
    assert found.complete
    assert device.running() == STREAMS[0]


def test_the_first_prefix_is_installed_long_before_the_complete_stream(device: Device) -> None:
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = receive(device, rounds(device), loss=0.3)
    assert found.first_usable_s is not None
    assert found.first_usable_s < 0.5 * found.seconds


def test_reception_may_begin_in_the_middle_of_a_round(device: Device) -> None:
    packets = rounds(device, first=3)
    for _ in range(40):
        next(packets)
    assert receive(device, packets, loss=0.2).complete


def test_forged_and_damaged_packets_are_rejected_and_counted(device: Device) -> None:
    generator = random.Random(7)
    other = next(iter(rounds(Device(device.folder, make_other_repository(device)))))

    def tamper(packet: bytes) -> list[bytes]:
        damaged = bytearray(packet)
        damaged[generator.randrange(len(packet))] ^= 1 << generator.randrange(8)
        return [bytes(damaged), packet[:-1], b"", b"ALC1", generator.randbytes(300), other, packet, packet]

    found = receive(device, rounds(device), tamper=tamper)
    assert found.complete
    assert device.running() == STREAMS[0]
    transport = device.last_transport  # type: ignore[attr-defined]
    assert transport.num_rejected > 0.7 * transport.num_packets


def make_other_repository(device: Device) -> object:
    folder = device.folder.folder.parent / "thief"
    folder.mkdir()
    repository = make_repository(folder)
    publish_stream(repository, STREAMS[2])
    return repository


def test_a_replayed_broadcast_installs_nothing_and_hides_nothing(device: Device) -> None:
    recorded = list(itertools.islice(rounds(device), 400))
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert receive(device, rounds(device)).version == 2
    found = receive(device, iter(recorded))
    assert isinstance(found.error, NetworkError)
    assert device.running() == STREAMS[1]
    # A replay does not hide the broadcast of a newer release.
    publish_stream(device.repository, STREAMS[2], cuts=cuts_of(STREAMS[2]))
    mixed = itertools.chain.from_iterable(zip(itertools.cycle(recorded), rounds(device), strict=False))
    assert receive(device, mixed).version == 3
    # A new device installs the replayed release first and the newest one once it is received.
    other = Device(StateFolder(device.folder.folder.parent / "other"), device.repository)
    assert receive(other, iter(recorded * 3)).version == 1
    assert receive(other, rounds(device)).version == 3


def test_an_interrupted_visit_is_continued(device: Device) -> None:
    first = receive(device, rounds(device), deadline_s=3.0)
    assert not first.complete
    assert first.bytes_fetched > 0
    second = receive(device, rounds(device))
    assert second.bytes_reused == first.bytes_fetched
    assert second.complete


def test_a_silent_receiver_is_a_network_error(device: Device) -> None:
    found = receive(device, iter([]))
    assert isinstance(found.error, NetworkError)
    assert "no packet received" in str(found.error)


def test_a_release_that_is_no_longer_broadcast_is_not_awaited(device: Device) -> None:
    packets = list(itertools.islice(rounds(device), 40))
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = receive(device, itertools.chain(packets, rounds(device)))
    assert "no longer broadcast" in str(found.error or found.note)
    assert receive(device, rounds(device)).version == 2


def test_the_release_of_a_tenant_is_installed(device: Device) -> None:
    add_tenant(device.repository, "acme")
    publish_stream(device.repository, STREAMS[2], tenant="acme")
    assert receive(device, rounds(device, tenant="acme"), tenant="acme").complete
    assert device.running() == STREAMS[2]


def test_a_new_root_arrives_in_packets_signed_with_the_old_timestamp_key(device: Device) -> None:
    receive(device, rounds(device))
    rotate_key(device.repository, "root")
    renew(device.repository)
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert receive(device, rounds(device)).version == 2


def test_only_the_wanted_bytes_are_awaited(device: Device) -> None:
    found = receive(device, rounds(device), target=DownloadTarget(max_bytes=len(STREAMS[0]) // 2))
    assert found.version == 1
    assert not found.complete
    assert found.bytes_fetched <= len(STREAMS[0]) // 2


@pytest.mark.parametrize("packet_bytes", [PACKET_OVERHEAD + 8, 222, 1200, 60_000])
def test_packets_of_every_allowed_size_work(device: Device, packet_bytes: int) -> None:
    packets = list(open_carousel(device.repository, packet_bytes=packet_bytes).round(0))
    assert max(map(len, packets)) <= packet_bytes
    assert receive(device, rounds(device, packet_bytes=packet_bytes)).complete


def test_each_round_sends_new_symbols(device: Device) -> None:
    carousel = open_carousel(device.repository, packet_bytes=300)
    assert not set(carousel.round(0)) & set(carousel.round(1))


def test_invalid_packets_are_trust_errors(device: Device) -> None:
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
def test_signed_packets_with_impossible_sizes_do_not_reach_the_decoder(
    device: Device, what: ObjectId, symbol: bytes
) -> None:
    from airlora.delivery.broadcast.packets import seal_packet

    root = device.repository.root()
    signer = device.repository.signer("timestamp", root.roles["timestamp"].keyids[0])
    with pytest.raises(TrustError, match="field is out of range"):
        open_packet(packet_keys(device.repository.open("root").to_bytes()), seal_packet(signer, what, symbol))


def test_invalid_bundles_are_trust_errors() -> None:
    import zlib

    bundle, name = pack_bundle({"metadata/x.json": b"{}"})
    assert (unpack_bundle(bundle), len(name)) == ({"metadata/x.json": b"{}"}, 16)
    bomb = zlib.compress(b'{"a": "' + b"a" * 10_000_000 + b'"}')
    for bad in (b"", bundle[:-3], b"nonsense", bomb, zlib.compress(b"[]"), zlib.compress(b'{"a": 1}')):
        with pytest.raises(TrustError, match="bundle"):
            unpack_bundle(bad)


def test_a_broadcast_that_cannot_start_names_the_reason(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        open_receiver("192.0.2.1", 9)
    with pytest.raises(SettingsError, match="Pass `--root 1.root.json`"):
        BroadcastTransport(Air(iter([]), VirtualTime()), tmp_path)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "raptorq", None)
        with pytest.raises(MissingDependencyError, match=r"airlora\[broadcast\]"):
            open_carousel(device.repository)
    for path in (tmp_path / "keys" / "timestamp").glob("*.pem"):
        path.unlink()
    with pytest.raises(ReleaseError, match="timestamp key"):
        open_carousel(device.repository)


def test_the_sender_keeps_its_rate(device: Device) -> None:
    clock = VirtualTime(0.0)
    plan = CastPlan("127.0.0.1", 9, rate_bps=20_000.0, num_rounds=2, packet_bytes=500)
    result = cast(device.repository, plan, now_s=lambda: clock.now_s, sleep=clock.sleep)
    assert result.num_rounds == 2
    assert 8 * result.num_bytes / result.seconds == pytest.approx(20_000.0, rel=0.05)
    assert current_manifest(device.repository).version == result.version
    assert StateFolder(device.folder.folder).load().running is None


def test_a_sender_that_slept_sends_no_burst(device: Device) -> None:
    clock, sent_s = VirtualTime(0.0), []

    def told(_round: int, _num_bytes: int) -> None:
        sent_s.append(clock.now_s)
        if len(sent_s) == 5:
            clock.sleep(3600.0)

    plan = CastPlan("127.0.0.1", 9, rate_bps=20_000.0, num_rounds=1, packet_bytes=500)
    cast(device.repository, plan, on_packet=told, now_s=lambda: clock.now_s, sleep=clock.sleep)
    in_a_second = [sum(1 for other in sent_s if 0 <= other - at < 1.0) for at in sent_s]
    assert max(in_a_second) <= 20_000.0 * (1.0 + MAX_LAG_S) / (8 * 400) + 1


def test_a_stream_may_exceed_the_memory_for_objects(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    room = len(STREAMS[0]) // 3
    monkeypatch.setattr("airlora.delivery.broadcast.listen.MAX_HELD_BYTES", room)
    monkeypatch.setattr("airlora.delivery.broadcast.carousel.MAX_OBJECT_BYTES", room // 3)
    feed = _ObjectStore.feed

    def watched(store: _ObjectStore, what: ObjectId, symbol: bytes) -> None:
        nonlocal largest
        feed(store, what, symbol)
        ranges = (other for other in (*store._decoders, *store._held) if not other.is_bundle)
        largest = max(largest, sum(other.length for other in ranges))

    monkeypatch.setattr(_ObjectStore, "feed", watched)
    found = receive(device, rounds(device), loss=0.1)
    assert found.complete
    assert device.running() == STREAMS[0]
    assert 0 < largest <= room


def test_objects_of_an_old_release_give_way_to_the_requested_ones(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Objects of an old release fill the memory before the new metadata arrive.
    monkeypatch.setattr("airlora.delivery.broadcast.listen.MAX_HELD_BYTES", len(STREAMS[0]))
    carousel = open_carousel(device.repository, packet_bytes=300)
    old = [
        packet for packet in carousel.round(0) if packet[4:20] == bytes.fromhex(carousel.manifest.stream.digest)[:16]
    ]
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = receive(device, itertools.chain(old, rounds(device)))
    assert (found.version, found.complete) == (2, True)
    assert device.running() == STREAMS[1]


def stream_packet(carousel: Carousel, packet: bytes) -> bool:
    return packet[4:20] == bytes.fromhex(carousel.manifest.stream.digest)[:16]


def test_a_new_root_makes_packets_of_a_new_timestamp_key_valid(device: Device) -> None:
    receive(device, rounds(device))
    rotate_key(device.repository, "timestamp")
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert isinstance(receive(device, rounds(device), deadline_s=300.0).error, NetworkError)
    newest = (device.repository.metadata / "2.root.json").read_bytes()
    device.config = replace(device.config, root=newest)
    found = receive(device, rounds(device))
    assert (found.error, found.version) == (None, 2)
    # The device knows the new key from now on.
    device.config = replace(device.config, root=None)
    publish_stream(device.repository, STREAMS[2], cuts=cuts_of(STREAMS[2]))
    assert receive(device, rounds(device)).version == 3


def test_the_root_of_another_repository_installs_nothing(device: Device) -> None:
    receive(device, rounds(device))
    thief = make_other_repository(device)
    device.config = replace(device.config, root=(thief.metadata / "1.root.json").read_bytes())
    other = Device(device.folder, thief)
    publish_stream(thief, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    found = receive(device, rounds(other), deadline_s=300.0)
    assert found.error is not None
    assert device.running() == STREAMS[0]


@pytest.mark.parametrize("name", ["root.json", "root_history/1.root.json", "first.root"])
def test_a_flipped_bit_in_a_root_does_not_end_reception(device: Device, name: str) -> None:
    receive(device, rounds(device))
    path = device.folder.trust / name
    content = bytearray(path.read_bytes())
    # The bit is in the public key of the timestamp, if the file contains it as text.
    key = device.repository.root().roles["timestamp"].keyids[0]
    value = device.repository.root().keys[key].keyval["public"].encode()
    place = bytes(content).find(value)
    content[place + 5 if place >= 0 else len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    assert receive(device, rounds(device)).version == 2


def test_objects_signed_with_a_stolen_key_are_discarded_when_they_fail_verification(device: Device) -> None:
    carousel = open_carousel(device.repository, packet_bytes=300)
    bad = bytes(len(STREAMS[0]))
    forged = Carousel(
        carousel.manifest,
        [replace_content(item, bad) for item in carousel._objects if not item.object_id.is_bundle],
        carousel._signer,
    )
    found = receive(device, itertools.chain(forged.round(0), rounds(device)))
    assert found.complete
    assert device.running() == STREAMS[0]


def replace_content(item: object, content: bytes) -> object:
    """Return an object of the same name with other content."""
    object_id: ObjectId = item.object_id  # type: ignore[attr-defined]
    made = carousel_object(
        object_id.stream,
        object_id.start,
        content[object_id.start : object_id.start + object_id.length],
        object_id.symbol_bytes,
        1.0,
    )
    return replace(made, object_id=object_id)


def test_many_replayed_bundles_do_not_displace_the_new_one(device: Device) -> None:
    old: list[list[bytes]] = []
    for _ in range(20):
        carousel = open_carousel(device.repository, packet_bytes=300)
        old.append([packet for packet in carousel.round(0) if packet[20:24] == b"\xff" * 4])
        renew(device.repository)
    receive(device, rounds(device))
    renew(device.repository)
    replayed = itertools.cycle(itertools.chain.from_iterable(zip(*old, strict=False)))

    def mixed() -> Iterator[bytes]:
        for packet in rounds(device):
            yield packet
            yield from itertools.islice(replayed, 5)

    before = trusted_timestamp_version(device.folder.trust)
    found = receive(device, mixed(), deadline_s=600.0)
    assert (found.error, found.complete) == (None, True)
    assert trusted_timestamp_version(device.folder.trust) > before


def test_waiting_for_a_broadcast_does_not_lock_the_state_folder(device: Device) -> None:
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

    assert receive(device, watched()).complete
    assert held[0] is False


def test_metadata_bytes_are_counted_per_visit(device: Device) -> None:
    air = Air(rounds(device), time := VirtualTime(1000.0))
    config = replace(device.config, url=BROADCAST_URL)
    transport = BroadcastTransport(air, device.folder.trust, root=config.root, clock=time.clock)
    found = [visit(device.folder, config, transport, seed=0).metadata_bytes for _ in range(2)]
    # The second visit requests fewer files.
    assert 0 < found[1] < found[0]


def test_the_transport_waits_for_new_metadata(device: Device) -> None:
    clock = VirtualTime(0.0)
    first = list(open_carousel(device.repository, packet_bytes=300).round(0))
    air = Air(itertools.chain(first, first, [], next_release(device)), clock)
    transport = BroadcastTransport(air, device.folder.trust, root=device.config.root, clock=clock.clock)
    transport.prepare()
    num_before = transport.num_packets
    transport.wait_for_new_metadata()
    assert transport.num_packets > num_before + len(first)


def next_release(device: Device) -> Iterator[bytes]:
    publish_stream(device.repository, STREAMS[1], cuts=cuts_of(STREAMS[1]))
    yield from rounds(device)
