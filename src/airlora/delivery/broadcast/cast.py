"""Broadcast of a release over UDP, round after round, at a bounded rate."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from airlora.delivery.broadcast.carousel import Carousel, open_carousel
from airlora.delivery.repository.repository import SignedRepository
from airlora.errors import NetworkError, SettingsError

__all__ = ["CastPlan", "CastResult", "cast"]

MAX_LAG_S = 0.1
"""Longest delay that a sender makes up for by sending faster than its rate, s."""


@dataclass(frozen=True)
class CastPlan:
    """Options of a broadcast.

    Args:
        host: Unicast, broadcast or multicast address.
        port: UDP port.
        rate_bps: Largest rate of UDP payload, bit/s, above 0.
        num_rounds: Number of rounds, 1 or more.  None sends until it is interrupted.
        packet_bytes: Largest size of a packet, bytes.
        tenant: Name of the tenant whose release is sent.
        hops: Largest number of routers that a multicast packet passes, 1 to 255.

    Raises:
        SettingsError: A number is out of range.
    """

    host: str
    port: int
    rate_bps: float = 1e6
    num_rounds: int | None = None
    packet_bytes: int = 1200
    tenant: str | None = None
    hops: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.rate_bps < float("inf"):
            raise SettingsError.of("rate_bps", self.rate_bps, "bit/s, above 0")
        if self.num_rounds is not None and self.num_rounds < 1:
            raise SettingsError.of("rounds", self.num_rounds, "1 or more")
        if not 1 <= self.hops <= 255:
            raise SettingsError.of("hops", self.hops, "1 to 255")


@dataclass(frozen=True)
class CastResult:
    """Result of a broadcast.

    Args:
        version: Number of the release that was sent last.
        num_rounds: Number of complete rounds.
        num_packets: Number of packets.
        num_bytes: Total size of the packets, bytes.
        seconds: Duration, s.
    """

    version: int
    num_rounds: int
    num_packets: int
    num_bytes: int
    seconds: float


def cast(
    repository: SignedRepository,
    plan: CastPlan,
    *,
    on_packet: Callable[[int, int], None] = lambda number, num_bytes: None,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> CastResult:
    """Broadcast the newest release, round after round, and return the totals.

    Before each round, changed metadata and a newer release replace those of the round before.

    Args:
        repository: Repository with its timestamp key.
        plan: Options of the broadcast.
        on_packet: Function that is called after each packet with the number of the round, from 0, and the size of the
            packet in bytes.
        now_s: Function that returns the time of a monotonic clock, s.
        sleep: Function that waits for a number of seconds.

    Raises:
        ReleaseError: There is no release, a file or the timestamp key is missing, or `plan.packet_bytes` is out of
            range.
        MissingDependencyError: `raptorq` is not installed.
        SettingsError: The address is invalid.
        NetworkError: The operating system refuses to send.
    """
    stamp, carousel = _stamp(repository), _open(repository, plan)
    began = next_s = now_s()
    num_rounds = num_packets = num_bytes = 0
    with _sender(plan) as sender:
        while plan.num_rounds is None or num_rounds < plan.num_rounds:
            if _stamp(repository) != stamp:
                stamp, carousel = _stamp(repository), _open(repository, plan)
            for packet in carousel.round(num_rounds):
                now = now_s()
                if next_s > now:
                    sleep(next_s - now)
                # A machine that slept or was too slow does not make up for it by a burst.
                next_s = max(next_s, now - MAX_LAG_S) + 8 * len(packet) / plan.rate_bps
                try:
                    sender.send(packet)
                except ConnectionRefusedError:
                    # A unicast receiver that is not listening yet is no error.
                    pass
                except OSError as error:
                    reason = (error.strerror or str(error)).lower()
                    raise NetworkError(f"{plan.host}:{plan.port}: {reason} ({len(packet)} bytes)") from error
                num_packets += 1
                num_bytes += len(packet)
                on_packet(num_rounds, len(packet))
            num_rounds += 1
    return CastResult(carousel.manifest.version, num_rounds, num_packets, num_bytes, now_s() - began)


def _open(repository: SignedRepository, plan: CastPlan) -> Carousel:
    return open_carousel(repository, tenant=plan.tenant, packet_bytes=plan.packet_bytes)


def _stamp(repository: SignedRepository) -> tuple[int, int] | None:
    path: Path = repository.metadata / "timestamp.json"
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _sender(plan: CastPlan) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(plan.host, plan.port, type=socket.SOCK_DGRAM)[0]
        sender = socket.socket(family, socket.SOCK_DGRAM)
        try:
            if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_multicast:
                is_four = family == socket.AF_INET
                level = socket.IPPROTO_IP if is_four else socket.IPPROTO_IPV6
                sender.setsockopt(level, socket.IP_MULTICAST_TTL if is_four else socket.IPV6_MULTICAST_HOPS, plan.hops)
            sender.connect(address)
        except BaseException:
            sender.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SettingsError.of("address", f"{plan.host}:{plan.port}", f"a reachable HOST:PORT ({reason})") from error
    return sender
