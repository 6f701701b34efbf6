import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from airlora.errors import SettingsError
from airlora.ranks import RankPattern
from airlora.tasks import evaluate
from airlora.training import FineTuner, RunContext, Settings, build_context, train

HEAD_STEPS, ALIGN_STEPS, STEPS = 3, 5, 14
START_CALLS = HEAD_STEPS + 1
"""Calls of `train_step` until the start is over: one call performs all alignment steps."""


def make(settings: Settings, **adapter: object) -> tuple[RunContext, FineTuner, RankPattern]:
    finetune = {"head_steps": HEAD_STEPS, "align_steps": ALIGN_STEPS, "steps": STEPS, "learning_rate": 1e-2}
    tuned = settings.model_copy(
        update={
            "finetune": settings.finetune.model_copy(update=finetune),
            "adapter": settings.adapter.model_copy(update=adapter),
        }
    )
    context = build_context(tuned)
    tuner = FineTuner(context.adapted, context.train, tuned, context.device)
    return context, tuner, RankPattern.constant(tuner.shapes, tuner.r_max)


def test_the_first_steps_change_only_the_head(settings: Settings) -> None:
    context, tuner, full = make(settings)
    components = [p.clone() for update in context.adapted.updates.values() for p in update.parameters()]
    head = [p.clone() for p in context.adapted.head_parameters()]
    for _ in range(HEAD_STEPS):
        tuner.train_step(full)
    moved = [p for update in context.adapted.updates.values() for p in update.parameters()]
    assert all(torch.equal(p, before) for p, before in zip(moved, components, strict=True))
    assert not any(
        torch.equal(p, b) for p, b in zip(context.adapted.head_parameters(), head, strict=True) if p.dim() > 1
    )


def test_the_update_is_zero_until_the_start_is_over(settings: Settings) -> None:
    context, tuner, full = make(settings)
    for _ in range(START_CALLS):
        tuner.train_step(full)
        with_adapter = evaluate(context.adapted.model, context.eval, context.device)
        context.adapted.set_ranks([0] * len(context.adapted.shapes))
        assert evaluate(context.adapted.model, context.eval, context.device) == with_adapter
    for update in context.adapted.updates.values():
        assert not update.lam.any()
        torch.testing.assert_close(update.P.T @ update.P, 0.16 * torch.eye(tuner.r_max), atol=1e-4, rtol=0)
    tuner.train_step(full)
    tuner.train_step(full)
    assert any(update.lam.any() for update in context.adapted.updates.values())


def test_aligned_components_capture_more_of_the_gradient_than_random_ones(settings: Settings) -> None:
    captured = {}
    for aligned in (True, False):
        context, tuner, full = make(settings)
        if aligned:
            for _ in range(START_CALLS):
                tuner.train_step(full)
        gradients = dense_gradients(context)
        scale = 0.4**4 if aligned else 1.0
        captured[aligned] = sum(
            float((update.P.T @ gradients[name] @ update.Q.T).square().sum().detach())
            for name, update in context.adapted.updates.items()
        ) / (scale * sum(float(gradient.square().sum()) for gradient in gradients.values()))
    assert captured[True] > 0.3
    assert captured[True] > 5 * captured[False]


def dense_gradients(context: RunContext) -> dict[str, torch.Tensor]:
    """Return the loss's gradient with respect to each module's weight, on samples that the start did not use."""
    model = context.adapted.model
    weights = {name: model.get_submodule(name).get_parameter("base.weight") for name in context.adapted.shapes}
    for weight in weights.values():
        weight.requires_grad_(True)
    model.eval()
    indices = next(iter(context.calibration.in_order(64)))
    torch.autograd.backward(model(**context.calibration.batch(indices, context.device)).loss)
    found = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    assert found.keys() == weights.keys()
    return found


@pytest.mark.parametrize("stop", [1, HEAD_STEPS, START_CALLS, START_CALLS + 1])
def test_fine_tuning_resumes_bit_identically_from_anywhere_in_the_start(settings: Settings, stop: int) -> None:
    context, tuner, full = make(settings, dropout=0.1)
    for _ in range(stop):
        tuner.train_step(full)
    state = copy.deepcopy(tuner.state_dict())
    expected = [tuner.train_step(full) for _ in range(stop, 8)]
    other_context, other, _ = make(settings, dropout=0.1)
    other.load_state_dict(state)
    assert [other.train_step(full) for _ in range(stop, 8)] == expected
    for one, two in zip(
        context.adapted.trainable_parameters(), other_context.adapted.trainable_parameters(), strict=True
    ):
        assert torch.equal(one, two)


def test_head_and_alignment_steps_count_as_steps(settings: Settings) -> None:
    _, tuner, full = make(settings)
    counted = []
    while tuner.steps_left:
        tuner.train_step(full)
        counted.append(tuner.step)
    assert counted == [1, 2, 3, *range(8, STEPS + 1)]


def test_the_learning_rate_schedule_begins_after_the_start(settings: Settings) -> None:
    _, tuner, full = make(settings)
    rates = []
    while tuner.steps_left:
        rates.append(tuner.learning_rate)
        tuner.train_step(full)
    assert len(set(rates[: START_CALLS + 1])) == 1
    assert rates[-1] < max(rates)
    assert tuner.learning_rate == pytest.approx(0.0, abs=1e-9)


def test_a_run_may_consist_of_the_start_alone(settings: Settings) -> None:
    finetune = {"head_steps": 2, "align_steps": 3, "steps": 5}
    tuned = settings.model_copy(update={"finetune": settings.finetune.model_copy(update=finetune)})
    context = build_context(tuned)
    tuner = FineTuner(context.adapted, context.train, tuned, context.device)
    while tuner.steps_left:
        tuner.train_step(RankPattern.constant(tuner.shapes, 1))
    assert tuner.step == 5
    assert not any(update.lam.any() for update in context.adapted.updates.values())


def test_head_steps_without_a_head_are_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="finetune.head_steps = 3: allowed is 0"):
        make(settings, head_modules=[])


def test_evaluations_during_the_start_do_not_stop_the_run(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    chosen = make_settings(
        **{
            "policy.name": "constant",
            "policy.patience": 1,
            "policy.early_stop": True,
            "env.objective": "frozen",
            "finetune.steps": 30,
            "finetune.head_steps": 20,
            "finetune.align_steps": 4,
            "finetune.eval_every": 1,
            "env.cost_weight": 50.0,
        }
    )
    record = train(chosen, tmp_path / "run")
    assert record.steps > 24
    state = load_file(tmp_path / "run" / "adapter.safetensors")
    assert any(bool(value.any()) for name, value in state.items() if name.endswith(".lam"))
