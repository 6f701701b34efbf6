from dataclasses import replace

import numpy as np
import pytest

from airlora.codec import DenseTensor, ModuleUpdate, StreamHeader, decode_stream, encode_delta, encode_stream
from airlora.codec.encoder.preview import preview_stream
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

PLAIN = StreamHeader("0" * 64, {"m": ModuleShape(20, 10)}, {"head.weight": (3, 64), "head.bias": (3,)}, r_max=2)
HEADER = replace(PLAIN, centred=("head.weight", "head.bias"))


@pytest.fixture
def tensors() -> dict[str, DenseTensor]:
    generator = np.random.default_rng(0)
    return {name: DenseTensor(generator.standard_normal(shape), 1.0) for name, shape in HEADER.tensors.items()}


def test_the_rows_are_decoded_less_their_mean(tensors: dict[str, DenseTensor]) -> None:
    decoded = decode_stream(encode_stream(HEADER, {}, tensors, bits=32), strict=True)
    assert decoded.header.centred == ("head.weight", "head.bias")
    for name, own in tensors.items():
        assert decoded.tensors[name].shape == own.values.shape
        np.testing.assert_allclose(decoded.tensors[name], own.values - own.values.mean(axis=0), atol=1e-6)


def test_a_centred_tensor_saves_its_last_row(tensors: dict[str, DenseTensor]) -> None:
    plain, centred = (len(encode_stream(header, {}, tensors, bits=8)) for header in (PLAIN, HEADER))
    assert plain - centred == pytest.approx(65, abs=10)


def test_the_preview_holds_what_is_decoded(tensors: dict[str, DenseTensor]) -> None:
    decoded = decode_stream(encode_stream(HEADER, {}, tensors, max_bytes=400))
    preview = preview_stream(HEADER, {}, tensors, max_bytes=400)
    for name in HEADER.tensors:
        np.testing.assert_array_equal(preview.tensors[name], decoded.tensors[name])


@pytest.mark.parametrize("old_header", [HEADER, PLAIN])
def test_a_delta_copies_tensors_that_are_sent_alike(old_header: StreamHeader, tensors: dict[str, DenseTensor]) -> None:
    old = encode_stream(old_header, {}, tensors, bits=8)
    update = ModuleUpdate(np.ones((10, 1)), np.ones((1, 20)), np.ones(1))
    delta = encode_delta(old, HEADER, {"m": update}, tensors, bits=8)
    decoded = decode_stream(delta, base=decode_stream(old))
    if old_header is HEADER:
        np.testing.assert_array_equal(decoded.tensors["head.weight"], decode_stream(old).tensors["head.weight"])
    np.testing.assert_allclose(decoded.tensors["head.weight"].sum(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("centred", [("m",), ("head.other",)])
def test_other_names_are_refused(centred: tuple[str, ...]) -> None:
    with pytest.raises(CodecError, match=r"shape of the centred tensor .*: two rows or more|two rows or more"):
        replace(HEADER, centred=centred)


def test_a_tensor_of_one_row_is_refused() -> None:
    with pytest.raises(CodecError, match="two rows or more"):
        replace(PLAIN, tensors={"head.weight": (1, 64)}, centred=("head.weight",))
