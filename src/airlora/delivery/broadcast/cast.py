"""Sending a release to whoever listens, round after round, at a bounded rate."""

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


LONGEST_LAG_S = 0.1
"""How far behind its rate a sender may catch up."""


@dataclass(frozen=True)
class CastPlan:
    """How a release is sent.

    Args:
        host: Address, or group of addresses.
        port: Of it.
        rate_bps: Bit/s of packets at most, without the headers of UDP and below.
        num_rounds: How many times; None: until it is interrupted.
        packet_bytes: Of each packet, at most.
        tenant: Whose release.
        hops: How many routers a group's packets may pass.

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
    """What was sent.

    Args:
        version: Of the release, at the end.
        num_rounds: Whole rounds.
        num_packets: In them.
        num_bytes: Of these packets.
        seconds: That they took.
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
    """Send a release, and after each round what has been released or renewed since.

    Args:
        repository: The repository; its timestamp key is needed.
        plan: How.
        on_packet: Told the number of the round and the bytes of each packet that was sent.
        now_s: A clock.
        sleep: Waits.

    Raises:
        ReleaseError: There is no release, or the key is missing.
        SettingsError: The address is none.
        NetworkError: The system does not send.
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
                # What a machine slept through, or could not keep up with, is not made up for by a burst.
                next_s = max(next_s, now - LONGEST_LAG_S) + 8 * len(packet) / plan.rate_bps
                try:
                    sender.send(packet)
                except ConnectionRefusedError:
                    # Nobody listens there yet: that is what a broadcast is for.
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
        raise SettingsError.of(
            "address", f"{plan.host}:{plan.port}", f"HOST:PORT that can be reached ({reason})"
        ) from error
    return sender
