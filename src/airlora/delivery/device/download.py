"""Resumable download of a stream: segments are verified before they are written, and never downloaded twice."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from airlora.codec import Limits, StreamReader
from airlora.delivery.device.state import storage_errors
from airlora.delivery.device.transport import RetryPolicy, Transport
from airlora.delivery.repository.manifest import StreamEntry
from airlora.errors import CodecError, NetworkError, StorageError, TrustError
from airlora.files import sync_folder

__all__ = ["PartialStream", "fetch_stream"]

MAX_DAMAGED = 3
"""Consecutive downloads of a segment with a wrong digest after which the server is not trusted."""


class PartialStream:
    """File of the verified bytes of a stream.

    Opening the file verifies its segments again and truncates it before the first invalid one.

    Args:
        path: Path of the file. It need not exist.
        entry: Entry of the stream in the signed manifest.

    Attributes:
        num_bytes: Number of verified bytes.
        reader: Reader that has decoded the verified segments. None before the stream header is verified.

    Raises:
        StorageError: The file cannot be read or written.
    """

    def __init__(self, path: Path, entry: StreamEntry) -> None:
        self.path, self._entry = path, entry
        self.num_bytes = 0
        self.reader: StreamReader | None = None
        with storage_errors(f"read {path}"):
            held = path.read_bytes() if path.exists() else b""
        while self.num_bytes < len(held) and (byte_range := self.next_range) is not None and byte_range[1] <= len(held):
            try:
                self._verify(held[byte_range[0] : byte_range[1]])
            except TrustError:
                break
        if self.num_bytes < len(held):
            self._truncate()

    @property
    def digest(self) -> str:
        """Digest of the stream."""
        return self._entry.digest

    @property
    def next_range(self) -> tuple[int, int] | None:
        """Start and end of the stream header or the next segment as byte offsets. None after the last segment."""
        if self.reader is None:
            return 0, self._entry.head_bytes
        return self.reader.next_range

    @property
    def is_complete(self) -> bool:
        """Whether all segments have been verified."""
        return self.next_range is None

    def feed(self, segment: bytes) -> None:
        """Verify the stream header or the next segment and append it to the file.

        Args:
            segment: Bytes at `next_range`.

        Raises:
            TrustError: The digest differs from the signed one. Nothing is written.
            StorageError: The file cannot be written. `prefix` then fails too, until the file is opened again.
        """
        start = self.num_bytes
        self._verify(segment)
        with storage_errors(f"write {self.path}"):
            is_new = not self.path.exists()
            with open(self.path, "wb" if is_new else "r+b") as file:
                file.seek(start)
                file.write(segment)
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                sync_folder(self.path.parent)

    def prefix(self) -> bytes:
        """Return the verified bytes.

        Raises:
            StorageError: The file cannot be read, or a failed write left it shorter.
        """
        with storage_errors(f"read {self.path}"), open(self.path, "rb") as file:
            held = file.read(self.num_bytes)
        if len(held) != self.num_bytes:
            raise StorageError(f"{self.path}: holds {len(held)} of {self.num_bytes} verified bytes")
        return held

    def _verify(self, segment: bytes) -> None:
        try:
            if self.reader is None:
                reader = StreamReader(segment, limits=Limits())
                index, entry = reader.index, self._entry
                found = (index.digest, index.num_bytes, index.total_bytes, len(index.lengths))
                if found != (entry.digest, entry.head_bytes, entry.total_bytes, entry.num_segments):
                    raise TrustError(f"stream {entry.digest[:12]}: its header differs from the signed manifest")
                self.reader = reader
            else:
                self.reader.feed(segment)
        except CodecError as error:
            raise TrustError(f"stream {self._entry.digest[:12]}: {error}") from error
        self.num_bytes += len(segment)

    def _truncate(self) -> None:
        with storage_errors(f"write {self.path}"), open(self.path, "r+b") as file:
            file.truncate(self.num_bytes)
            os.fsync(file.fileno())


def fetch_stream(
    transport: Transport,
    url: str,
    partial: PartialStream,
    retries: RetryPolicy,
    *,
    choose_end: Callable[[PartialStream, int], int],
    on_segment: Callable[[PartialStream], None] = lambda partial: None,
) -> None:
    """Download the next segments of a stream. Connections that break are resumed at the last received byte.

    Args:
        transport: Transport that fetches the stream.
        url: Address of the stream.
        partial: Verified bytes of the stream. Downloaded segments are added to it.
        retries: Retries of the visit.
        choose_end: Function that returns the end of the download as a byte offset. It is called before each segment
            and after each interruption, with the verified bytes and the number of received bytes of the next segment.
            The download ends when the next segment exceeds the returned offset.
        on_segment: Function that is called after each verified segment.

    Raises:
        NetworkError: The server refuses the request, the deadline was reached, or the retries are used up.
        TrustError: A segment was damaged `MAX_DAMAGED` times in a row, or no retry is left after a damaged segment.
        StorageError: A segment cannot be written.
    """
    num_damaged = 0
    pending = b""
    while (segment_range := partial.next_range) is not None and segment_range[1] <= (
        end := choose_end(partial, len(pending))
    ):
        try:
            # One request for all that is wanted. The bytes of an interrupted segment are kept.
            for chunk in transport.get(url, start=partial.num_bytes + len(pending), stop=end):
                pending += chunk
                while segment_range is not None and len(pending) >= (length := segment_range[1] - segment_range[0]):
                    segment, pending = pending[:length], pending[length:]
                    partial.feed(segment)
                    retries.reset()
                    num_damaged = 0
                    on_segment(partial)
                    segment_range = partial.next_range
                    end = choose_end(partial, len(pending))
                if segment_range is None or segment_range[1] > end:
                    break
        except TrustError as error:
            transport.discard(url, partial.num_bytes)
            pending, num_damaged = b"", num_damaged + 1
            if num_damaged >= MAX_DAMAGED:
                raise
            try:
                retries.wait(NetworkError(f"{url}: damaged segment at byte {partial.num_bytes}"))
            except NetworkError:
                # The damage explains the failure better than the retries do.
                raise error from None
        except NetworkError as error:
            retries.wait(error)
