import copy
from collections.abc import Callable

import pytest
import torch

from airlora.config import Settings
from airlora.ranks import RankPattern
from airlora.training import FineTuner, Workbench, assemble, evaluate

HEAD_STEPS, ALIGN_STEPS = 3, 6
START_STEPS = HEAD_STEPS + ALIGN_STEPS


def make(settings: Settings, **adapter: object) -> tuple[Workbench, FineTuner, RankPattern]:
    finetune = {"head_steps": HEAD_STEPS, "align_steps": ALIGN_STEPS, "steps": 12, "learning_rate": 1e-2}
    tuned = settings.model_copy(
        update={
            "finetune": settings.finetune.model_copy(update=finetune),
            "adapter": settings.adapter.model_copy(update=adapter),
        }
    )
    bench = assemble(tuned)
    tuner = FineTuner(bench.adapted, bench.train, tuned, bench.device)
    return bench, tuner, RankPattern.constant(tuner.shapes, tuner.r_max)


def test_the_head_moves_first_and_alone(settings: Settings) -> None:
    bench, tuner, full = make(settings)
    components = [p.clone() for update in bench.adapted.updates.values() for p in update.parameters()]
    head = [p.clone() for p in bench.adapted.head_parameters()]
    for _ in range(HEAD_STEPS):
        tuner.train_step(full)
    moved = [p for update in bench.adapted.updates.values() for p in update.parameters()]
    assert all(torch.equal(p, before) for p, before in zip(moved, components, strict=True))
    assert not any(torch.equal(p, b) for p, b in zip(bench.adapted.head_parameters(), head, strict=True) if p.dim() > 1)


def test_the_update_is_zero_until_the_start_is_over(settings: Settings) -> None:
    bench, tuner, full = make(settings)
    for _ in range(START_STEPS):
        tuner.train_step(full)
        with_adapter = evaluate(bench.adapted.model, bench.eval, bench.device)
        bench.adapted.set_ranks([0] * len(bench.adapted.shapes))
        assert evaluate(bench.adapted.model, bench.eval, bench.device) == with_adapter
    for update in bench.adapted.updates.values():
        assert not update.lam.any()
        torch.testing.assert_close(update.P.T @ update.P, torch.eye(tuner.r_max), atol=1e-4, rtol=0)
    tuner.train_step(full)
    tuner.train_step(full)
    assert any(update.lam.any() for update in bench.adapted.updates.values())


def test_what_is_found_catches_more_of_the_gradient_than_chance(settings: Settings) -> None:
    caught = {}
    for aligned in (True, False):
        bench, tuner, full = make(settings)
        if aligned:
            for _ in range(START_STEPS):
                tuner.train_step(full)
        gradients = dense_gradients(bench)
        caught[aligned] = sum(
            float((update.P.T @ gradients[name] @ update.Q.T).square().sum().detach())
            for name, update in bench.adapted.updates.items()
        ) / sum(float(gradient.square().sum()) for gradient in gradients.values())
    assert caught[True] > 0.3
    assert caught[True] > 5 * caught[False]


def dense_gradients(bench: Workbench) -> dict[str, torch.Tensor]:
    """Return the loss's gradient with respect to each module's weight, on samples that the start has not seen."""
    model = bench.adapted.model
    weights = {name: model.get_submodule(name).get_parameter("base.weight") for name in bench.adapted.shapes}
    for weight in weights.values():
        weight.requires_grad_(True)
    model.eval()
    indices = next(iter(bench.calibration.in_order(64)))
    torch.autograd.backward(model(**bench.calibration.batch(indices, bench.device)).loss)
    found = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    assert found.keys() == weights.keys()
    return found


@pytest.mark.parametrize("stop", [1, HEAD_STEPS, HEAD_STEPS + 2, HEAD_STEPS + 3, HEAD_STEPS + 4, START_STEPS])
def test_resumes_bit_equal_from_anywhere_in_the_start(settings: Settings, stop: int) -> None:
    bench, tuner, full = make(settings, dropout=0.1, start_norm=0.5)
    for _ in range(stop):
        tuner.train_step(full)
    state = copy.deepcopy(tuner.state_dict())
    expected = [tuner.train_step(full) for _ in range(stop, 12)]
    other_bench, other, _ = make(settings, dropout=0.1, start_norm=0.5)
    other.load_state_dict(state)
    assert [other.train_step(full) for _ in range(stop, 12)] == expected
    for one, two in zip(bench.adapted.trainable_parameters(), other_bench.adapted.trainable_parameters(), strict=True):
        assert torch.equal(one, two)


def test_ranks_asked_for_wait_until_the_start_is_over(settings: Settings) -> None:
    bench, tuner, _ = make(settings)
    low = RankPattern.constant(tuner.shapes, 1)
    for _ in range(START_STEPS):
        tuner.train_step(low)
        assert bench.adapted.rank_pattern.ranks[0] == tuner.r_max
    tuner.train_step(low)
    assert bench.adapted.rank_pattern == low


def test_the_schedule_begins_behind_the_start(make_settings: Callable[..., Settings]) -> None:
    _, tuner, full = make(make_settings())
    rates = []
    for _ in range(12):
        rates.append(tuner.learning_rate)
        tuner.train_step(full)
    assert len(set(rates[: START_STEPS + 1])) == 1
    assert tuner.learning_rate == pytest.approx(0.0, abs=1e-9)
