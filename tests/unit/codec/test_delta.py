from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from airlora.codec import (
    HeadTensor,
    Limits,
    ModuleUpdate,
    StreamHeader,
    decode_delta,
    decode_stream,
    describe,
    encode_delta,
    encode_stream,
)
from airlora.codec.format.container import unpack_head
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

Source = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]]
Make = Callable[..., Source]


def error(source: Source, modules: Any) -> float:
    wanted = {name: update.U @ update.V for name, update in source[1].items()}
    gaps = sum(float(((modules[n][0] @ modules[n][1] - w) ** 2).sum() / (w**2).sum()) for n, w in wanted.items())
    return gaps / len(wanted)


@pytest.mark.parametrize("options", [{"max_distortion": 0.02}, {"bits": 8}, {"bits": 32}, {"price": 1e-4, "layers": 2}])
def test_a_delta_to_the_same_adapter_copies_everything(make: Make, options: dict[str, Any]) -> None:
    source = make(d=128, rank=8)
    old = encode_stream(*source, **options)
    delta = encode_delta(old, *source, **options)
    assert len(delta) < 400
    found, wanted = decode_delta(delta, old, strict=True), decode_stream(old)
    for name, (U, V) in wanted.modules.items():
        assert (found.modules[name][0] == U).all()
        assert (found.modules[name][1] == V).all()
    assert all((found.tensors[name] == tensor).all() for name, tensor in wanted.tensors.items())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_a_small_change_costs_a_small_delta_that_is_as_good(make: Make, noise: float, flip: bool) -> None:
    old = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    header, updates, tensors = new = make(d=128, rank=8, noise=noise)
    if flip:  # the same components, with both signs turned
        updates = {name: ModuleUpdate(-u.U, -u.V, u.weights) for name, u in updates.items()}
    full = encode_stream(header, updates, tensors, max_distortion=0.02)
    delta = encode_delta(old, header, updates, tensors, max_distortion=0.02)
    assert len(delta) < 0.65 * len(full)
    assert describe(delta, base=decode_stream(old))["base_stream"] == describe(old)["digest"]
    assert error(new, decode_delta(delta, old).modules) < 1.5 * error(new, decode_stream(full).modules) + 1e-3


def test_a_delta_to_something_else_is_the_full_stream(make: Make) -> None:
    old = encode_stream(*make(), max_distortion=0.05)
    other = make(seed=7)
    delta = encode_delta(old, *other, max_distortion=0.05)
    assert len(delta) <= len(encode_stream(*other, max_distortion=0.05))
    assert decode_delta(delta, old, strict=True).is_complete
    assert delta == encode_stream(*other, max_distortion=0.05)


def test_every_prefix_of_a_delta_decodes(make: Make) -> None:
    old = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    delta = encode_delta(old, *make(d=128, rank=8, noise=0.3), max_distortion=0.02)
    head = unpack_head(delta, Limits())
    assert head.header.base_stream is not None
    for end in head.num_bytes + np.cumsum([0, *head.lengths]):
        part = decode_delta(delta[:end], old)
        assert part.bytes_used == end
        assert all(np.isfinite(U).all() for U, _ in part.modules.values())


def test_modules_that_came_or_went_or_changed_shape_are_no_trouble(make: Make) -> None:
    old = encode_stream(*make(layers=2), bits=8)
    for changed in (make(layers=1), make(layers=3), make(layers=2, num_labels=5), make(layers=2, rank=6)):
        data = encode_delta(old, *changed, bits=8)
        assert error(changed, decode_delta(data, old, strict=True).modules) < 1e-3


def test_only_the_stream_it_starts_from_will_do(make: Make) -> None:
    source = make(d=128, rank=8)
    old, other = encode_stream(*source, max_distortion=0.02), encode_stream(*source, max_distortion=0.05)
    delta = encode_delta(old, *source, max_distortion=0.02)
    with pytest.raises(CodecError, match="that one is needed too"):
        decode_stream(delta)
    with pytest.raises(CodecError, match=r"is a delta of stream \w{12}, not of"):
        decode_delta(delta, other)
    with pytest.raises(CodecError, match="it is cut"):
        decode_delta(delta, old[:-1])
    with pytest.raises(CodecError, match="of which only"):
        decode_delta(delta, decode_stream(old[:-1]))
    with pytest.raises(CodecError, match="that one is needed too"):
        encode_delta(delta, *source)


def test_another_base_model_is_refused(source: Source) -> None:
    header, updates, tensors = source
    old = encode_stream(header, updates, tensors)
    stranger = StreamHeader("f" * 64, header.modules, header.tensors, header.r_max)
    with pytest.raises(CodecError, match="belongs to base model 0123456789ab, the new one to ffffffffffff"):
        encode_delta(old, stranger, updates, tensors)


def test_a_full_stream_needs_no_earlier_one_but_may_be_given_it(source: Source) -> None:
    data = encode_stream(*source)
    assert decode_delta(data, data).digest == decode_stream(data).digest


def test_an_empty_earlier_adapter_is_allowed() -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(4, 3)}, r_max=2)
    old = encode_stream(header, {})
    update = ModuleUpdate(np.ones((3, 1)), np.ones((1, 4)), np.ones(1))
    assert decode_delta(encode_delta(old, header, {"a": update}, bits=16), old).num_components == 1
