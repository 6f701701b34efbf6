"""Codec for adapters: one stream of bytes, most important bytes first, of which every prefix decodes.

- `encode_stream` turns rank-one components and dense tensors into a stream. It chooses the precision and the order of
  the components, rounds them, entropy-codes them and packs them into segments.
- `decode_stream` turns any prefix of complete segments into an adapter that is bit-identical on every machine.
  `StreamReader` does the same segment by segment.
- `encode_delta` encodes the difference to a stream that the device already holds.
- `preview_stream` returns the decoded content of a stream for quantisation-aware fine-tuning.

`airlora.codec.format` defines the bytes and holds the decoder; a device needs nothing else. Names are loaded at first
use; `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
