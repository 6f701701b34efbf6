"""From a trained adapter to a stream of the size that was asked for."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from airlora.adapters import canonicalise
from airlora.codec import EncodeOptions, Rounding, StreamPreview, decode_stream, encode_stream, preview_stream
from airlora.packing import Packing, pack_adapter
from airlora.packing import pack as packing
from airlora.packing.comparison import Judge
from airlora.packing.sources import StreamSources
from airlora.ranks import RankPattern
from airlora.tasks import predict
from airlora.training import FineTuner, RunContext, Settings, build_context, stream_header

Trained = tuple[Settings, RunContext]
SIZE = 2400


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> Trained:
    """An adapter after some steps, in canonical order."""
    settings = make_settings(**{"finetune.steps": 60, "finetune.learning_rate": 0.03, "adapter.r_max": 8})
    bench = build_context(settings)
    tuner = FineTuner(bench.adapted, bench.train, settings, bench.device)
    for _ in range(60):
        tuner.train_step(RankPattern.constant(bench.adapted.shapes, 8))
    canonicalise(bench.adapted)
    return settings, bench


def packed(trained: Trained, **options: Any) -> bytes:
    settings, bench = trained
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.task)
    how = Packing(**{"max_bytes": SIZE, **options})
    data = {"calibration": bench.calibration, "train": bench.train}
    return pack_adapter(bench.adapted, header, how, settings.compute_options(bench.device), **data)


@pytest.mark.parametrize("importance", [None, "singular"])
def test_a_polished_stream_has_the_size_that_was_asked_for(
    trained: Trained, importance: packing.Importance | None
) -> None:
    data = packed(trained, polish_steps=6, whole=True, importance=importance)
    assert 0.85 * SIZE < len(data) < 1.1 * SIZE
    assert decode_stream(data, strict=True).modules


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "path"),
        ({"whole": True}, "balanced"),
        ({"layers": 1}, "balanced"),
        ({"polish_steps": 3}, "balanced"),
        ({"whole": True, "importance": "gradient"}, "gradient"),
    ],
)
def test_what_is_polished_or_taken_whole_is_weighed_otherwise_than_what_is_cut_as_it_is(
    options: dict[str, Any], expected: str
) -> None:
    assert Packing(**options).weighed_by == expected


@pytest.mark.parametrize("polish_steps", [0, 3])
def test_a_stream_in_layers_has_the_size_that_was_asked_for(trained: Trained, polish_steps: int) -> None:
    assert 0.85 * SIZE < len(packed(trained, polish_steps=polish_steps)) < 1.1 * SIZE


def test_the_adapter_is_left_as_it_was(trained: Trained) -> None:
    _, bench = trained
    before = predict(bench.adapted.model, bench.calibration, bench.device).logits
    packed(trained, polish_steps=3, whole=True)
    assert (predict(bench.adapted.model, bench.calibration, bench.device).logits == before).all()


@pytest.mark.parametrize("options", [{}, {"max_bytes": None, "max_distortion": 0.4}])
def test_polishing_asks_the_encoder_for_what_it_will_send(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    seen: list[StreamPreview] = []
    aimed: list[bool] = []

    def watched(*arguments: Any, **options: Any) -> StreamPreview:
        seen.append(preview_stream(*arguments, **options))
        aimed.append(options.get("max_bytes") is not None)
        return seen[-1]

    monkeypatch.setattr(packing, "preview_stream", watched)
    aims = packing.AIM_EVERY
    packed(trained, polish_steps=aims + 2, whole=True, **options)
    # Before: the stream as it would be, and the roomier one, whose components are trained.
    prices = [plan.lagrange_multiplier for plan in seen[2:]]
    assert len(prices) == aims + 2
    assert set(prices[:aims]) == {prices[0]}
    assert prices[aims] == prices[aims + 1]
    # For a size the price is found anew now and then; a distortion has one.
    asks_for_a_size = "max_bytes" not in options
    assert [place for place, found_anew in enumerate(aimed[2:]) if found_anew] == [0, aims] * asks_for_a_size
    assert asks_for_a_size or set(prices) == {prices[0]}
    assert set.union(*(components(plan) for plan in seen[2:])) <= components(seen[1])


def settings_of_encoding(trained: Trained, monkeypatch: pytest.MonkeyPatch, **options: Any) -> EncodeOptions:
    """Return how the stream that is returned was coded."""
    seen: list[EncodeOptions] = []

    def watched(*arguments: Any, **options: Any) -> bytes:
        seen.append(cast("EncodeOptions", options))
        return encode_stream(*arguments, **options)

    monkeypatch.setattr(packing, "encode_stream", watched)
    packed(trained, **options)
    return seen[-1]


def test_only_what_trains_under_it_is_rounded_towards_zero(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    how = settings_of_encoding(trained, monkeypatch)
    assert how["rounding"] == Rounding.NEAREST
    how = settings_of_encoding(trained, monkeypatch, importance="singular")
    assert how["rounding"] == Rounding.RATE_DISTORTION
    assert "rounding" not in settings_of_encoding(trained, monkeypatch, bits=8, max_bytes=None)


@pytest.mark.parametrize("has_helped", [True, False])
def test_what_polishing_has_not_helped_is_coded_as_if_there_had_been_none(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, has_helped: bool
) -> None:
    def better(_judge: Judge, first: StreamSources, second: StreamSources, **_options: Any) -> StreamSources:
        return first if has_helped else second

    asked = settings_of_encoding(trained, monkeypatch, max_bytes=None, max_distortion=0.4)
    monkeypatch.setattr(Judge, "better", better)
    how = settings_of_encoding(trained, monkeypatch, max_bytes=None, max_distortion=0.4, polish_steps=2)
    if has_helped:
        assert how["rounding"] == Rounding.RATE_DISTORTION
        assert "lagrange_multiplier" in how
    else:
        assert how == asked


def components(plan: StreamPreview) -> set[tuple[str, int]]:
    return {(item.module, item.index) for item in plan.items}
