import hashlib
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airlora.codec import DenseTensor, Limits, ModuleUpdate, StreamHeader, decode_stream, encode_stream
from airlora.codec.format.basis import SeededBasis
from airlora.codec.format.container import pack_index, unpack_index
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

SHAPES = {"first": ModuleShape(30, 20), "second": ModuleShape(20, 50)}
BASIS = SeededBasis(sizes=(20, 20, 20), rank=2, seed=5)
HEADER = StreamHeader("0" * 64, SHAPES, {"w": (2, 3)}, r_max=4, basis=BASIS)


@pytest.fixture
def coefficients() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(BASIS.size).astype(np.float32)


def tensors(coefficients: np.ndarray) -> dict[str, DenseTensor]:
    chunks = {name: DenseTensor(values, 1.0) for name, values in BASIS.split(coefficients).items()}
    return {"w": DenseTensor(np.ones((2, 3)), 1.0), **chunks}


def test_every_machine_spreads_the_coefficients_alike() -> None:
    indices = np.concatenate([own.ravel() for own in SeededBasis((1000,), 4, seed=7).indices(SHAPES)])
    assert indices.dtype == np.uint32
    assert hashlib.sha256(indices.astype("<u4").tobytes()).hexdigest()[:16] == "81c50fd3acc54e63"


def test_another_seed_spreads_them_otherwise() -> None:
    first, second = (next(SeededBasis((1000,), 4, seed=seed).indices(SHAPES)) for seed in (0, 1))
    assert (first != second).mean() > 0.99


def test_the_coefficients_are_spread_evenly() -> None:
    counts = np.bincount(next(SeededBasis((10,), 1000).indices({"a": ModuleShape(10, 10)})).ravel(), minlength=10)
    assert counts.sum() == 20_000
    # Standard deviation of a binomial count: 42.
    assert abs(counts - 2000).max() < 5 * 42


def test_every_entry_is_a_coefficient(coefficients: np.ndarray) -> None:
    basis = SeededBasis((60,), 2)
    entries = [part.ravel() for _, U, V in basis.components(coefficients, SHAPES) for part in (U, V)]
    assert set(np.concatenate(entries)) <= set(coefficients)


def test_the_components_of_all_chunks_are_added(coefficients: np.ndarray) -> None:
    parts = [np.where(np.arange(60) // 20 == chunk, coefficients, 0) for chunk in range(3)]
    alone = [list(BASIS.components(own.astype(np.float32), SHAPES)) for own in parts]
    for index, (name, U, V) in enumerate(BASIS.components(coefficients, SHAPES)):
        assert all(own[index][0] == name for own in alone)
        np.testing.assert_allclose(sum(own[index][1] for own in alone), U, atol=1e-6)
        np.testing.assert_allclose(sum(own[index][2] for own in alone), V, atol=1e-6)


def test_a_stream_of_coefficients_decodes_to_their_components(coefficients: np.ndarray) -> None:
    decoded = decode_stream(encode_stream(HEADER, {}, tensors(coefficients), bits=8), strict=True)
    assert decoded.header.basis == BASIS
    assert decoded.coefficients is not None
    np.testing.assert_allclose(decoded.coefficients, coefficients, atol=0.05)
    for name, U, V in BASIS.components(decoded.coefficients, SHAPES):
        np.testing.assert_array_equal(decoded.modules[name][0], U)
        np.testing.assert_array_equal(decoded.modules[name][1], V)
    assert dict(decoded.rank_pattern) == {"first": 2, "second": 2}


def test_a_prefix_holds_the_coefficients_of_its_chunks(coefficients: np.ndarray) -> None:
    basis = SeededBasis((1000,) * 6, 2)
    header = replace(HEADER, basis=basis)
    values = np.random.default_rng(1).standard_normal(6000).astype(np.float32)
    sent = {name: DenseTensor(own, 1.0) for name, own in basis.split(values).items()}
    data = encode_stream(header, {}, {"w": tensors(coefficients)["w"], **sent}, bits=8)
    found = decode_stream(data[: len(data) * 2 // 3]).coefficients
    assert found is not None
    received = [np.abs(own).max() > 0 for own in basis.split(found).values()]
    assert any(received)
    assert not all(received)
    for is_received, own, part in zip(received, basis.split(found).values(), basis.split(values).values(), strict=True):
        np.testing.assert_allclose(own, part if is_received else 0, atol=0.05)


def test_free_components_follow_those_of_the_basis(coefficients: np.ndarray) -> None:
    free = ModuleUpdate(np.ones((20, 1)), np.ones((1, 30)), np.ones(1))
    decoded = decode_stream(encode_stream(HEADER, {"first": free}, tensors(coefficients), bits=8), strict=True)
    U, V = decoded.modules["first"]
    assert (U.shape, V.shape) == ((20, 3), (3, 30))
    np.testing.assert_allclose(U[:, 2:] @ V[2:], np.ones((20, 30)), atol=0.05)


def test_basis_and_free_components_keep_to_r_max(coefficients: np.ndarray) -> None:
    free = ModuleUpdate(np.ones((20, 3)), np.ones((3, 30)), np.ones(3))
    data = encode_stream(HEADER, {"first": free}, tensors(coefficients), bits=8)
    with pytest.raises(CodecError, match=r"components of first = 5: allowed is at most r_max = 4"):
        decode_stream(data)


def test_only_streams_with_a_basis_need_the_newer_format(coefficients: np.ndarray) -> None:
    assert encode_stream(HEADER, {}, tensors(coefficients))[4] == 2
    plain = replace(HEADER, basis=None)
    assert encode_stream(plain, {}, {"w": DenseTensor(np.ones((2, 3)), 1.0)})[4] == 1


def test_the_header_survives_packing() -> None:
    assert unpack_index(pack_index(HEADER, [b"x"]), Limits()).header == HEADER


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": ()}, r"chunks of coefficients = 0"),
        ({"sizes": (3, 0)}, r"coefficients of a chunk = 0"),
        ({"sizes": (1 << 28, 1)}, r"coefficients = 268435457"),
        ({"sizes": (3,), "rank": 0}, r"rank of the seeded basis = 0"),
        ({"sizes": (3,), "seed": -1}, r"seed of the basis = -1"),
    ],
)
def test_values_that_are_not_allowed_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        SeededBasis(**{"rank": 1, **values})


def test_a_rank_above_r_max_is_refused() -> None:
    with pytest.raises(CodecError, match=r"rank of the seeded basis = 5: allowed is at most r_max = 4"):
        replace(HEADER, basis=SeededBasis((10,), 5))


def test_a_basis_larger_than_the_limits_is_refused_before_it_is_built() -> None:
    data = pack_index(replace(HEADER, r_max=4, basis=SeededBasis((1 << 20,), 4)), [b"x"])
    with pytest.raises(CodecError, match=r"coefficients of a chunk = 1048576"):
        unpack_index(data, Limits(max_values=1 << 19))
    data = pack_index(replace(HEADER, basis=SeededBasis((10,), 4)), [b"x"])
    with pytest.raises(CodecError, match=r"values of the seeded basis = 480: allowed is at most 479"):
        unpack_index(data, Limits(max_values=479))


def test_chunks_larger_together_than_the_limits_are_refused() -> None:
    data = pack_index(replace(HEADER, basis=SeededBasis((300, 300), 2)), [b"x"])
    with pytest.raises(CodecError, match=r"header: coefficients = 600: allowed is at most 500"):
        unpack_index(data, Limits(max_values=500))


def test_the_memory_of_the_components_does_not_grow_with_the_number_of_chunks() -> None:
    shapes = {"wide": ModuleShape(20_000, 20_000)}

    def peak_bytes(num_chunks: int) -> int:
        basis = SeededBasis((10,) * num_chunks, 4)
        tracemalloc.start()
        try:
            next(basis.components(np.zeros(basis.size, np.float32), shapes))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak_bytes(32) < 1.2 * peak_bytes(1)
