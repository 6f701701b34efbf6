"""A thousand devices that look for news and a hundred that download: `airlora serve`, and then nginx.

python benchmarks/serve_load.py --minutes 10
python benchmarks/serve_load.py --minutes 10 --peer /path/to/nginx

A device that looks asks for the bundle of metadata with the tag that it knows, over a connection of its own, every ten
seconds; with airlora it also reports, which nginx cannot be asked for. One that downloads fetches a stream of a
megabyte in ranges, at a rate of its own, again and again. Seconds are from connecting to the last byte, of what looks;
of downloads, until a range begins. Memory is that of the server's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from airlora.delivery import KeyFolder, create_repository, publish_stream
from random_streams import random_stream

RANGE_BYTES = 64 * 1024
MEBIBYTE = 1 << 20


@dataclass
class Found:
    """What was measured.

    Args:
        looks_s: Seconds of each look for news.
        ranges_s: Seconds until each range began.
        num_bytes: Downloaded.
        errors: By what they say.
        rss_mib: Memory over time.
    """

    looks_s: list[float] = field(default_factory=list)
    ranges_s: list[float] = field(default_factory=list)
    num_bytes: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    rss_mib: list[float] = field(default_factory=list)

    def failed(self, error: Exception) -> None:
        """Count an error."""
        name = f"{type(error).__name__}: {error}"[:80]
        self.errors[name] = self.errors.get(name, 0) + 1


def make_site(folder: Path) -> tuple[Path, str]:
    """Return a repository with a release of about a megabyte, and the path of its stream."""
    stream = random_stream(1_000_000)
    site = folder / "site"
    manifest = publish_stream(create_repository(site, KeyFolder(folder / "keys", site)), stream)
    return site, f"/{manifest.stream.path}"


async def answer_of(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: str, body: bytes = b""
) -> tuple[int, dict[str, str], bytes, float]:
    """Return status, headers and body of an answer, and when its headers had come."""
    writer.write(request.encode() + body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    began = time.perf_counter()
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    length = int(headers.get("content-length", "0"))
    return int(first.split()[1]), headers, await reader.readexactly(length) if length else b"", began


async def looks(place: str, port: int, number: int, every_s: float, end_s: float, found: Found, reports: bool) -> None:
    """Look for news, as a device does that has the newest release."""
    generator = random.Random(number)
    tag = None
    await asyncio.sleep(generator.uniform(0, every_s))
    report = json.dumps({"version": 1, "wanted_version": 1, "complete": True, "seconds": 0.1}).encode()
    while time.monotonic() < end_s:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection(place, port)
                try:
                    known = "" if tag is None else f"If-None-Match: {tag}\r\n"
                    ask = f"GET /metadata/bundle.z HTTP/1.1\r\nHost: {place}\r\n{known}\r\n"
                    status, headers, _, _ = await answer_of(reader, writer, ask)
                    if status not in (200, 304):
                        raise RuntimeError(f"HTTP {status}")
                    tag = headers.get("etag", tag)
                    if reports:
                        ask = (
                            f"POST /v1/devices/device-{number}/reports HTTP/1.1\r\nHost: {place}\r\n"
                            f"Content-Type: application/json\r\nContent-Length: {len(report)}\r\n\r\n"
                        )
                        status, _, _, _ = await answer_of(reader, writer, ask, report)
                        if status != 204:
                            raise RuntimeError(f"report: HTTP {status}")
                finally:
                    writer.close()
            found.looks_s.append(time.perf_counter() - began)
        except Exception as error:
            found.failed(error)
        await asyncio.sleep(max(0.0, every_s * generator.uniform(0.9, 1.1) - (time.perf_counter() - began)))


async def downloads(place: str, port: int, path: str, size: int, rate_bps: float, end_s: float, found: Found) -> None:
    """Download a stream in ranges, again and again."""
    while time.monotonic() < end_s:
        try:
            reader, writer = await asyncio.open_connection(place, port)
            try:
                for start in range(0, size, RANGE_BYTES):
                    began = time.perf_counter()
                    stop = min(size, start + RANGE_BYTES) - 1
                    ask = f"GET {path} HTTP/1.1\r\nHost: {place}\r\nRange: bytes={start}-{stop}\r\n\r\n"
                    async with asyncio.timeout(60):
                        status, _, body, first = await answer_of(reader, writer, ask)
                    if status != 206 or len(body) != stop - start + 1:
                        raise RuntimeError(f"HTTP {status}, {len(body)} bytes")
                    found.ranges_s.append(first - began)
                    found.num_bytes += len(body)
                    await asyncio.sleep(max(0.0, 8 * len(body) / rate_bps - (time.perf_counter() - began)))
                    if time.monotonic() >= end_s:
                        break
            finally:
                writer.close()
        except Exception as error:
            found.failed(error)
            await asyncio.sleep(1.0)


async def watch(pid: int, end_s: float, found: Found) -> None:
    """Note the memory of a process and of those that it started."""
    while time.monotonic() < end_s:
        found.rss_mib.append(rss_mib(pid))
        await asyncio.sleep(2.0)


def rss_mib(pid: int) -> float:
    total = 0
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            values = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
            if int(place.name) == pid or int(values["PPid"]) == pid:
                total += int(values.get("VmRSS", "0 kB").split()[0])
    return total / 1024


def cpu_s(pid: int) -> float:
    total = 0.0
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                parts = (place / "stat").read_text().rpartition(")")[2].split()
                if int(place.name) == pid or int(parts[1]) == pid:
                    total += (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
    return total


@contextlib.contextmanager
def airlora_server(site: Path, folder: Path, port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "airlora.cli", "serve", str(site), "--port", str(port), "--quiet"]
    process = subprocess.Popen([*command, "--reports", str(folder / "reports.sqlite")], stderr=subprocess.DEVNULL)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def nginx_server(program: str, site: Path, folder: Path, port: int) -> Iterator[int]:
    place = folder / "nginx"
    (place / "logs").mkdir(parents=True)
    (place / "nginx.conf").write_text(
        "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 8192;\nuser root;\npid nginx.pid;\n"
        "error_log logs/error.log;\nevents { worker_connections 4096; }\n"
        "http { access_log off; sendfile on; etag on;\n"
        f"server {{ listen 127.0.0.1:{port} backlog=2048; root {site}; }} }}\n"
    )
    process = subprocess.Popen([program, "-p", str(place), "-c", str(place / "nginx.conf")])
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait()


async def load(port: int, pid: int, path: str, size: int, arguments: argparse.Namespace, reports: bool) -> Found:
    found = Found()
    for _ in range(100):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        await asyncio.sleep(0.2)
    end_s = time.monotonic() + 60 * arguments.minutes
    await asyncio.gather(
        watch(pid, end_s, found),
        *(
            looks("127.0.0.1", port, number, arguments.every_s, end_s, found, reports)
            for number in range(arguments.devices)
        ),
        *(
            downloads("127.0.0.1", port, path, size, arguments.rate_bps, end_s, found)
            for _ in range(arguments.downloading)
        ),
    )
    return found


def summary(name: str, found: Found, seconds: float, busy_s: float) -> dict[str, object]:
    def tail(values: list[float]) -> dict[str, float]:
        return {f"p{share}_ms": float(1000 * np.percentile(values, share)) for share in (50, 99)} | {
            "max_ms": 1000 * max(values)
        }

    settled = found.rss_mib[len(found.rss_mib) // 10 :]
    return {
        "server": name,
        "looks": len(found.looks_s),
        "look": tail(found.looks_s),
        "ranges": len(found.ranges_s),
        "range": tail(found.ranges_s),
        "errors": found.errors,
        "downloaded_mb": found.num_bytes / 1e6,
        "cpu_share": busy_s / seconds,
        "rss_mib": {"after_a_tenth": settled[0], "at_the_end": settled[-1], "most": max(found.rss_mib)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--every-s", type=float, default=10.0)
    parser.add_argument("--downloading", type=int, default=100)
    parser.add_argument("--rate-bps", type=float, default=200e3, help="of each download")
    parser.add_argument("--peer", default=shutil.which("nginx"), help="program of nginx; none: not compared")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        folder.chmod(0o755)
        site, path = make_site(folder)
        size = (site / path.lstrip("/")).stat().st_size
        servers = [("airlora serve", airlora_server(site, folder, 18_431), 18_431, True)]
        if arguments.peer:
            servers.append(("nginx", nginx_server(arguments.peer, site, folder, 18_432), 18_432, False))
        for name, server, port, reports in servers:
            with server as pid:
                began = time.monotonic()
                found = asyncio.run(load(port, pid, path, size, arguments, reports))
                results.append(summary(name, found, time.monotonic() - began, cpu_s(pid)))
            if not arguments.json:
                print(json.dumps(results[-1], indent=1), flush=True)
    if arguments.json:
        print(json.dumps(results))
    if any(result["errors"] for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
