"""Header fields of a stream: base model, module shapes, tensor shapes and metadata, in a few hundred bytes.

Module names repeat from layer to layer. The back reference p stands for the name p entries earlier with its first
number increased by one, and for the same shape. All other names are stored as text. The packed fields are compressed
with DEFLATE and a preset dictionary of common module names.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.basis import MAX_BASIS_SIZE, MAX_SEED, SeededBasis
from airlora.codec.format.limits import Limits
from airlora.codec.format.varint import ByteReader, encode_varint
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

__all__ = ["StreamHeader", "pack_header", "unpack_header"]

_MAX_NAME_BYTES = 512
_MAX_BACK = 255
_MAX_AXES = 8
_NUMBER = re.compile(r"[0-9]+")
_HEX_DIGITS = set("0123456789abcdef")

# Part of the format. zlib references strings near the end of a dictionary with the fewest bits.
_DICTIONARY = (
    b"transformer.h.0.mlp.c_projattn.c_attnbase_model.model.classifier.weightbias"
    b"score.weightpre_classifierclassifier.out_proj.weightclassifier.dense.weight"
    b"distilbert.transformer.layer.0.attention.q_link_linv_linout_linffn.lin1lin2"
    b"roberta.bert.encoder.layer.0.intermediate.denseoutput.dense"
    b"model.layers.0.mlp.gate_projmlp.up_projmlp.down_projself_attn.o_proj"
    b"model.decoder.layers.0.fc1fc2self_attn.q_projk_projv_projself_attn.out_proj"
    b"encoder.layer.0.attention.self.queryattention.self.keyattention.self.valueattention.output.dense"
    b"score.weightscore.biasclassifier.weightclassifier.bias{}"
)


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """Header fields of a stream.

    Args:
        base_fingerprint: Fingerprint of the base model, 64 hexadecimal digits.
        modules: Shape of every adapted module, by module name, in stream order.
        tensors: Shape of every dense tensor, by parameter name, in stream order.
        r_max: Largest number of components per module.
        scale: LoRA scale s of Eq. 2. The components already include it; the decoder does not apply it.
        base_stream: Digest of the stream that a delta stream builds on, 64 hexadecimal digits. None for a full stream.
        metadata: JSON object of the writer's choice.
        basis: Seeded basis whose coefficients the stream sends. Every module then begins with its components. None for
            a stream of components alone.
        centred: Names of tensors whose rows sum to zero. The last row is not sent. A softmax does not depend on the
            mean of the rows that compute its logits.

    Raises:
        CodecError: A field is not allowed.
    """

    base_fingerprint: str
    modules: Mapping[str, ModuleShape]
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    r_max: int = 64
    scale: float = 1.0
    base_stream: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    basis: SeededBasis | None = None
    centred: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, digest in (("base_fingerprint", self.base_fingerprint), ("base_stream", self.base_stream)):
            if digest is None and name == "base_stream":
                continue
            if not isinstance(digest, str) or len(digest) != 64 or not set(digest) <= _HEX_DIGITS:
                raise CodecError.of(name, digest, "64 hexadecimal digits")
        if not self.modules and not self.tensors:
            raise CodecError("header: names no module and no dense tensor; at least one is needed")
        for name in (*self.modules, *self.tensors):
            if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) <= _MAX_NAME_BYTES:
                raise CodecError.of(
                    "name of a module or tensor", name, f"1 to {_MAX_NAME_BYTES} bytes of printable text"
                )
        for name, shape in self.tensors.items():
            if len(shape) > _MAX_AXES or any(type(length) is not int or length < 1 for length in shape):
                raise CodecError.of(f"shape of {name}", shape, f"up to {_MAX_AXES} axes, each of length 1 or more")
        for name in self.centred:
            if len(shape := self.tensors.get(name, ())) < 1 or shape[0] < 2:
                raise CodecError.of(f"shape of the centred tensor {name}", shape, "two rows or more")
        if type(self.r_max) is not int or self.r_max < 1:
            raise CodecError.of("r_max", self.r_max, "a whole number, 1 or more")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise CodecError.of("scale", self.scale, "a finite number above 0")
        if self.basis is not None and self.basis.rank > self.r_max:
            raise CodecError.of("rank of the seeded basis", self.basis.rank, f"at most r_max = {self.r_max}")

    def sent_part(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Return the part of a tensor that a stream sends: all rows but the last of a centred one.

        Args:
            name: Name of a tensor or of a chunk of coefficients.
            values: Values of the tensor or chunk.
        """
        return values[:-1] if name in self.centred else values

    def whole_tensor(self, name: str, sent: NDArray[Any]) -> NDArray[Any]:
        """Return a tensor from its values that a stream sends, in any shape."""
        if name not in self.centred:
            return sent.reshape(self.tensors[name])
        rows = sent.reshape(-1, *self.tensors[name][1:])
        return np.concatenate([rows, -rows.sum(axis=0, keepdims=True)])

    def num_sent(self, name: str) -> int:
        """Return the number of values that a stream sends of a tensor."""
        shape = self.tensors[name]
        return math.prod((shape[0] - 1, *shape[1:]) if name in self.centred else shape)


def pack_header(header: StreamHeader) -> bytes:
    """Return the header fields packed and compressed.

    Raises:
        CodecError: The metadata cannot be serialised as JSON.
    """
    try:
        metadata = json.dumps(dict(header.metadata), allow_nan=False, separators=(",", ":"), sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise CodecError(f"metadata of the stream: cannot be serialised as JSON ({error})") from error
    modules: list[tuple[str, tuple[int, ...]]] = [
        (name, (shape.d_out, shape.d_in)) for name, shape in header.modules.items()
    ]
    packed = b"".join(
        (
            bytes([(header.base_stream is not None) + 2 * (header.basis is not None) + 4 * bool(header.centred)]),
            encode_varint(header.r_max),
            struct.pack("<d", header.scale),
            _pack_names(modules),
            _pack_names(list(header.tensors.items())),
            encode_varint(len(metadata)),
            metadata,
            bytes.fromhex(header.base_fingerprint),
            bytes.fromhex(header.base_stream or ""),
            _pack_basis(header.basis),
            _pack_centred(header),
        )
    )
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
    return deflate.compress(packed) + deflate.flush()


def unpack_header(data: bytes, limits: Limits) -> StreamHeader:
    """Return the header fields that `pack_header` packed.

    Raises:
        CodecError: The data is damaged or declares more than `limits` allow.
    """
    inflate = zlib.decompressobj(-15, _DICTIONARY)
    try:
        packed = inflate.decompress(data, limits.max_header_bytes)
    except zlib.error as error:
        raise CodecError(f"header: damaged ({error})") from error
    if not inflate.eof or inflate.unused_data:
        raise CodecError(f"header: damaged, or more than {limits.max_header_bytes} bytes after decompression")
    reader = ByteReader(packed, "header")
    kind = reader.read_varint("kind of stream", 7)
    r_max = reader.read_varint("r_max", limits.max_rank)
    (scale,) = struct.unpack("<d", reader.take(8))
    modules = _unpack_names(reader, "modules", limits.max_modules, limits.max_dim)
    tensors = _unpack_names(reader, "dense tensors", limits.max_tensors, limits.max_dim)
    metadata = _unpack_metadata(reader.take(reader.read_varint("length of the metadata", limits.max_header_bytes)))
    fingerprint = reader.take(32).hex()
    base_stream = reader.take(32).hex() if kind & 1 else None
    basis = _unpack_basis(reader, limits) if kind & 2 else None
    centred = _unpack_centred(reader, tensors) if kind & 4 else ()
    reader.finish()
    shapes: dict[str, ModuleShape] = {}
    for name, shape in modules.items():
        if len(shape) != 2 or min(shape) < 1:
            raise CodecError.of(f"header: shape of {name}", shape, "two axes, each of length 1 or more")
        shapes[name] = ModuleShape(d_in=shape[1], d_out=shape[0])
    if basis is not None:
        num_values = len(basis.sizes) * basis.rank * sum(shape.d_in + shape.d_out for shape in shapes.values())
        if num_values > limits.max_values:
            raise CodecError.of("header: values of the seeded basis", num_values, f"at most {limits.max_values}")
    for name, shape in tensors.items():
        if math.prod(shape) > limits.max_values:
            raise CodecError.of(f"header: shape of {name}", shape, f"at most {limits.max_values} values")
    return StreamHeader(fingerprint, shapes, tensors, r_max, scale, base_stream, metadata, basis, centred)


def _pack_basis(basis: SeededBasis | None) -> bytes:
    fields = () if basis is None else (basis.rank, basis.seed, len(basis.sizes), *basis.sizes)
    return b"".join(map(encode_varint, fields))


def _unpack_basis(reader: ByteReader, limits: Limits) -> SeededBasis:
    rank = reader.read_varint("rank of the seeded basis", limits.max_rank)
    seed = reader.read_varint("seed of the basis", MAX_SEED)
    num_chunks = reader.read_varint("chunks of coefficients", limits.max_tensors)
    max_size = min(limits.max_values, MAX_BASIS_SIZE)
    sizes = tuple(reader.read_varint("coefficients of a chunk", max_size) for _ in range(num_chunks))
    if sum(sizes) > max_size:
        raise CodecError.of("header: coefficients", sum(sizes), f"at most {max_size}")
    return SeededBasis(sizes, rank, seed)


def _pack_centred(header: StreamHeader) -> bytes:
    """Return a byte for every tensor, 1 for a centred one. Without a centred tensor there is no byte."""
    return bytes(name in header.centred for name in header.tensors) if header.centred else b""


def _unpack_centred(reader: ByteReader, tensors: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    centred = tuple(name for name in tensors if reader.read_varint(f"whether {name} is centred", 1))
    if not centred:
        raise CodecError("header: damaged (declares centred tensors and names none)")
    return centred


def _next_name(name: str) -> str:
    return _NUMBER.sub(lambda match: str(int(match[0]) + 1), name, count=1)


def _pack_names(entries: list[tuple[str, tuple[int, ...]]]) -> bytes:
    packed = bytearray(encode_varint(len(entries)))
    for position, (name, shape) in enumerate(entries):
        for back in range(1, min(position, _MAX_BACK) + 1):
            earlier, earlier_shape = entries[position - back]
            if earlier_shape == shape and _next_name(earlier) == name:
                packed += encode_varint(back)
                break
        else:
            text = name.encode()
            packed += encode_varint(0) + encode_varint(len(text)) + text
            packed += b"".join(map(encode_varint, (len(shape), *shape)))
    return bytes(packed)


def _unpack_names(reader: ByteReader, kind: str, max_count: int, max_dim: int) -> dict[str, tuple[int, ...]]:
    entries: list[tuple[str, tuple[int, ...]]] = []
    for position in range(reader.read_varint(f"number of {kind}", max_count)):
        back = reader.read_varint("back reference", min(position, _MAX_BACK))
        if back:
            name, shape = entries[position - back]
            entries.append((_next_name(name), shape))
            continue
        try:
            name = reader.take(reader.read_varint("length of a name", _MAX_NAME_BYTES)).decode()
        except UnicodeDecodeError as error:
            raise CodecError("header: damaged (a name is not valid UTF-8)") from error
        axes = reader.read_varint(f"number of axes of {name}", _MAX_AXES)
        entries.append((name, tuple(reader.read_varint(f"shape of {name}", max_dim) for _ in range(axes))))
    names = dict(entries)
    if len(names) != len(entries):
        raise CodecError(f"header: damaged (two {kind} have the same name)")
    return names


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def _unpack_metadata(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CodecError("header: metadata is not valid JSON") from error
    if not isinstance(value, dict):
        raise CodecError("header: metadata is not a JSON object")
    return value
