import copy
from typing import Any

import numpy as np
import pytest
import torch

from airlora.adapters import dense_reference
from airlora.errors import TrainingError
from airlora.ranks import RankPattern
from airlora.tasks import evaluate, predict
from airlora.training import FineTuner, RunContext, Settings, build_context


def make(settings: Settings, **overrides: Any) -> tuple[RunContext, FineTuner]:
    tuned = settings.model_copy(update={"finetune": settings.finetune.model_copy(update=overrides)})
    context = build_context(tuned)
    return context, FineTuner(context.adapted, context.train, tuned, context.device)


def ranks(context: RunContext, rank: int) -> RankPattern:
    return RankPattern.constant(context.adapted.shapes, rank)


def test_fine_tuning_lowers_the_loss(settings: Settings) -> None:
    context, tuner = make(settings, steps=150, learning_rate=2e-2, head_learning_rate=2e-2)
    losses = [tuner.train_step(ranks(context, 4)) for _ in range(150)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert tuner.evaluate(context.eval, ranks(context, 4)).score > 0.65


def test_only_adapter_and_head_change(settings: Settings) -> None:
    context, tuner = make(settings)
    trained = {id(p) for p in context.adapted.trainable_parameters()}
    before = {name: p.clone() for name, p in context.adapted.model.named_parameters() if id(p) not in trained}
    tuner.train_step(ranks(context, 4))
    tuner.train_step(ranks(context, 4))
    assert all(torch.equal(p, before[name]) for name, p in context.adapted.model.named_parameters() if name in before)


def test_components_beyond_the_rank_do_not_change(settings: Settings) -> None:
    context, tuner = make(settings)
    for _ in range(3):
        tuner.train_step(ranks(context, 4))
    update = next(iter(context.adapted.updates.values()))
    before = update.P[:, 1:].clone(), update.lam[1:].clone(), update.Q[1:].clone()
    for _ in range(3):
        tuner.train_step(ranks(context, 1))
    assert torch.equal(update.P[:, 1:], before[0])
    assert torch.equal(update.lam[1:], before[1])
    assert torch.equal(update.Q[1:], before[2])


def test_fine_tuning_resumes_bit_identically_with_dropout_and_changing_ranks(settings: Settings) -> None:
    pattern = [4, 1, 0, 3, 2, 4]
    context, tuner = make(settings)
    for rank in pattern[:3]:
        tuner.train_step(ranks(context, rank))
    state = copy.deepcopy(tuner.state_dict())
    torch.manual_seed(123)
    expected = [tuner.train_step(ranks(context, rank)) for rank in pattern[3:]]
    other_context, other = make(settings)
    other.load_state_dict(state)
    assert [other.train_step(ranks(other_context, rank)) for rank in pattern[3:]] == expected
    for one, two in zip(
        context.adapted.trainable_parameters(), other_context.adapted.trainable_parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_the_global_generator_is_unchanged(settings: Settings) -> None:
    context, tuner = make(settings)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tuner.train_step(ranks(context, 2))
    assert torch.equal(torch.rand(1), expected)


def test_nested_training_uses_random_ranks(settings: Settings) -> None:
    nested = settings.model_copy(update={"adapter": settings.adapter.model_copy(update={"nested_probability": 1.0})})
    context = build_context(nested)
    tuner = FineTuner(context.adapted, context.train, nested, context.device)
    seen = set()
    for _ in range(4):
        tuner.train_step(ranks(context, 4))
        seen.add(context.adapted.rank_pattern)
    assert len(seen) == 4


def test_the_orthogonality_penalty_makes_components_more_orthogonal(settings: Settings) -> None:
    penalties = {}
    for weight in (0.0, 10.0):
        adapter = settings.adapter.model_copy(update={"orthogonality_weight": weight})
        finetune = settings.finetune.model_copy(update={"learning_rate": 2e-2, "steps": 20})
        tuned = settings.model_copy(update={"adapter": adapter, "finetune": finetune})
        context = build_context(tuned)
        tuner = FineTuner(context.adapted, context.train, tuned, context.device)
        for _ in range(20):
            tuner.train_step(ranks(context, 4))
        penalties[weight] = context.adapted.orthogonality_penalty(1.0).item()
    assert penalties[10.0] < 0.5 * penalties[0.0]


def test_a_loss_that_is_not_finite_changes_no_parameter(settings: Settings) -> None:
    context, tuner = make(settings)
    tuner.train_step(ranks(context, 4))
    before = [p.clone() for p in context.adapted.trainable_parameters()]
    with torch.no_grad():
        embedding = context.adapted.model.get_input_embeddings().weight
        kept = embedding.clone()
        embedding.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"loss = nan at fine-tuning step 1: .*finetune.learning_rate = "):
        tuner.train_step(ranks(context, 4))
    with pytest.raises(TrainingError, match="logit is not finite"):
        evaluate(context.adapted.model, context.eval, context.device)
    with torch.no_grad():
        embedding.copy_(kept)
    assert all(torch.equal(p, old) for p, old in zip(context.adapted.trainable_parameters(), before, strict=True))


@pytest.mark.parametrize("rank", [0, 1, 4])
def test_evaluation_agrees_with_a_dense_reference(settings: Settings, rank: int) -> None:
    context, tuner = make(settings, learning_rate=1e-1)
    for _ in range(4):
        tuner.train_step(ranks(context, 4))
    context.adapted.set_ranks(ranks(context, rank))
    ours = predict(context.adapted.model, context.eval, context.device, batch_size=7)
    dense = predict(dense_reference(context.adapted), context.eval, context.device, batch_size=64)
    torch.testing.assert_close(ours.logits, dense.logits, atol=1e-5, rtol=0)
    assert ours.evaluation.num_samples == len(context.eval)


def test_predictions_are_in_the_order_of_the_data(settings: Settings) -> None:
    context, _ = make(settings)
    found = predict(context.adapted.model, context.eval, context.device, batch_size=16)
    one = context.eval.batch([17], context.device)
    del one["labels"]
    with torch.no_grad():
        torch.testing.assert_close(found.logits[17:18], context.adapted.model(**one).logits, atol=1e-5, rtol=0)
    assert list(found.targets) == list(context.eval.targets)
