"""Streams, repositories, transports and devices for tests of the delivery."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from airlora.codec import DenseTensor, ModuleUpdate, StreamHeader, StreamReader, encode_stream
from airlora.delivery import (
    AgentConfig,
    KeyFolder,
    PrefixScore,
    SignedRepository,
    StateFolder,
    VisitResult,
    create_repository,
    visit,
)
from airlora.delivery.device.transport import HttpError, Response, Transport
from airlora.errors import NetworkError
from airlora.ranks import ModuleShape
from airlora.testing.simulated import SimulatedTransport, VirtualTime, folder_server

FINGERPRINT = "0123456789abcdef" * 4


def make_stream(
    seed: int = 0, *, size: int = 48, num_modules: int = 4, max_distortion: float = 0.02, fingerprint: str = FINGERPRINT
) -> bytes:
    """Return a stream of a few kilobytes with many segments."""
    generator = np.random.default_rng(seed)
    shapes = {f"layer.{place}.dense": ModuleShape(d_in=size, d_out=size) for place in range(num_modules)}
    updates = {
        name: ModuleUpdate(
            generator.standard_normal((size, 4)), generator.standard_normal((4, size)), np.geomspace(1, 0.1, 4)
        )
        for name in shapes
    }
    tensors = {"classifier.weight": DenseTensor(generator.standard_normal((2, size)), 1.0)}
    header = StreamHeader(fingerprint, shapes, {name: tensor.values.shape for name, tensor in tensors.items()}, r_max=4)
    return encode_stream(header, updates, tensors, max_distortion=max_distortion, layers=2)


def make_repository(folder: Path, **options: object) -> SignedRepository:
    """Return an empty repository in `folder/repo`, its keys in `folder/keys`."""
    repo = folder / "repo"
    return create_repository(repo, KeyFolder(folder / "keys", repo), **options)  # type: ignore[arg-type]


class FakeTransport(Transport):
    """Simulated transport that may break, lie or be refused, and that records what it carries.

    Args:
        folder: Folder of the repository.
        rate_bps: Rate in bit/s.
        break_after: Bytes after which each answer breaks off. None for never.
        chunk_bytes: Maximum size of a chunk.
        with_bundle: Whether the server has the bundle of metadata.
        tamper: Function of a path and its content that returns what the server sends.
        statuses: HTTP status codes of the next requests, before they succeed.
        statuses_below: Start of the paths that `statuses` applies to.
        post_error: Error of every report. None accepts reports.
        **options: Further arguments of `SimulatedTransport`.
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
        statuses_below: str = "",
        post_error: NetworkError | None = None,
        **options: Any,
    ) -> None:
        self._read = folder_server(folder)
        self._simulated = SimulatedTransport(self._serve, lambda _: rate_bps, time=VirtualTime(1000.0), **options)
        self._break_after, self._tamper, self._statuses = break_after, tamper, list(statuses)
        self._chunk_bytes, self._with_bundle, self._statuses_below = chunk_bytes, with_bundle, statuses_below
        self._post_error = post_error
        self.monitor, self.time = self._simulated.monitor, self._simulated.time
        self.requests: list[tuple[str, int, int | None]] = []
        self.sent: list[tuple[str, int, int]] = []
        self.posts: list[dict[str, Any]] = []

    def post(self, url: str, body: bytes) -> None:
        if self._post_error is not None:
            raise self._post_error
        self.posts.append(json.loads(body))

    def get(self, url: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Response:
        return Response(self._record(path_of(url), start, self._simulated.get(url, start=start, stop=stop)))

    def _record(self, path: str, start: int, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.sent.append((path, start, start + len(chunk)))
            start += len(chunk)
            yield chunk

    def _serve(self, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        if path.endswith("bundle.z") and not self._with_bundle:
            raise HttpError(f"{path}: HTTP 404", 404)
        self.requests.append((path, start, stop))
        if self._statuses and path.startswith(self._statuses_below):
            raise HttpError(f"{path}: refused", self._statuses.pop(0))
        content = self._tamper(path, b"".join(self._read(path, 0, None)))
        num_left = self._break_after
        for whole in [content[start:stop]] if isinstance(content, bytes) else content:
            for at in range(0, len(whole), self._chunk_bytes):
                chunk = whole[at : at + self._chunk_bytes][:num_left]
                if num_left is not None:
                    num_left -= len(chunk)
                if chunk:
                    yield chunk
                if num_left == 0:
                    raise NetworkError(f"{path}: connection reset")


def path_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[2]


URL = "http://example.org"
STREAMS = [make_stream(seed, size=96, num_modules=24, max_distortion=0.002) for seed in range(3)]


def cuts_of(stream: bytes, *, low: float = 0.6, high: float = 0.9) -> list[PrefixScore]:
    """Return cuts of rising accuracy at every fourth segment, starting where the classification head is complete."""
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
    config: AgentConfig = field(init=False)

    def __post_init__(self) -> None:
        root = (self.repository.folder / "metadata" / "1.root.json").read_bytes()
        self.config = AgentConfig(URL, root=root, base_fingerprint=FINGERPRINT)

    def transport(self, **options: object) -> FakeTransport:
        return FakeTransport(self.repository.folder, **options)  # type: ignore[arg-type]

    def visit(self, transport: Transport | None = None, **changes: object) -> VisitResult:
        config = replace(self.config, **changes)  # type: ignore[arg-type]
        return visit(self.folder, config, transport or self.transport(), seed=0)

    def running(self) -> bytes:
        """Return the bytes of the running adapter."""
        state = self.folder.load()
        assert state.active is not None
        return self.folder.read_slot(state.active)[0]
