import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlora.codec import (
    DecodedStream,
    DenseTensor,
    ErrorMetric,
    Limits,
    ModuleUpdate,
    Rounding,
    StreamHeader,
    decode_stream,
    describe,
    encode_stream,
    truncate,
)
from airlora.codec.format import unpack_index
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

Source = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, DenseTensor]]
Make = Callable[..., Source]


def relative_error(update: ModuleUpdate, pair: tuple[np.ndarray, np.ndarray]) -> float:
    found, expected = pair[0] @ pair[1], update.U @ update.V
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def loss_share(source: Source, decoded: DecodedStream) -> float:
    """Return the share of the total importance that is lost, in the loss model of the encoder."""
    _, updates, tensors = source
    lost = total = 0.0
    for name, update in updates.items():
        U, V = decoded.modules[name]
        for k, importance in enumerate(update.importance):
            total += importance
            if k >= V.shape[0]:
                lost += importance
                continue
            expected = np.outer(update.U[:, k], update.V[k])
            error = np.linalg.norm(np.outer(U[:, k], V[k]) - expected) / np.linalg.norm(expected)
            lost += importance * error**2
    for name, tensor in tensors.items():
        total += tensor.importance
        found = decoded.tensors.get(name, np.zeros_like(tensor.values))
        lost += tensor.importance * float(((found - tensor.values) ** 2).sum() / (tensor.values**2).sum())
    return lost / total


def with_metrics(updates: dict[str, ModuleUpdate]) -> dict[str, ModuleUpdate]:
    """Return the updates with error metrics whose eigenvalues fall exponentially."""

    def metric(size: int) -> ErrorMetric:
        basis = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))[0]
        return ErrorMetric.from_moments([(basis * np.exp(-0.05 * np.arange(size))) @ basis.T])

    return {
        name: dataclasses.replace(update, metrics=(metric(len(update.U)), metric(update.V.shape[1])))
        for name, update in updates.items()
    }


# -- round trips


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-6), (16, 2e-3), (8, 0.015), (4, 0.25)])
def test_a_decoded_adapter_has_the_requested_precision(source: Source, bits: Any, tolerance: float) -> None:
    header, updates, tensors = source
    decoded = decode_stream(encode_stream(header, updates, tensors, bits=bits), strict=True)
    assert decoded.header == header
    assert decoded.rank_pattern.ranks == (4,) * 4
    assert decoded.num_components == 16
    assert max(relative_error(update, decoded.modules[name]) for name, update in updates.items()) < tolerance
    for name, tensor in tensors.items():
        assert decoded.tensors[name].shape == tensor.values.shape
        assert decoded.tensors[name] == pytest.approx(tensor.values, abs=2 * tolerance)


@pytest.mark.parametrize(("bits", "slack"), [(8, 0.15), (4, 0.15)])
def test_a_stream_takes_about_the_requested_bits_per_value(make: Make, bits: Any, slack: float) -> None:
    header, updates, _ = make(d=256)
    about = describe(encode_stream(header, updates, bits=bits))
    spent = 8 * (about["total_bytes"] - about["head_bytes"]) / about["num_params"]
    assert abs(spent - bits) < slack


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 1000),
    layers=st.integers(1, 3),
    rank=st.integers(0, 5),
    d=st.integers(2, 40),
    rounding=st.sampled_from(list(Rounding)),
)
def test_the_stream_of_any_adapter_decodes(
    make: Make, seed: int, layers: int, rank: int, d: int, rounding: Rounding
) -> None:
    header, updates, tensors = make(layers=layers, rank=max(rank, 1), d=d, seed=seed)
    updates = {n: ModuleUpdate(u.U[:, :rank], u.V[:rank], u.importance[:rank]) for n, u in updates.items()}
    data = encode_stream(header, updates, tensors, lagrange_multiplier=1e-3, rounding=rounding)
    decoded = decode_stream(data, strict=True)
    assert decoded.is_complete
    assert all(np.isfinite(V).all() and len(V) <= rank for _, V in decoded.modules.values())


def test_encoding_is_deterministic(make: Make) -> None:
    for options in ({}, {"rounding": Rounding.STOCHASTIC}, {"bits": 8}):
        assert encode_stream(*make(), **options) == encode_stream(*make(), **options)


def test_zero_components_and_zero_tensors_can_be_sent() -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(4, 3)}, {"w": (2, 2)}, r_max=2)
    update = ModuleUpdate(np.zeros((3, 2)), np.zeros((2, 4)), np.ones(2))
    decoded = decode_stream(encode_stream(header, {"a": update}, {"w": DenseTensor(np.zeros((2, 2)), 1.0)}, bits=8))
    assert decoded.num_components == 2
    assert not decoded.modules["a"][0].any()
    assert not decoded.tensors["w"].any()


def test_an_empty_adapter_can_be_sent(source: Source) -> None:
    decoded = decode_stream(encode_stream(source[0], {}), strict=True)
    assert decoded.num_components == decoded.num_segments == 0
    assert decoded.is_complete


def test_values_of_very_different_magnitudes_keep_their_precision() -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(64, 64), "b": ModuleShape(64, 64)}, r_max=1)
    generator = np.random.default_rng(0)
    updates = {
        name: ModuleUpdate(generator.standard_normal((64, 1)) * size, generator.standard_normal((1, 64)), np.ones(1))
        for name, size in (("a", 1e-12), ("b", 1e12))
    }
    decoded = decode_stream(encode_stream(header, updates, bits=8))
    assert max(relative_error(update, decoded.modules[name]) for name, update in updates.items()) < 0.02


# -- rate and distortion


def test_a_smaller_lagrange_multiplier_gives_a_lower_loss_and_more_bytes(make: Make) -> None:
    source = make(d=64)
    streams = [encode_stream(*source, lagrange_multiplier=10.0**-k) for k in range(2, 6)]
    sizes, losses = [len(data) for data in streams], [loss_share(source, decode_stream(data)) for data in streams]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01


@pytest.mark.parametrize("share", [0.3, 0.1, 0.02])
def test_the_loss_is_close_to_the_requested_distortion(make: Make, share: float) -> None:
    source = make(d=128, rank=8)
    assert 0.6 * share < loss_share(source, decode_stream(encode_stream(*source, max_distortion=share))) < 1.4 * share


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("max_bytes", [1500, 3000, 6000])
def test_the_size_is_close_to_the_requested_size(make: Make, max_bytes: int, layers: int) -> None:
    data = encode_stream(*make(d=128, rank=8), max_bytes=max_bytes, layers=layers)
    assert 0.8 * max_bytes < len(data) < 1.15 * max_bytes


def test_a_requested_size_beyond_the_largest_stream_has_no_effect(make: Make) -> None:
    source = make(d=128, rank=8)
    assert encode_stream(*source, max_bytes=2**62, layers=4) == encode_stream(*source, max_bytes=10**9, layers=4)


def test_automatic_precision_beats_a_fixed_bit_width_at_equal_size(make: Make) -> None:
    source = make(d=128, rank=8)
    fixed = encode_stream(*source, bits=4)
    automatic = encode_stream(*source, max_bytes=len(fixed))
    assert loss_share(source, decode_stream(automatic)) < 0.7 * loss_share(source, decode_stream(fixed))


def test_the_most_important_component_comes_first_together_with_its_predecessors(source: Source) -> None:
    header, updates, tensors = source
    name = "encoder.layer.1.output.dense"
    importance = np.array([1e-3, 1e3, 1e-3, 1e-3])  # the second component needs the first
    updates[name] = dataclasses.replace(updates[name], importance=importance)
    data = encode_stream(header, updates, tensors, lagrange_multiplier=1e-5)
    index = unpack_index(data, Limits())
    first = decode_stream(data[: index.num_bytes + index.lengths[0]])
    assert first.modules[name][1].shape[0] >= 2
    assert (
        relative_error(
            ModuleUpdate(updates[name].U[:, :2], updates[name].V[:2], importance[:2]),
            (first.modules[name][0][:, :2], first.modules[name][1][:2]),
        )
        < 1
    )


def test_the_loss_falls_with_every_segment(make: Make) -> None:
    source = make(d=128, rank=8)
    data = encode_stream(*source, max_distortion=0.02)
    index = unpack_index(data, Limits())
    ends = index.num_bytes + np.cumsum([0, *index.lengths])
    losses = [loss_share(source, decode_stream(data[:end])) for end in ends]
    assert losses[0] == pytest.approx(1)
    assert losses == sorted(losses, reverse=True)
    densities = -np.diff(losses) / np.array(index.lengths)
    assert densities[0] > 3 * densities[-1]


# -- prefixes


def test_every_prefix_of_a_stream_decodes_to_the_first_components_of_every_module(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    whole = decode_stream(data, strict=True)
    index = unpack_index(data, Limits())
    assert whole.num_segments >= 3
    ends = index.num_bytes + np.cumsum([0, *index.lengths])
    for length in range(index.num_bytes, len(data) + 1, 7):
        prefix = decode_stream(data[:length])
        assert prefix.num_segments == int((ends <= length).sum()) - 1
        assert prefix.bytes_used == ends[prefix.num_segments]
        assert prefix.is_complete == (length == len(data))
        for name, (U, V) in prefix.modules.items():
            rank = V.shape[0]
            assert (whole.modules[name][0][:, :rank] == U).all()
            assert (whole.modules[name][1][:rank] == V).all()
        assert all((prefix.tensors[name] == whole.tensors[name]).all() for name in prefix.tensors)


def test_truncation_keeps_whole_segments_and_can_be_resumed(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    index = unpack_index(data, Limits())
    for max_bytes in range(index.num_bytes, len(data) + 100, 61):
        prefix = truncate(data, max_bytes)
        assert data.startswith(prefix)
        assert len(prefix) <= max_bytes
        assert decode_stream(prefix).bytes_used == len(prefix)
    assert truncate(truncate(data, 2000), 10**9) == truncate(data, 2000)
    with pytest.raises(CodecError, match="max_bytes"):
        truncate(data, index.num_bytes - 1)


def test_a_description_counts_bytes_segments_and_components(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    whole, prefix = describe(data), describe(truncate(data, len(data) - 1))
    assert whole["payload_bytes"] == whole["total_bytes"] == prefix["total_bytes"] == len(data)
    assert prefix["num_segments"] < prefix["total_segments"] == whole["num_segments"]
    assert prefix["digest"] == whole["digest"]
    assert sum(whole["rank_pattern"].values()) == whole["num_components"]
    assert whole["bits_per_param"] == pytest.approx(8 * len(data) / whole["num_params"])


@pytest.mark.parametrize("layers", [2, 3])
def test_layers_improve_short_prefixes(make: Make, layers: int) -> None:
    source = make(layers=6, d=128, rank=8)
    once = encode_stream(*source, max_distortion=0.02)
    layered = encode_stream(*source, max_distortion=0.02, layers=layers)
    middle = len(once) // 3
    assert loss_share(source, decode_stream(layered[:middle])) < 0.8 * loss_share(source, decode_stream(once[:middle]))
    assert len(layered) < 1.1 * len(once)
    assert loss_share(source, decode_stream(layered)) < 1.1 * loss_share(source, decode_stream(once))


# -- error metrics


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_error_metrics_do_not_change_the_size_at_a_fixed_bit_width(make: Make, bits: Any) -> None:
    header, updates, tensors = make(layers=2, d=48)
    sizes = [len(encode_stream(header, own, tensors, bits=bits)) for own in (updates, with_metrics(updates))]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_stream_with_error_metrics_has_the_requested_size_and_useful_prefixes(make: Make, layers: int) -> None:
    header, updates, tensors = make(layers=4, d=96)
    updates = with_metrics(updates)
    data = encode_stream(header, updates, tensors, max_bytes=2500, layers=layers)
    assert len(data) == pytest.approx(2500, rel=0.15)
    errors = []
    for size in (1500, 2000, len(data)):
        modules = decode_stream(truncate(data, size)).modules
        products = {name: U @ V for name, (U, V) in modules.items()}
        errors.append(sum(float(np.square(own.U @ own.V - products[name]).sum()) for name, own in updates.items()))
    assert errors == sorted(errors, reverse=True)
    assert len(set(errors)) == len(errors)


# -- invalid input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits = 5"),
        ({"lagrange_multiplier": 0.0}, "lagrange_multiplier = 0.0"),
        ({"lagrange_multiplier": float("nan")}, "lagrange_multiplier = nan"),
        ({"max_distortion": 0.0}, "max_distortion"),
        ({"max_distortion": 1.0}, "max_distortion"),
        ({"max_bytes": 0}, "max_bytes = 0"),
        ({"max_bytes": 10**400, "layers": 2}, "max_bytes = 1000"),
        ({"max_bytes": float("nan"), "layers": 2}, "max_bytes = nan"),
        ({"layers": 0}, "layers = 0"),
        ({"rounding": "up"}, "rounding = 'up'"),
    ],
)
def test_invalid_options_are_refused(source: Source, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        encode_stream(*source, **options)


def test_sources_that_do_not_match_the_header_are_refused(source: Source) -> None:
    header, updates, tensors = source
    update = next(iter(updates.values()))
    with pytest.raises(CodecError, match="module = 'other'"):
        encode_stream(header, {"other": update})
    with pytest.raises(CodecError, match="d_out and d_in"):
        encode_stream(header, {"encoder.layer.0.output.dense": update})
    with pytest.raises(CodecError, match="at most r_max = 3"):
        encode_stream(dataclasses.replace(header, r_max=3), updates)
    with pytest.raises(CodecError, match="shape of other"):
        encode_stream(header, {}, {"other": tensors["classifier.bias"]})


def test_dense_tensors_come_before_all_components(make: Make) -> None:
    header, updates, tensors = make()
    unimportant = {name: DenseTensor(tensor.values, 0.05) for name, tensor in tensors.items()}
    data = encode_stream(header, updates, unimportant, max_distortion=0.02, layers=2)
    for end in range(describe(data)["head_bytes"], len(data), 97):
        prefix = decode_stream(data[:end])
        assert not prefix.num_components or set(prefix.tensors) == set(tensors)
