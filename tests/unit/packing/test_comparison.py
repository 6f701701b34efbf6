"""What a stream comes to on the receiver's side."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.adapters import canonicalise
from airlora.codec import decode_stream, encode_stream
from airlora.packing import stream_sources
from airlora.packing.comparison import Judge, find_temperature, predict_decoded
from airlora.packing.sources import StreamSources
from airlora.ranks import RankPattern
from airlora.tasks import Classification, Predictions, predict
from airlora.training import FineTuner, RunContext, Settings, build_context, stream_header

Trained = tuple[Settings, RunContext, StreamSources]


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> Trained:
    """An adapter after some steps, and its sources."""
    settings = make_settings(**{"finetune.steps": 60, "finetune.learning_rate": 0.03})
    bench = build_context(settings)
    tuner = FineTuner(bench.adapted, bench.train, settings, bench.device)
    for _ in range(60):
        tuner.train_step(RankPattern.constant(bench.adapted.shapes, 4))
    canonicalise(bench.adapted)
    sources = stream_sources(
        bench.adapted, "path", settings.compute_options(bench.device), calibration=bench.calibration
    )
    return settings, bench, sources


def judge_of(trained: Trained) -> Judge:
    settings, bench, _ = trained
    header = stream_header(bench.adapted, settings, bench.fingerprint, bench.task)
    return Judge(bench.adapted, header, {"bits": 16}, bench.calibration, settings.compute_options(bench.device))


def spoiled(sources: StreamSources) -> StreamSources:
    """The same adapter pulling the other way."""
    return StreamSources({name: replace(own, U=-own.U) for name, own in sources.updates.items()}, sources.head)


def random_predictions(seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(50, 3, generator=generator)
    labels = torch.multinomial(torch.softmax(logits / 2, dim=1), 1, generator=generator)[:, 0]
    return Predictions(Classification(label_names=("a", "b", "c")), logits, labels.tolist())


@given(st.integers(0, 2**31 - 1))
def test_no_temperature_has_less_loss(seed: int) -> None:
    found = random_predictions(seed)
    best = found.loss_at(find_temperature([found]))
    assert best <= min(found.loss_at(float(other)) for other in np.geomspace(1.0, 4.0, 40)) + 1e-5


def test_larger_logits_have_a_higher_temperature() -> None:
    found = random_predictions(0)
    larger = Predictions(found.task, 1.5 * found.logits, found.targets)
    assert find_temperature([larger]) == pytest.approx(1.5 * find_temperature([found]), rel=1e-3)


def test_logits_that_are_all_right_are_left_alone() -> None:
    assert find_temperature([Predictions(Classification(label_names=("a", "b", "c")), torch.eye(3), [0, 1, 2])]) == 1.0


def test_a_tempered_head_divides_the_logits_and_the_model_is_left_as_it_was(trained: Trained) -> None:
    _, bench, sources = trained
    judge = judge_of(trained)
    before = predict(bench.adapted.model, bench.calibration, bench.device).logits
    names = bench.task.logit_tensors({name: tensor.values for name, tensor in sources.head.items()})
    logits = []
    for own in (sources, sources.tempered(names, 2.0)):
        decoded = decode_stream(encode_stream(judge.header, own.updates, own.head, bits=32))
        logits.append(predict_decoded(bench.adapted, decoded, bench.calibration, bench.device, 64).logits)
    torch.testing.assert_close(logits[1], logits[0] / 2.0)
    assert torch.equal(predict(bench.adapted.model, bench.calibration, bench.device).logits, before)


@pytest.mark.parametrize("cuts", [(), (1500.0,)])
def test_the_better_of_two_is_taken(trained: Trained, cuts: tuple[float, ...]) -> None:
    _, _, sources = trained
    judge = judge_of(trained)
    for pair in ((sources, spoiled(sources)), (spoiled(sources), sources)):
        found = judge.better(*pair, cuts=cuts)
        assert all((found.updates[name].U == own.U).all() for name, own in sources.updates.items())


def test_what_is_too_sure_of_itself_is_brought_down(trained: Trained) -> None:
    _, bench, sources = trained
    names = bench.task.logit_tensors({name: tensor.values for name, tensor in sources.head.items()})
    sure = spoiled(sources).tempered(names, 0.01)
    found = judge_of(trained).better(sure, sure)
    for name in names:
        ratios = found.head[name].values / sure.head[name].values
        assert ratios.max() < 0.5
        np.testing.assert_allclose(ratios, ratios.mean(), rtol=1e-5)
