"""A stream on its way: what came is verified before it is written, and what is written is never fetched again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from airlora.codec import Limits, StreamReader
from airlora.delivery.device.link import HttpLink, Patience
from airlora.delivery.repository.manifest import StreamEntry
from airlora.errors import CodecError, NetworkError, StorageError, TrustError
from airlora.files import sync_folder

__all__ = ["PartialStream", "fetch_stream"]

MAX_WRONG = 3
"""Times that a segment may come with the wrong digest: a broken link, up to that; then somebody."""


class PartialStream:
    """The verified bytes of a stream, on disk.

    Args:
        path: The file; what it holds is verified again, and cut off from the first byte that is not right.
        entry: The signed manifest's word on the stream.

    Raises:
        StorageError: The file cannot be read or written.
    """

    def __init__(self, path: Path, entry: StreamEntry) -> None:
        self.path, self._entry = path, entry
        self.num_bytes = 0
        self._ends: list[int] = []
        self.reader: StreamReader | None = None
        try:
            held = path.read_bytes() if path.exists() else b""
        except OSError as error:
            raise StorageError(f"cannot read {path}: {_reason(error)}") from error
        while self.num_bytes < len(held) and (place := self.next_range) is not None and place[1] <= len(held):
            try:
                self._verify(held[place[0] : place[1]])
            except TrustError:
                break
        if self.num_bytes < len(held):
            self._truncate()

    @property
    def digest(self) -> str:
        """Which stream it is."""
        return self._entry.digest

    @property
    def next_range(self) -> tuple[int, int] | None:
        """Where the next piece lies, start and end; None if all is there."""
        if self.reader is None:
            return 0, self._entry.head_bytes
        return self.reader.next_range

    @property
    def is_complete(self) -> bool:
        """Whether the stream is whole."""
        return self.next_range is None

    def ends(self) -> list[int]:
        """Return where the pieces end, that of the head first; empty before the head came."""
        if self.reader is None:
            return []
        ends = [self._entry.head_bytes]
        for length in self.reader.head.lengths:
            ends.append(ends[-1] + length)
        return ends

    def feed(self, piece: bytes) -> None:
        """Verify the next piece and put it on disk for good.

        Raises:
            TrustError: It is not what was signed; nothing was written.
            StorageError: It cannot be written.
        """
        before = self.num_bytes
        self._verify(piece)
        # Should this fail, the counters are ahead of the disk: `prefix` tells, and the next visit begins at the disk.
        try:
            is_new = not self.path.exists()
            with open(self.path, "wb" if is_new else "r+b") as file:
                file.seek(before)
                file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self.path.parent)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {_reason(error)}") from error

    def prefix(self) -> bytes:
        """Return the verified bytes; raises `StorageError`, as it does if the disk does not hold them all."""
        try:
            with open(self.path, "rb") as file:
                held = file.read(self.num_bytes)
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {_reason(error)}") from error
        if len(held) != self.num_bytes:
            raise StorageError(f"{self.path}: holds {len(held)} of {self.num_bytes} verified bytes")
        return held

    def _verify(self, piece: bytes) -> None:
        try:
            if self.reader is None:
                reader = StreamReader(piece, limits=Limits())
                head, entry = reader.head, self._entry
                found = (head.digest, head.num_bytes, head.total_bytes, len(head.lengths))
                if found != (entry.digest, entry.head_bytes, entry.total_bytes, entry.num_segments):
                    raise TrustError(f"stream {entry.digest[:12]}: its head is not the one that was signed")
                self.reader = reader
            else:
                self.reader.feed(piece)
        except CodecError as error:
            raise TrustError(f"stream {self._entry.digest[:12]}: {error}") from error
        self.num_bytes += len(piece)

    def _truncate(self) -> None:
        try:
            with open(self.path, "r+b") as file:
                file.truncate(self.num_bytes)
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {_reason(error)}") from error


def fetch_stream(
    link: HttpLink,
    url: str,
    part: PartialStream,
    patience: Patience,
    *,
    wants_more: Callable[[PartialStream, int], int],
    on_piece: Callable[[PartialStream], None] = lambda part: None,
) -> None:
    """Fetch the stream's next pieces until enough has come, over any number of breaks.

    Args:
        link: The server.
        url: Of the stream.
        part: Grows.
        patience: With the link.
        wants_more: Asked before a piece, and again after a break within it: given what came, and how many bytes of the
            next piece are there already, up to which byte it is to go on; no more than what came: enough.
        on_piece: Told after each verified piece.

    Raises:
        NetworkError: The deadline has come, or it was given up.
        TrustError: A piece came wrong again and again.
        StorageError: A piece cannot be written.
    """
    wrong = 0
    pending = b""
    while (place := part.next_range) is not None and place[1] <= (limit := wants_more(part, len(pending))):
        try:
            # One request for all that is wanted; the bytes of a piece that broke off are kept.
            for chunk in link.get(url, start=part.num_bytes + len(pending), stop=limit):
                pending += chunk
                while place is not None and len(pending) >= place[1] - place[0]:
                    piece, pending = pending[: place[1] - place[0]], pending[place[1] - place[0] :]
                    part.feed(piece)
                    patience.progress()
                    wrong = 0
                    on_piece(part)
                    place = part.next_range
                    limit = wants_more(part, len(pending))
                if place is None or place[1] > limit:
                    break
        except TrustError as error:
            link.forget(url, part.num_bytes)
            pending, wrong = b"", wrong + 1
            if wrong >= MAX_WRONG:
                raise
            try:
                patience.failed(NetworkError(f"{url}: a piece came damaged"))
            except NetworkError:
                # What is to be told is why it was given up.
                raise error from None
        except NetworkError as error:
            patience.failed(error)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
