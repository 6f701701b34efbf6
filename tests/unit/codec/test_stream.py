import dataclasses
import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlora.codec import (
    DecodedStream,
    HeadTensor,
    Limits,
    ModuleUpdate,
    Rounding,
    StreamHeader,
    StreamReader,
    cut,
    decode_stream,
    describe,
    encode_stream,
    read_stream,
)
from airlora.codec.format.container import pack_head, unpack_head
from airlora.codec.format.items import Coding, Item, Kind, Layout, Part
from airlora.codec.format.segments import pack_segment
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

Source = tuple[StreamHeader, dict[str, ModuleUpdate], dict[str, HeadTensor]]
Make = Callable[..., Source]


def relative_error(update: ModuleUpdate, pair: tuple[np.ndarray, np.ndarray]) -> float:
    found, wanted = pair[0] @ pair[1], update.U @ update.V
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def same(a: DecodedStream, b: DecodedStream) -> bool:
    return all(
        (pair[0].shape, pair[0].tobytes(), pair[1].tobytes())
        == (b.modules[name][0].shape, b.modules[name][0].tobytes(), b.modules[name][1].tobytes())
        for name, pair in a.modules.items()
    ) and {n: t.tobytes() for n, t in a.tensors.items()} == {n: t.tobytes() for n, t in b.tensors.items()}


def loss_share(source: Source, decoded: DecodedStream) -> float:
    """Return the share of the weights that is lost, by the planner's own model."""
    _, updates, tensors = source
    lost = total = 0.0
    for name, update in updates.items():
        U, V = decoded.modules[name]
        for k, weight in enumerate(update.weights):
            total += weight
            if k >= V.shape[0]:
                lost += weight
                continue
            wanted = np.outer(update.U[:, k], update.V[k])
            error = np.linalg.norm(np.outer(U[:, k], V[k]) - wanted) / np.linalg.norm(wanted)
            lost += weight * error**2
    for name, tensor in tensors.items():
        total += tensor.weight
        found = decoded.tensors.get(name, np.zeros_like(tensor.values))
        lost += tensor.weight * float(((found - tensor.values) ** 2).sum() / (tensor.values**2).sum())
    return lost / total


# -- round trips


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-6), (16, 2e-3), (8, 0.015), (4, 0.25)])
def test_an_adapter_comes_back_as_fine_as_it_was_sent(source: Source, bits: Any, tolerance: float) -> None:
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
def test_a_precision_in_bits_is_about_what_is_spent(make: Make, bits: Any, slack: float) -> None:
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
    how=st.sampled_from(list(Rounding)),
)
def test_any_adapter_makes_a_stream_that_decodes(
    make: Make, seed: int, layers: int, rank: int, d: int, how: Rounding
) -> None:
    header, updates, tensors = make(layers=layers, rank=max(rank, 1), d=d, seed=seed)
    updates = {n: ModuleUpdate(u.U[:, :rank], u.V[:rank], u.weights[:rank]) for n, u in updates.items()}
    data = encode_stream(header, updates, tensors, price=1e-3, rounding=how)
    decoded = decode_stream(data, strict=True)
    assert decoded.is_complete
    assert all(np.isfinite(V).all() and len(V) <= rank for _, V in decoded.modules.values())


def test_encoding_twice_gives_the_same_bytes(make: Make) -> None:
    for options in ({}, {"rounding": Rounding.STOCHASTIC}, {"bits": 8}):
        assert encode_stream(*make(), **options) == encode_stream(*make(), **options)


def test_zero_components_and_zero_tensors_are_coded() -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(4, 3)}, {"w": (2, 2)}, r_max=2)
    update = ModuleUpdate(np.zeros((3, 2)), np.zeros((2, 4)), np.ones(2))
    decoded = decode_stream(encode_stream(header, {"a": update}, {"w": HeadTensor(np.zeros((2, 2)), 1.0)}, bits=8))
    assert decoded.num_components == 2
    assert not decoded.modules["a"][0].any()
    assert not decoded.tensors["w"].any()


def test_an_empty_adapter_is_a_stream_too(source: Source) -> None:
    decoded = decode_stream(encode_stream(source[0], {}), strict=True)
    assert decoded.num_components == decoded.num_segments == 0
    assert decoded.is_complete


def test_values_over_many_orders_of_magnitude_survive() -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(64, 64), "b": ModuleShape(64, 64)}, r_max=1)
    generator = np.random.default_rng(0)
    updates = {
        name: ModuleUpdate(generator.standard_normal((64, 1)) * size, generator.standard_normal((1, 64)), np.ones(1))
        for name, size in (("a", 1e-12), ("b", 1e12))
    }
    decoded = decode_stream(encode_stream(header, updates, bits=8))
    assert max(relative_error(update, decoded.modules[name]) for name, update in updates.items()) < 0.02


# -- rate and distortion


def test_a_lower_price_buys_less_loss_for_more_bytes(make: Make) -> None:
    source = make(d=64)
    streams = [encode_stream(*source, price=10.0**-k) for k in range(2, 6)]
    sizes, losses = [len(data) for data in streams], [loss_share(source, decode_stream(data)) for data in streams]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.01


@pytest.mark.parametrize("share", [0.3, 0.1, 0.02])
def test_the_loss_is_about_what_was_allowed(make: Make, share: float) -> None:
    source = make(d=128, rank=8)
    assert 0.6 * share < loss_share(source, decode_stream(encode_stream(*source, max_distortion=share))) < 1.4 * share


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("max_bytes", [1500, 3000, 6000])
def test_the_size_is_about_what_was_allowed(make: Make, max_bytes: int, layers: int) -> None:
    data = encode_stream(*make(d=128, rank=8), max_bytes=max_bytes, layers=layers)
    assert 0.8 * max_bytes < len(data) < 1.15 * max_bytes


def test_more_room_than_all_takes_is_not_filled(make: Make) -> None:
    source = make(d=128, rank=8)
    assert encode_stream(*source, max_bytes=2**62, layers=4) == encode_stream(*source, max_bytes=10**9, layers=4)


def test_a_plan_beats_one_precision_for_all_at_the_same_bytes(make: Make) -> None:
    source = make(d=128, rank=8)
    flat = encode_stream(*source, bits=4)
    planned = encode_stream(*source, max_bytes=len(flat))
    assert loss_share(source, decode_stream(planned)) < 0.7 * loss_share(source, decode_stream(flat))


def test_the_heaviest_component_comes_first_and_modules_keep_their_order(source: Source) -> None:
    header, updates, tensors = source
    name = "encoder.layer.1.output.dense"
    weights = np.array([1e-3, 1e3, 1e-3, 1e-3])  # the second is the one that counts; the first must come with it
    updates[name] = dataclasses.replace(updates[name], weights=weights)
    data = encode_stream(header, updates, tensors, price=1e-5)
    head = unpack_head(data, Limits())
    first = decode_stream(data[: head.num_bytes + head.lengths[0]])
    assert first.modules[name][1].shape[0] >= 2
    assert (
        relative_error(
            ModuleUpdate(updates[name].U[:, :2], updates[name].V[:2], weights[:2]),
            (first.modules[name][0][:, :2], first.modules[name][1][:2]),
        )
        < 1
    )


def test_loss_falls_with_every_segment(make: Make) -> None:
    source = make(d=128, rank=8)
    data = encode_stream(*source, max_distortion=0.02)
    head = unpack_head(data, Limits())
    ends = head.num_bytes + np.cumsum([0, *head.lengths])
    losses = [loss_share(source, decode_stream(data[:end])) for end in ends]
    assert losses[0] == pytest.approx(1)
    assert losses == sorted(losses, reverse=True)
    gains = -np.diff(losses) / np.array(head.lengths)
    assert gains[0] > 3 * gains[-1]


# -- prefixes


def test_every_prefix_decodes_to_a_prefix_of_every_module(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    whole = decode_stream(data, strict=True)
    head = unpack_head(data, Limits())
    assert whole.num_segments >= 3
    ends = head.num_bytes + np.cumsum([0, *head.lengths])
    for length in range(head.num_bytes, len(data) + 1, 7):
        part = decode_stream(data[:length])
        assert part.num_segments == int((ends <= length).sum()) - 1
        assert part.bytes_used == ends[part.num_segments]
        assert part.is_complete == (length == len(data))
        for name, (U, V) in part.modules.items():
            rank = V.shape[0]
            assert (whole.modules[name][0][:, :rank] == U).all()
            assert (whole.modules[name][1][:rank] == V).all()
        assert all((part.tensors[name] == whole.tensors[name]).all() for name in part.tensors)


def test_a_cut_stream_is_refused_if_strict(source: Source) -> None:
    data = encode_stream(*source)
    with pytest.raises(CodecError, match="it is cut"):
        decode_stream(data[:-1], strict=True)


def test_a_cut_inside_the_head_is_refused(source: Source) -> None:
    data = encode_stream(*source)
    for length in range(unpack_head(data, Limits()).num_bytes):
        with pytest.raises(CodecError, match=r"cut inside its head|not written by airlora"):
            decode_stream(data[:length])


def test_cut_keeps_whole_segments_and_can_be_resumed(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    head = unpack_head(data, Limits())
    for max_bytes in range(head.num_bytes, len(data) + 100, 61):
        part = cut(data, max_bytes)
        assert data.startswith(part)
        assert len(part) <= max_bytes
        assert decode_stream(part).bytes_used == len(part)
        assert same(decode_stream(part + data[len(part) :]), decode_stream(data))
    assert cut(cut(data, 2000), 10**9) == cut(data, 2000)
    with pytest.raises(CodecError, match="max_bytes"):
        cut(data, head.num_bytes - 1)


def test_segments_may_be_fed_one_by_one(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    reader = StreamReader(data[:1000])
    while (place := reader.next_range) is not None:
        reader.feed(data[place[0] : place[1]])
        assert same(reader.result(), decode_stream(data[: place[1]]))
    assert reader.is_complete
    with pytest.raises(CodecError, match="number of segments"):
        reader.feed(b"")


def test_describe_counts(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    whole, part = describe(data), describe(cut(data, len(data) - 1))
    assert whole["payload_bytes"] == whole["total_bytes"] == part["total_bytes"] == len(data)
    assert part["num_segments"] < part["total_segments"] == whole["num_segments"]
    assert part["digest"] == whole["digest"]
    assert sum(whole["rank_pattern"].values()) == whole["num_components"]
    assert whole["bits_per_param"] == pytest.approx(8 * len(data) / whole["num_params"])


@pytest.mark.parametrize("layers", [2, 3])
def test_layers_make_short_prefixes_better(make: Make, layers: int) -> None:
    source = make(layers=6, d=128, rank=8)
    once = encode_stream(*source, max_distortion=0.02)
    layered = encode_stream(*source, max_distortion=0.02, layers=layers)
    middle = len(once) // 3
    assert loss_share(source, decode_stream(layered[:middle])) < 0.8 * loss_share(source, decode_stream(once[:middle]))
    assert len(layered) < 1.1 * len(once)
    assert loss_share(source, decode_stream(layered)) < 1.1 * loss_share(source, decode_stream(once))


# -- damage


def test_every_flipped_bit_is_refused(make: Make) -> None:
    data = encode_stream(*make(layers=1, d=8))
    assert len(data) < 900
    for place in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(CodecError) as raised:
            decode_stream(bytes(damaged))
        assert "\n" not in str(raised.value)


def test_reordered_doubled_and_extra_segments_are_refused(make: Make) -> None:
    data = encode_stream(*make(d=128, rank=8), max_distortion=0.02)
    head = unpack_head(data, Limits())
    cuts = np.cumsum([head.num_bytes, *head.lengths])
    start, *segments = (data[a:b] for a, b in zip([0, *cuts[:-1]], cuts, strict=True))
    for order in ([1, 0, *range(2, len(segments))], [0, 0, *range(1, len(segments))], [*range(1, len(segments))]):
        with pytest.raises(CodecError, match=r"segment \d+: damaged or out of order|stream: length"):
            decode_stream(start + b"".join(segments[place] for place in order))
    with pytest.raises(CodecError, match="stream: length"):
        decode_stream(data + b"\0")


@pytest.mark.parametrize(
    ("place", "message"), [(4, "version of the format = 2"), (5, "version of the entropy tables = 2")]
)
def test_a_newer_version_is_refused(source: Source, place: int, message: str) -> None:
    data = bytearray(encode_stream(*source))
    data[place] = 2
    with pytest.raises(CodecError, match=f"{message}: allowed is 1; a newer airlora"):
        decode_stream(bytes(data))


@pytest.mark.parametrize("data", [b"", b"AIR", b"PK\3\4" * 100, b"\0" * 100])
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="not written by airlora"):
        decode_stream(data)


@pytest.mark.parametrize("claim", [(0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_absurd_lengths_are_refused_before_they_are_read(source: Source, claim: tuple[int, int]) -> None:
    data = bytearray(encode_stream(*source))
    data[6:10], data[10:14] = (value.to_bytes(4, "little") for value in claim)
    with pytest.raises(CodecError, match="at most"):
        decode_stream(bytes(data))


def forged(header: StreamHeader, items: list[Item], **changes: Any) -> bytes:
    """Return a stream with right digests whose items the encoder would never make."""
    layout = Layout(header.modules, header.tensors, header.r_max)
    segment = changes.get("segment") or pack_segment(items, layout)
    return pack_head(header, [segment]) + segment


def component(header: StreamHeader, target: int = 0, **fields: Any) -> Item:
    lengths = Layout(header.modules, header.tensors, header.r_max).vectors[target]
    parts = tuple(Part(Coding.UNIFORM, np.ones(length, dtype=np.int32), -64, 40) for length in lengths)
    return Item(**({"kind": Kind.NEW, "target": target, "parts": parts} | fields))


SMALL = StreamHeader("0" * 64, {"a": ModuleShape(4, 3)}, {"w": (2,)}, r_max=2)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([component(SMALL)] * 3, "components of a = 3: allowed is at most r_max = 2"),
        ([component(SMALL, kind=Kind.REFINE)], "component of a to refine = 0"),
        ([component(SMALL, 1), component(SMALL, 1)], "tensor w: came twice"),
        ([component(SMALL, 1, kind=Kind.REFINE)], "tensor w: is refined before it came"),
        ([Item(Kind.COPY, 0)], "component 0 of a: is to be copied"),
        ([Item(Kind.COPY, 1)], "tensor w: is to be copied"),
        ([component(SMALL, groups=4)], "groups of a = 4: allowed is 1 to 3"),
        ([component(SMALL, groups=-3)], "groups of a = -3"),
    ],
)
def test_items_that_cannot_be_are_refused(items: list[Item], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_stream(forged(SMALL, items))


def test_floats_that_are_not_finite_are_refused() -> None:
    part = Part(Coding.FLOAT32, np.array([1, np.inf], dtype=np.float32))
    with pytest.raises(CodecError, match="not finite"):
        decode_stream(forged(SMALL, [Item(Kind.NEW, 1, parts=(part,))]))


def test_a_refinement_is_added() -> None:
    decoded = decode_stream(forged(SMALL, [component(SMALL), component(SMALL, kind=Kind.REFINE), component(SMALL, 1)]))
    assert (decoded.modules["a"][0] == 2 * 2.0**-4).all()
    assert decoded.tensors["w"].tolist() == [2.0**-4] * 2
    assert decoded.num_components == 1


def test_a_segment_that_claims_more_than_its_bytes_can_hold_costs_no_memory() -> None:
    huge = StreamHeader("0" * 64, {"a": ModuleShape(1 << 22, 1 << 22)}, r_max=4096)
    layout = Layout(huge.modules, huge.tensors, huge.r_max)
    # 3 items of eight million numbers each, and no bytes for them.
    tiny = Layout({"a": ModuleShape(1, 1)}, {}, 4096)
    zero = (Part(Coding.UNIFORM, np.zeros(1, dtype=np.int32)),) * 2
    segment = pack_segment([Item(Kind.NEW, 0, parts=zero)] * 3, tiny)
    data = forged(huge, [], segment=segment)
    assert layout.num_numbers(0) == 1 << 23
    tracemalloc.start()
    with pytest.raises(CodecError, match="number of coded numbers claimed"):
        decode_stream(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_total_of_numbers_is_bounded(source: Source) -> None:
    with pytest.raises(CodecError, match="number of numbers claimed"):
        decode_stream(encode_stream(*source, bits=8), limits=Limits(max_numbers=500))


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(max_segments=1), "bytes of the manifest"), (Limits(max_segment_bytes=99), "length of a segment")],
)
def test_limits_on_segments(make: Make, limits: Limits, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_stream(encode_stream(*make(d=128, rank=8), max_distortion=0.02), limits=limits)


@settings(max_examples=300)
@given(st.binary(max_size=120))
def test_any_segment_with_right_digests_decodes_or_is_refused(segment: bytes) -> None:
    header = StreamHeader("0" * 64, {"a": ModuleShape(5, 6), "b": ModuleShape(9, 2)}, {"w": (3, 4)}, r_max=5)
    try:
        decoded = decode_stream(forged(header, [], segment=segment or b"\0"))
    except CodecError:
        return
    assert decoded.is_complete
    assert all(np.isfinite(U).all() and np.isfinite(V).all() for U, V in decoded.modules.values())


# -- what cannot be encoded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits = 5"),
        ({"price": 0.0}, "price = 0.0"),
        ({"price": float("nan")}, "price = nan"),
        ({"max_distortion": 0.0}, "max_distortion"),
        ({"max_distortion": 1.0}, "max_distortion"),
        ({"max_bytes": 0}, "max_bytes = 0"),
        ({"max_bytes": 10**400, "layers": 2}, "max_bytes = 1000"),
        ({"max_bytes": float("nan"), "layers": 2}, "max_bytes = nan"),
        ({"layers": 0}, "layers = 0"),
        ({"rounding": "up"}, "rounding = 'up'"),
    ],
)
def test_bad_options_are_refused(source: Source, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CodecError, match=message):
        encode_stream(*source, **options)


def test_sources_must_fit_the_header(source: Source) -> None:
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


@pytest.mark.parametrize(
    ("U", "V", "weights", "message"),
    [
        (np.ones((3, 2)), np.ones((1, 4)), np.ones(2), "shapes of U and V"),
        (np.ones((3, 2)), np.ones((2, 4)), np.ones(3), "shape of weights"),
        (np.full((3, 1), np.nan), np.ones((1, 4)), np.ones(1), "U: holds values that are not finite"),
        (np.ones((3, 1)), np.ones((1, 4)), -np.ones(1), "weights"),
    ],
)
def test_bad_updates_are_refused(U: Any, V: Any, weights: Any, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        ModuleUpdate(U, V, weights)


@pytest.mark.parametrize(("values", "weight"), [(np.array([np.inf]), 1.0), (np.zeros(0), 1.0), (np.ones(1), -1.0)])
def test_bad_tensors_are_refused(values: Any, weight: float) -> None:
    with pytest.raises(CodecError):
        HeadTensor(values, weight)


def test_a_file_is_named_in_errors(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "a.airs"
    with pytest.raises(CodecError, match="no such file"):
        read_stream(path)
    path.write_bytes(encode_stream(*source))
    assert read_stream(path, strict=True).is_complete
    path.write_bytes(b"x" * 100)
    with pytest.raises(CodecError, match=r"a\.airs: stream: not written by airlora"):
        read_stream(path)


def test_the_digest_names_the_stream(source: Source) -> None:
    data = encode_stream(*source)
    head = unpack_head(data, Limits())
    assert head.digest == hashlib.sha256(data[:14] + data[46 : head.num_bytes]).hexdigest()


def test_the_head_comes_before_any_component(make: Make) -> None:
    header, updates, tensors = make()
    # However little it seems to be worth.
    cheap = {name: HeadTensor(tensor.values, 0.05) for name, tensor in tensors.items()}
    data = encode_stream(header, updates, cheap, max_distortion=0.02, layers=2)
    for upto in range(describe(data)["head_bytes"], len(data), 97):
        part = decode_stream(data[:upto])
        assert not part.num_components or set(part.tensors) == set(tensors)
