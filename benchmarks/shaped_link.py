"""A release over a real link of the kernel: a namespace of its own, a rate, a delay and losses; bytes on the wire.

sudo python benchmarks/shaped_link.py --stream adapter.airs --cuts cuts.json
sudo python benchmarks/shaped_link.py --random-bytes 1000000 --rate-bps 200e3

Linux, root, `ip` (iproute2) and /dev/net/tun. Both ends are TCP of the kernel; packets between them pass a queue with a
rate, are delayed, and towards the device lost. On the wire are IP packets that were sent, lost ones too. Without
`--stream` the stream is of random numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import queue
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airlora.delivery import KeyFolder, PrefixScore, create_repository, publish_stream
from random_streams import random_stream

SPACE = "airlora-device"

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SERVER, DEVICE = "10.213.7.1", "10.213.7.2"


def run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


@dataclass
class Wire:
    """What went towards the device.

    Args:
        num_bytes: Of IP packets that were sent, lost ones too.
        num_packets: Of these.
        num_lost: Of these.
        num_dropped: Packets that found the queue full, and were not sent.
    """

    num_bytes: int = 0
    num_packets: int = 0
    num_lost: int = 0
    num_dropped: int = 0


class Forwarder:
    """Carries packets between two TUN devices: at a rate, after a delay, and not all of them."""

    def __init__(self, rate_bps: float, delay_s: float, loss: float, seed: int) -> None:
        self.wire = Wire()
        self._rate_bps, self._delay_s, self._loss, self._random = rate_bps, delay_s, loss, random.Random(seed)
        self._queue_bytes = max(30_000, round(rate_bps / 8))
        self._server, self._device = tun(f"al-server{seed}"), tun(f"al-device{seed}")
        self._waiting: queue.Queue[bytes] = queue.Queue()
        self._held = 0

    def start(self) -> None:
        """Carry packets, in threads that end with the devices."""
        down: queue.Queue[tuple[float, bytes]] = queue.Queue()
        up: queue.Queue[tuple[float, bytes]] = queue.Queue()
        for work, arguments in (
            (self._take, ()),
            (self._send, (down,)),
            (self._deliver, (down, self._device)),
            (self._back, (up,)),
            (self._deliver, (up, self._server)),
        ):
            threading.Thread(target=work, args=arguments, daemon=True).start()

    def close(self) -> None:
        """Let go of the devices."""
        for descriptor in (self._server, self._device):
            os.close(descriptor)

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while packet := os.read(self._server, 65_536):
                if self._held + len(packet) > self._queue_bytes:
                    self.wire.num_dropped += 1
                    continue
                self._held += len(packet)
                self._waiting.put(packet)

    def _send(self, down: queue.Queue[tuple[float, bytes]]) -> None:
        free_s = time.monotonic()
        while True:
            packet = self._waiting.get()
            free_s = max(time.monotonic(), free_s) + 8 * len(packet) / self._rate_bps
            time.sleep(max(0.0, free_s - time.monotonic()))
            self._held -= len(packet)
            self.wire.num_bytes += len(packet)
            self.wire.num_packets += 1
            if self._random.random() < self._loss:
                self.wire.num_lost += 1
            else:
                down.put((free_s + self._delay_s, packet))

    def _back(self, up: queue.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while packet := os.read(self._device, 65_536):
                up.put((time.monotonic() + self._delay_s, packet))

    @staticmethod
    def _deliver(packets: queue.Queue[tuple[float, bytes]], descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while True:
                at_s, packet = packets.get()
                time.sleep(max(0.0, at_s - time.monotonic()))
                os.write(descriptor, packet)


def tun(name: str) -> int:
    """Return a device of the kernel whose packets are read and written here."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


@contextlib.contextmanager
def link(rate_bps: float, delay_s: float, loss: float, seed: int) -> Iterator[Wire]:
    """A namespace for the device, and a link to it."""
    server, device = f"al-server{seed}", f"al-device{seed}"
    run("ip", "netns", "add", SPACE)
    forwarder = Forwarder(rate_bps, delay_s, loss, seed)
    try:
        run("ip", "link", "set", device, "netns", SPACE)
        run("ip", "address", "add", SERVER, "peer", DEVICE, "dev", server)
        run("ip", "link", "set", server, "up")
        inside = ("ip", "netns", "exec", SPACE, "ip")
        run(*inside, "address", "add", DEVICE, "peer", SERVER, "dev", device)
        run(*inside, "link", "set", device, "up")
        forwarder.start()
        yield forwarder.wire
    finally:
        run("ip", "netns", "del", SPACE)
        run("ip", "link", "del", server)
        forwarder.close()


def measure(site: Path, state: Path, num_bytes: int, seed: int, arguments: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, "-m", "airlora.cli"]
    with link(arguments.rate_bps, arguments.delay_ms / 1000, arguments.loss, seed) as wire:
        server = subprocess.Popen(
            [*command, "serve", str(site), "--host", SERVER, "--port", "8000", "--quiet"], stderr=subprocess.PIPE
        )
        try:
            server.stderr.readline()
            visit = ["edge", "run", f"http://{SERVER}:8000", "--state", str(state), "--once", "--json"]
            root = ["--root", str(site / "metadata" / "1.root.json")]
            agent = subprocess.run(
                ["ip", "netns", "exec", SPACE, *command, *visit, *root], capture_output=True, text=True, check=False
            )
        finally:
            server.terminate()
            server.wait()
    if agent.returncode:
        raise SystemExit(agent.stderr)
    found = json.loads(agent.stdout)
    return {
        "stream_bytes": num_bytes,
        "metadata_bytes": found["metadata_bytes"],
        "wire_bytes": wire.num_bytes,
        "packets": wire.num_packets,
        "lost": wire.num_lost,
        "wire_per_stream": wire.num_bytes / num_bytes,
        "wire_per_useful": wire.num_bytes / (num_bytes + found["metadata_bytes"]),
        "first_usable_s": found["first_usable_s"],
        "seconds": found["seconds"],
        "first_usable_share": found["first_usable_s"] / found["seconds"],
        "complete": found["complete"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", type=Path)
    parser.add_argument("--cuts", type=Path, help="JSON list of what prefixes are worth, as in a manifest")
    parser.add_argument(
        "--random-bytes", type=int, default=100_000, help="about how long a stream of random numbers is"
    )
    parser.add_argument("--rate-bps", type=float, default=200e3)
    parser.add_argument("--delay-ms", type=float, default=50.0, help="each way")
    parser.add_argument("--loss", type=float, default=0.05)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("ip") or not Path("/dev/net/tun").exists():
        raise SystemExit("needs root, ip and /dev/net/tun (Linux)")
    stream = arguments.stream.read_bytes() if arguments.stream else random_stream(arguments.random_bytes)
    cuts = [PrefixScore(**cut) for cut in json.loads(arguments.cuts.read_text())] if arguments.cuts else []
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        site = folder / "site"
        publish_stream(create_repository(site, KeyFolder(folder / "keys", site)), stream, cuts=cuts)
        for number in range(arguments.repeats):
            result = measure(site, folder / f"state{number}", len(stream), number, arguments)
            found.append(result)
            if not arguments.json:
                print(
                    f"{arguments.rate_bps:g} bit/s, {result['lost']} of {result['packets']} packets lost: "
                    f"{result['wire_bytes']:,} bytes on the wire for {len(stream):,} of the stream "
                    f"({result['wire_per_stream']:.3f}; {result['wire_per_useful']:.3f} with the metadata), "
                    f"usable after {result['first_usable_s']:.1f} of {result['seconds']:.1f} s "
                    f"({result['first_usable_share']:.1%})",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
