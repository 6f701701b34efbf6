"""How long a device listens until it has a first adapter and the whole, at losses of many kinds, in virtual time.

python benchmarks/broadcast.py --stream adapter.airs --rate-bps 5000 --packet-bytes 222
python benchmarks/broadcast.py --loss 0.3 --burst 10

The device is airlora's own, behind a link that loses packets at random, or in bursts of `--burst` on average
(Gilbert's model). The peer is what one does without RaptorQ: the same bytes in packets of the same size, in order, over
and over, with every packet needed. Both begin at a random moment. Seconds are medians over `--devices`, and the ninth
tenth. Without `--stream` the stream is of random numbers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from airlora.codec import StreamReader
from airlora.delivery import (
    AgentPlan,
    KeyFolder,
    StateFolder,
    create_repository,
    open_carousel,
    packet_keys,
    publish_stream,
    visit,
)
from airlora.delivery.broadcast.listen import AIR_URL, BroadcastLink
from airlora.delivery.broadcast.packets import PACKET_OVERHEAD
from airlora.testing.simulated import VirtualTime
from random_streams import random_stream


class Losses:
    """Whether the next packet is lost: at random, or in bursts."""

    def __init__(self, loss: float, burst: float, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._leave, self._enter = 1.0 / burst, loss / (1.0 - loss) / burst if loss < 1 else 1.0
        self._is_bad = self._generator.random() < loss

    def __call__(self) -> bool:
        """Return whether it is lost."""
        was_bad = self._is_bad
        self._is_bad = self._generator.random() >= self._leave if was_bad else self._generator.random() < self._enter
        return was_bad


class Air:
    """Packets at a rate in virtual time, for a `BroadcastLink`."""

    def __init__(self, packets: Iterator[bytes], time: VirtualTime, rate_bps: float, lost: Losses) -> None:
        self._packets, self._time, self._rate_bps, self._lost = packets, time, rate_bps, lost

    def settimeout(self, _seconds: float, /) -> None:
        """There is always a next packet."""

    def recv(self, _size: int, /) -> bytes:
        """Return the next packet that is not lost."""
        while True:
            packet = next(self._packets)
            self._time.sleep(8 * len(packet) / self._rate_bps)
            if not self._lost():
                return packet


def usable_bytes(stream: bytes) -> int:
    """Return how long the first prefix is that makes an adapter."""
    reader = StreamReader(stream)
    while (place := reader.next_range) is not None:
        reader.feed(stream[place[0] : place[1]])
        decoded = reader.result()
        if len(decoded.tensors) == len(decoded.header.tensors):
            return place[1]
    return len(stream)


def packets_from(rounds: list[list[bytes]], place: int) -> Iterator[bytes]:
    """Yield packets from some place of the first round on, for ever."""
    yield from itertools.islice(itertools.chain.from_iterable(itertools.cycle(rounds)), place, None)


def listened(
    rounds: list[list[bytes]], root: bytes, folder: Path, arguments: argparse.Namespace, seed: int
) -> tuple[float, float]:
    """Return seconds to the first adapter and to the whole, of one device."""
    time = VirtualTime(0.0)
    place = int(np.random.default_rng(seed).integers(len(rounds[0])))
    air = Air(packets_from(rounds, place), time, arguments.rate_bps, Losses(arguments.loss, arguments.burst, seed))
    link = BroadcastLink(air, packet_keys(root), clock=time.clock)
    found = visit(StateFolder(folder), AgentPlan(AIR_URL, root=root), link, seed=seed)
    if found.error is not None or not found.complete:
        raise SystemExit(f"device {seed}: {found.error or found.note}")
    assert found.first_usable_s is not None
    return found.first_usable_s, found.seconds


def repeated(sizes: list[int], first: int, arguments: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Return the same of a device to which every packet is sent as it is, again and again."""
    lost, missing = Losses(arguments.loss, arguments.burst, seed), set(range(len(sizes)))
    place, now, usable = int(np.random.default_rng(seed).integers(len(sizes))), 0.0, 0.0
    while missing:
        now += 8 * sizes[place] / arguments.rate_bps
        if not lost():
            missing.discard(place)
        if not usable and not any(number < first for number in missing):
            usable = now
        place = (place + 1) % len(sizes)
    return usable, now


def plain_packets(stream: bytes, metadata_bytes: int, packet_bytes: int) -> tuple[list[int], int]:
    """Return the sizes of packets without RaptorQ, and how many of the first make the first adapter."""
    room = packet_bytes - PACKET_OVERHEAD
    sizes, first = [], 0
    for number, length in enumerate((metadata_bytes, usable_bytes(stream), len(stream) - usable_bytes(stream))):
        sizes += [PACKET_OVERHEAD + min(room, length - start) for start in range(0, length, room)]
        first = len(sizes) if number < 2 else first
    return sizes, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", type=Path)
    parser.add_argument("--rate-bps", type=float, default=5000.0)
    parser.add_argument("--packet-bytes", type=int, default=222)
    parser.add_argument("--loss", type=float, action="append", help="repeatable; none: 0, .1, .3 and .5")
    parser.add_argument("--burst", type=float, default=1.0, help="packets lost in a row, on average; 1: at random")
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    stream = arguments.stream.read_bytes() if arguments.stream else random_stream(20_000)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        repository = create_repository(folder / "repo", KeyFolder(folder / "keys", folder / "repo"))
        publish_stream(repository, stream)
        root = (repository.metadata / "1.root.json").read_bytes()
        carousel = open_carousel(repository, packet_bytes=arguments.packet_bytes)
        rounds = [list(carousel.round(number)) for number in range(8)]
        metadata_bytes = (repository.metadata / "bundle.z").stat().st_size
        sizes, first = plain_packets(stream, metadata_bytes, arguments.packet_bytes)
        for loss in arguments.loss or [0.0, 0.1, 0.3, 0.5]:
            arguments.loss = loss
            places = [folder / f"{loss}-{seed}" for seed in range(arguments.devices)]
            ours = np.array([listened(rounds, root, place, arguments, seed) for seed, place in enumerate(places)])
            peer = np.array([repeated(sizes, first, arguments, seed) for seed in range(arguments.devices)])
            row = {"loss": loss, "burst": arguments.burst, "stream_bytes": len(stream), "round_packets": len(rounds[0])}
            for name, found in (("airlora", ours), ("repeated", peer)):
                for place, what in enumerate(("first_s", "whole_s")):
                    row[f"{name}_{what}"] = [float(np.quantile(found[:, place], share)) for share in (0.5, 0.9)]
            results.append(row)
            if not arguments.json:
                (first_s, late_s), (whole_s, last_s) = row["airlora_first_s"], row["airlora_whole_s"]
                print(
                    f"{loss:.0%} lost: first adapter {first_s:.0f} s ({late_s:.0f}), whole {whole_s:.0f} ({last_s:.0f})"
                )
                (first_s, late_s), (whole_s, last_s) = row["repeated_first_s"], row["repeated_whole_s"]
                print(f"  repeated as it is: {first_s:.0f} ({late_s:.0f}), {whole_s:.0f} ({last_s:.0f})", flush=True)
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
