from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from airlora.adapters import LowRankUpdate, canonicalise
from airlora.codec import EncodeOptions, Rounding, StreamPreview, decode_stream, encode_stream, preview_stream
from airlora.packing import Packing, pack_adapter
from airlora.packing import pack as packing
from airlora.packing.comparison import StreamComparator
from airlora.packing.encoder_input import EncoderInput, make_encoder_input
from airlora.packing.qat import QatResult
from airlora.ranks import RankPattern
from airlora.tasks import predict
from airlora.training import FineTuner, RunContext, Settings, build_context, stream_header

Trained = tuple[Settings, RunContext]
SIZE = 2400


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> Trained:
    """An adapter after 60 steps, in canonical order."""
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


@pytest.mark.parametrize("importance", [None, "singular_value"])
def test_a_fine_tuned_stream_has_the_requested_size(trained: Trained, importance: str | None) -> None:
    data = packed(trained, qat_steps=6, whole=True, importance=importance)
    assert 0.85 * SIZE < len(data) < 1.1 * SIZE
    assert decode_stream(data, strict=True).modules


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "integrated_gradient"),
        ({"whole": True}, "balanced_gradient"),
        ({"layers": 1}, "balanced_gradient"),
        ({"qat_steps": 3}, "balanced_gradient"),
        ({"whole": True, "importance": "squared_gradient"}, "squared_gradient"),
    ],
)
def test_the_default_importance_depends_on_fine_tuning_and_layers(options: dict[str, Any], expected: str) -> None:
    assert Packing(**options).resolved_importance == expected


@pytest.mark.parametrize("qat_steps", [0, 3])
def test_a_stream_with_layers_has_the_requested_size(trained: Trained, qat_steps: int) -> None:
    assert 0.85 * SIZE < len(packed(trained, qat_steps=qat_steps)) < 1.1 * SIZE


def test_the_adapter_keeps_its_values(trained: Trained) -> None:
    _, bench = trained
    before = predict(bench.adapted.model, bench.calibration, bench.device).logits
    packed(trained, qat_steps=3, whole=True)
    assert (predict(bench.adapted.model, bench.calibration, bench.device).logits == before).all()


@pytest.mark.parametrize("options", [{}, {"max_bytes": None, "max_distortion": 0.4}])
def test_fine_tuning_previews_the_stream_and_holds_its_size(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    seen: list[StreamPreview] = []
    has_size: list[bool] = []

    def watched(*arguments: Any, **options: Any) -> StreamPreview:
        seen.append(preview_stream(*arguments, **options))
        has_size.append(options.get("max_bytes") is not None)
        return seen[-1]

    monkeypatch.setattr(packing, "preview_stream", watched)
    packed(trained, qat_steps=8, whole=True, **options)
    # The first two previews are the stream before fine-tuning and the candidates.
    previews = seen[2:]
    prices = [plan.lagrange_multiplier for plan in previews]
    assert len(previews) == 8
    # Only the first preview searches for the price of a size. The price of a distortion is constant.
    is_for_size = "max_bytes" not in options
    assert has_size[2:] == [is_for_size] + [False] * 7
    assert (len(set(prices)) > 1) == is_for_size
    if is_for_size:
        sizes = [sum(item.num_bytes for item in plan.items) for plan in previews]
        assert sizes == pytest.approx([sizes[0]] * 8, rel=0.15)
    assert set.union(*(components(plan) for plan in previews)) <= components(seen[1])


def test_the_size_returns_after_the_components_have_become_cheaper(trained: Trained) -> None:
    settings, bench = trained
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.task)
    compute = settings.compute_options(bench.device)
    source = make_encoder_input(bench.adapted, "balanced_gradient", compute, calibration=bench.calibration)
    head = {name: tensor.values for name, tensor in source.head.items()}

    def current(share: float) -> QatResult:
        """Return the components with only this share of the entries of their left vectors."""
        updates = {
            name: LowRankUpdate(np.where(np.arange(len(own.U))[:, None] < share * len(own.U), own.U, 0), own.V)
            for name, own in source.updates.items()
        }
        return QatResult(updates, head, [])

    preview = packing._RateControlledPreview(header, source, {"max_bytes": SIZE, "layers": 4})
    sizes = [sum(item.num_bytes for item in preview(current(share)).items) for share in (1.0, *[0.3] * 10)]
    assert sizes[1] < 0.9 * sizes[0]
    assert sizes[-1] == pytest.approx(sizes[0], rel=0.05)


def settings_of_encoding(trained: Trained, monkeypatch: pytest.MonkeyPatch, **options: Any) -> EncodeOptions:
    """Return the options of the encoder for the resulting stream."""
    seen: list[EncodeOptions] = []

    def watched(*arguments: Any, **options: Any) -> bytes:
        seen.append(cast("EncodeOptions", options))
        return encode_stream(*arguments, **options)

    monkeypatch.setattr(packing, "encode_stream", watched)
    packed(trained, **options)
    return seen[-1]


def test_only_fine_tuned_components_are_rounded_for_rate_and_distortion(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = settings_of_encoding(trained, monkeypatch)
    assert how["rounding"] == Rounding.NEAREST
    how = settings_of_encoding(trained, monkeypatch, importance="singular_value")
    assert how["rounding"] == Rounding.RATE_DISTORTION
    assert "rounding" not in settings_of_encoding(trained, monkeypatch, bits=8, max_bytes=None)


@pytest.mark.parametrize("has_helped", [True, False])
def test_fine_tuning_that_does_not_help_leaves_the_options_unchanged(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, has_helped: bool
) -> None:
    def better(_: StreamComparator, first: EncoderInput, second: EncoderInput, **_options: Any) -> EncoderInput:
        return first if has_helped else second

    asked = settings_of_encoding(trained, monkeypatch, max_bytes=None, max_distortion=0.4)
    monkeypatch.setattr(StreamComparator, "better", better)
    how = settings_of_encoding(trained, monkeypatch, max_bytes=None, max_distortion=0.4, qat_steps=2)
    if has_helped:
        assert how["rounding"] == Rounding.RATE_DISTORTION
        assert "lagrange_multiplier" in how
    else:
        assert how == asked


def components(plan: StreamPreview) -> set[tuple[str, int]]:
    return {(item.module, item.index) for item in plan.items}
