from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.adapters import canonicalise
from airlora.codec import decode_stream, encode_stream
from airlora.packing import EncoderInput, make_encoder_input
from airlora.packing.comparison import StreamComparator, find_temperature, predict_decoded
from airlora.ranks import RankPattern
from airlora.tasks import Classification, Predictions, predict
from airlora.training import FineTuner, RunContext, Settings, build_context, stream_header

Trained = tuple[Settings, RunContext, EncoderInput]


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> Trained:
    """An adapter after 60 steps, and the input of the encoder."""
    settings = make_settings(**{"finetune.steps": 60, "finetune.learning_rate": 0.03})
    bench = build_context(settings)
    tuner = FineTuner(bench.adapted, bench.train, settings, bench.device)
    for _ in range(60):
        tuner.train_step(RankPattern.constant(bench.adapted.shapes, 4))
    canonicalise(bench.adapted)
    compute = settings.compute_options(bench.device)
    source = make_encoder_input(bench.adapted, "integrated_gradient", compute, calibration=bench.calibration)
    return settings, bench, source


def comparator_of(trained: Trained) -> StreamComparator:
    settings, bench, _ = trained
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.task)
    compute = settings.compute_options(bench.device)
    return StreamComparator(bench.adapted, header, {"bits": 16}, bench.calibration, compute)


def negated(source: EncoderInput) -> EncoderInput:
    return EncoderInput({name: replace(own, U=-own.U) for name, own in source.updates.items()}, source.head)


def random_predictions(seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(50, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / 2, dim=1), 1, generator=generator)[:, 0]
    return Predictions(Classification(label_names=("a", "b", "c")), logits, labels.tolist())


@given(st.integers(0, 2**31 - 1))
def test_no_other_temperature_has_a_lower_loss(seed: int) -> None:
    found = random_predictions(seed)
    best = found.loss_at(find_temperature([found]))
    assert best <= min(found.loss_at(float(other)) for other in np.geomspace(1.0, 4.0, 40)) + 1e-5


def test_larger_logits_have_a_higher_temperature() -> None:
    found = random_predictions(0)
    larger = Predictions(found.task, 1.5 * found.logits, found.targets)
    assert find_temperature([larger]) == pytest.approx(1.5 * find_temperature([found]), rel=1e-3)


def test_the_temperature_of_correct_predictions_is_one() -> None:
    assert find_temperature([Predictions(Classification(label_names=("a", "b", "c")), torch.eye(3), [0, 1, 2])]) == 1.0


def test_a_temperature_divides_the_logits_and_the_model_keeps_its_values(trained: Trained) -> None:
    _, bench, source = trained
    header = comparator_of(trained).header
    before = predict(bench.adapted.model, bench.calibration, bench.device).logits
    names = bench.task.logit_tensors({name: tensor.values for name, tensor in source.head.items()})
    logits = []
    for own in (source, source.with_temperature(names, 2.0)):
        decoded = decode_stream(encode_stream(header, own.updates, own.head, bits=32))
        logits.append(predict_decoded(bench.adapted, decoded, bench.calibration, bench.device, 64).logits)
    torch.testing.assert_close(logits[1], logits[0] / 2.0)
    assert torch.equal(predict(bench.adapted.model, bench.calibration, bench.device).logits, before)


@pytest.mark.parametrize("prefix_bytes", [(), (1500.0,)])
def test_the_adapter_with_the_lower_loss_is_chosen(trained: Trained, prefix_bytes: tuple[float, ...]) -> None:
    _, _, source = trained
    comparator = comparator_of(trained)
    for pair in ((source, negated(source)), (negated(source), source)):
        found = comparator.better(*pair, prefix_bytes=prefix_bytes)
        assert all((found.updates[name].U == own.U).all() for name, own in source.updates.items())


def test_over_confident_logits_are_scaled_down(trained: Trained) -> None:
    _, bench, source = trained
    names = bench.task.logit_tensors({name: tensor.values for name, tensor in source.head.items()})
    confident = negated(source).with_temperature(names, 0.01)
    found = comparator_of(trained).better(confident, confident)
    for name in names:
        ratios = found.head[name].values / confident.head[name].values
        assert ratios.max() < 0.5
        np.testing.assert_allclose(ratios, ratios.mean(), rtol=1e-5)
