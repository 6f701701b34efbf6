"""Small streams and repositories for tests of the delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from airlora.codec import HeadTensor, ModuleUpdate, StreamHeader, StreamReader, encode_stream
from airlora.delivery import (
    AgentPlan,
    KeyFolder,
    PrefixScore,
    SignedRepository,
    StateFolder,
    Visit,
    create_repository,
    visit,
)
from airlora.delivery.device.answers import HttpError
from airlora.errors import NetworkError
from airlora.ranks import ModuleShape
from airlora.testing.simulated import SimulatedLink, VirtualTime

FINGERPRINT = "0123456789abcdef" * 4


def make_stream(
    seed: int = 0, *, size: int = 48, num_modules: int = 4, max_distortion: float = 0.02, fingerprint: str = FINGERPRINT
) -> bytes:
    """Return a stream of some kilobytes and many segments."""
    generator = np.random.default_rng(seed)
    shapes = {f"layer.{place}.dense": ModuleShape(d_in=size, d_out=size) for place in range(num_modules)}
    updates = {
        name: ModuleUpdate(
            generator.standard_normal((size, 4)), generator.standard_normal((4, size)), np.geomspace(1, 0.1, 4)
        )
        for name in shapes
    }
    tensors = {"classifier.weight": HeadTensor(generator.standard_normal((2, size)), 1.0)}
    header = StreamHeader(fingerprint, shapes, {name: tensor.values.shape for name, tensor in tensors.items()}, r_max=4)
    return encode_stream(header, updates, tensors, max_distortion=max_distortion, layers=2)


def make_repository(folder: Path, **options: object) -> SignedRepository:
    """Return an empty repository in `folder/repo`, its keys in `folder/keys`."""
    repo = folder / "repo"
    return create_repository(repo, KeyFolder(folder / "keys", repo), **options)  # type: ignore[arg-type]


class FakeLink(SimulatedLink):
    """A link of some rate that may break, lie or be refused; no sockets, no waiting.

    Args:
        folder: The repository.
        rate_bps: Of the link, bit/s.
        break_after: Bytes after which each answer breaks off; None: never.
        chunk_bytes: In which the bytes come, at most.
        with_bundle: Whether the server has the metadata in one file too.
        tamper: Given a path and its content, returns what the server hands out.
        statuses: HTTP's numbers of the next answers, before the good ones.
        options: See `SimulatedLink`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rate_bps: float = 1e6,
        break_after: int | None = None,
        chunk_bytes: int = 1 << 20,
        with_bundle: bool = False,
        tamper: Callable[[str, bytes], bytes | Iterator[bytes]] = lambda path, content: content,
        statuses: Sequence[int] = (),
        **options: Any,
    ) -> None:
        super().__init__(folder, lambda _: rate_bps, time=VirtualTime(1000.0), **options)
        self.break_after, self.tamper, self.statuses = break_after, tamper, list(statuses)
        self.chunk_bytes, self.with_bundle = chunk_bytes, with_bundle
        self.requests: list[tuple[str, int, int | None]] = []
        self.sent: list[tuple[str, int, int]] = []

    def _bytes(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        path, came = url.partition("://")[2].partition("/")[2], 0
        if path.endswith("bundle.z") and not self.with_bundle:
            raise HttpError(f"{url}: HTTP 404", 404)
        self.requests.append((path, start, stop))
        for whole in super()._bytes(url, start, stop):
            for at in range(0, len(whole), self.chunk_bytes):
                chunk = whole[at : at + self.chunk_bytes]
                chunk = chunk if self.break_after is None else chunk[: max(0, self.break_after - came)]
                if chunk:
                    self.sent.append((path, start + came, start + came + len(chunk)))
                    came += len(chunk)
                    yield chunk
                if self.break_after is not None and came >= self.break_after:
                    raise NetworkError(f"{url}: connection reset")

    def _content(self, url: str, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        if self.statuses:
            raise HttpError(f"{url}: refused", self.statuses.pop(0))
        whole = b"".join(super()._content(url, path, 0, None))
        content = self.tamper(path, whole)
        yield from iter([content[start:stop]]) if isinstance(content, bytes) else content


URL = "http://example.org"
STREAMS = [make_stream(seed, size=96, num_modules=24, max_distortion=0.002) for seed in range(3)]


def cuts_of(stream: bytes, *, low: float = 0.6, high: float = 0.9) -> list[PrefixScore]:
    """Return cuts at every fourth segment from the whole head on, of rising accuracy."""
    reader, ends = StreamReader(stream), []
    while (place := reader.next_range) is not None:
        reader.feed(stream[place[0] : place[1]])
        if reader.result().tensors:
            ends.append(place[1])
    ends = sorted({*ends[::4], ends[-1]})
    step = (high - low) / max(1, len(ends) - 1)
    return [
        PrefixScore(num_bytes=end, num_components=1, accuracy=low + step * place, loss=0.4)
        for place, end in enumerate(ends)
    ]


@dataclass
class Device:
    folder: StateFolder
    repository: SignedRepository
    plan: AgentPlan = field(init=False)

    def __post_init__(self) -> None:
        root = (self.repository.folder / "metadata" / "1.root.json").read_bytes()
        self.plan = AgentPlan(URL, root=root, base_fingerprint=FINGERPRINT)

    def link(self, **options: object) -> FakeLink:
        return FakeLink(self.repository.folder, **options)  # type: ignore[arg-type]

    def visit(self, link: FakeLink | None = None, **changes: object) -> Visit:
        plan = replace(self.plan, **changes)  # type: ignore[arg-type]
        return visit(self.folder, plan, link or self.link(), seed=0)

    def running(self) -> bytes:
        """Return the bytes that the device runs."""
        state = self.folder.load()
        assert state.active is not None
        return self.folder.read_slot(state.active)[0]
