"""Codec for adapters: one stream of bytes, most important bytes first, of which every prefix decodes.

`encode_stream` turns rank-one components and dense tensors into a stream. It chooses the precision and the order of
the components, rounds them, entropy-codes them and packs them into segments. `decode_stream` turns any prefix of whole
segments into an adapter that is bit-identical on every machine. `StreamReader` does the same segment by segment.
`encode_delta` encodes the difference to a stream that the device already holds.

`airlora.codec.format` defines the bytes and holds the decoder; a device needs nothing else. The names of
`airlora.codec.encoder` are loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
