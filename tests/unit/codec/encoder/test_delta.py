from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from airlora.codec import (
    DecodedStream,
    DenseTensor,
    Limits,
    ModuleUpdate,
    StreamHeader,
    decode_stream,
    describe,
    encode_delta,
    encode_stream,
)
from airlora.codec.format import unpack_index
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

Source = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, DenseTensor]]
Make = Callable[..., Source]


def decode_delta(data: bytes, old: bytes) -> DecodedStream:
    return decode_stream(data, base=decode_stream(old, strict=True))


def mean_squared_error(source: Source, modules: Any) -> float:
    expected = {name: update.U @ update.V for name, update in source[1].items()}
    errors = [((modules[n][0] @ modules[n][1] - w) ** 2).sum() / (w**2).sum() for n, w in expected.items()]
    return float(np.mean(errors))


@pytest.mark.parametrize(
    "options", [{"max_distortion": 0.02}, {"bits": 8}, {"bits": 32}, {"lagrange_multiplier": 1e-4, "layers": 2}]
)
def test_a_delta_to_the_same_adapter_copies_everything(make: Make, options: dict[str, Any]) -> None:
    source = make(d=128, rank=8)
    old = encode_stream(*source, **options)
    delta = encode_delta(old, *source, **options)
    assert len(delta) < 400
    found, expected = decode_delta(delta, old), decode_stream(old)
    assert found.is_complete
    for name, (U, V) in expected.modules.items():
        assert (found.modules[name][0] == U).all()
        assert (found.modules[name][1] == V).all()
    assert all((found.tensors[name] == tensor).all() for name, tensor in expected.tensors.items())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_a_small_change_needs_a_small_delta_of_the_same_quality(make: Make, noise: float, flip: bool) -> None:
    old = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    header, updates, tensors = new = make(d=128, rank=8, noise=noise)
    if flip:  # the same components with both signs reversed
        updates = {name: ModuleUpdate(-u.U, -u.V, u.importance) for name, u in updates.items()}
    full = encode_stream(header, updates, tensors, max_distortion=0.02)
    delta = encode_delta(old, header, updates, tensors, max_distortion=0.02)
    assert len(delta) < 0.65 * len(full)
    assert describe(delta, base=decode_stream(old))["base_stream"] == describe(old)["digest"]
    full_error = mean_squared_error(new, decode_stream(full).modules)
    assert mean_squared_error(new, decode_delta(delta, old).modules) < 1.5 * full_error + 1e-3


def test_a_delta_to_an_unrelated_adapter_is_the_full_stream(make: Make) -> None:
    old = encode_stream(*make(), max_distortion=0.05)
    other = make(seed=7)
    delta = encode_delta(old, *other, max_distortion=0.05)
    assert len(delta) <= len(encode_stream(*other, max_distortion=0.05))
    assert decode_delta(delta, old).is_complete
    assert delta == encode_stream(*other, max_distortion=0.05)


def test_every_prefix_of_a_delta_decodes(make: Make) -> None:
    old = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    delta = encode_delta(old, *make(d=128, rank=8, noise=0.3), max_distortion=0.02)
    index = unpack_index(delta, Limits())
    assert index.header.base_stream is not None
    for end in index.num_bytes + np.cumsum([0, *index.lengths]):
        decoded = decode_delta(delta[:end], old)
        assert decoded.bytes_used == end
        assert all(np.isfinite(U).all() for U, _ in decoded.modules.values())


def test_a_delta_allows_added_removed_and_reshaped_modules_and_tensors(make: Make) -> None:
    old = encode_stream(*make(layers=2), bits=8)
    for changed in (make(layers=1), make(layers=3), make(layers=2, num_labels=5), make(layers=2, rank=6)):
        data = encode_delta(old, *changed, bits=8)
        decoded = decode_delta(data, old)
        assert decoded.is_complete
        assert mean_squared_error(changed, decoded.modules) < 1e-3


def test_a_delta_requires_its_complete_base_stream(make: Make) -> None:
    source = make(d=128, rank=8)
    old, other = encode_stream(*source, max_distortion=0.02), encode_stream(*source, max_distortion=0.05)
    delta = encode_delta(old, *source, max_distortion=0.02)
    with pytest.raises(CodecError, match="which is needed to decode it"):
        decode_stream(delta)
    with pytest.raises(CodecError, match=r"is a delta of stream \w{12}, not of"):
        decode_delta(delta, other)
    with pytest.raises(CodecError, match="the stream is truncated"):
        decode_delta(delta, old[:-1])
    with pytest.raises(CodecError, match="of which only"):
        decode_stream(delta, base=decode_stream(old[:-1]))
    with pytest.raises(CodecError, match="which is needed to decode it"):
        encode_delta(delta, *source)


def test_a_base_stream_of_another_base_model_is_refused(source: Source) -> None:
    header, updates, tensors = source
    old = encode_stream(header, updates, tensors)
    stranger = StreamHeader("f" * 64, header.modules, header.tensors, header.r_max)
    with pytest.raises(CodecError, match="belongs to base model 0123456789ab, the new adapter to ffffffffffff"):
        encode_delta(old, stranger, updates, tensors)


def test_a_full_stream_ignores_a_base_stream(source: Source) -> None:
    data = encode_stream(*source)
    assert decode_delta(data, data).digest == decode_stream(data).digest


def test_an_empty_base_stream_is_allowed() -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(4, 3)}, r_max=2)
    old = encode_stream(header, {})
    update = ModuleUpdate(np.ones((3, 1)), np.ones((1, 4)), np.ones(1))
    assert decode_delta(encode_delta(old, header, {"a": update}, bits=16), old).num_components == 1
