"""Reading a stream segment by segment, as it comes over a link."""

from __future__ import annotations

from airlora.codec.format.assembly import Assembly, DecodedStream
from airlora.codec.format.container import StreamHead, unpack_head, verify_segment
from airlora.codec.format.limits import Limits
from airlora.codec.format.segments import unpack_segment
from airlora.errors import CodecError

__all__ = ["StreamReader"]


class StreamReader:
    """An adapter that grows with every segment.

    Args:
        head: The first bytes of the stream, at least up to the first segment; what follows is ignored.
        limits: What the stream may claim.
        base: What the device holds, for a delta stream; must be whole.

    Raises:
        CodecError: The head is damaged or claims too much, or the stream starts from another one than `base`.
    """

    def __init__(
        self, head: bytes | memoryview, *, limits: Limits | None = None, base: DecodedStream | None = None
    ) -> None:
        self._limits = Limits() if limits is None else limits
        self.head: StreamHead = unpack_head(head, self._limits)
        _verify_base(self.head, base)
        self._assembly = Assembly(self.head.header, base)
        self._numbers_left = self._limits.max_numbers
        self.num_segments = 0
        self.bytes_used = self.head.num_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every segment has come."""
        return self.num_segments == len(self.head.lengths)

    @property
    def next_range(self) -> tuple[int, int] | None:
        """Where in the stream the next segment lies, start and end; None if all have come."""
        if self.is_complete:
            return None
        return self.bytes_used, self.bytes_used + self.head.lengths[self.num_segments]

    def feed(self, segment: bytes | memoryview) -> None:
        """Take the next segment; on an error the adapter is lost and the reader of no further use.

        Raises:
            CodecError: It is not the next segment of the manifest, or holds what cannot be.
        """
        verify_segment(self.head, self.num_segments, segment)
        layout = self._assembly.layout
        what = f"segment {self.num_segments}"
        items = unpack_segment(segment, layout, max_numbers=self._numbers_left, what=what)
        self._numbers_left -= sum(layout.num_numbers(item.target) for item in items)
        self._assembly.apply(items)
        self.num_segments += 1
        self.bytes_used += len(segment)

    def result(self) -> DecodedStream:
        """Return the adapter as far as it has come."""
        modules = self._assembly.modules()
        return DecodedStream(
            header=self.head.header,
            modules=modules,
            tensors=self._assembly.tensors(),
            num_components=sum(v.shape[0] for _, v in modules.values()),
            num_segments=self.num_segments,
            bytes_used=self.bytes_used,
            is_complete=self.is_complete,
            digest=self.head.digest,
        )


def _verify_base(head: StreamHead, base: DecodedStream | None) -> None:
    wanted = head.header.base_stream
    if wanted is None:
        return
    if base is None:
        raise CodecError(f"stream: is a delta of stream {wanted[:12]}; that one is needed too")
    if base.digest != wanted:
        raise CodecError(f"stream: is a delta of stream {wanted[:12]}, not of {base.digest[:12]}")
    if not base.is_complete:
        raise CodecError(f"stream: is a delta of stream {wanted[:12]}, of which only {base.num_segments} segments came")
