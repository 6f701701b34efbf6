from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import canonicalise, components_of, install_updates
from airlora.config import Settings
from airlora.errors import TrainingError
from airlora.ranks import RankPattern
from airlora.training import FineTuner, Workbench, assemble, evaluate
from airlora.training.polish import Polished, SentItem, _feature_distance, _Student, polish


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> tuple[Settings, Workbench]:
    """An adapter after some steps, in canonical order."""
    rates = dict.fromkeys(("finetune.learning_rate", "finetune.head_learning_rate"), 0.01)
    settings = make_settings(**rates, **{"finetune.steps": 300, "model.dropout": False})
    bench = assemble(settings)
    tuner = FineTuner(bench.adapted, bench.train, settings, bench.device)
    for _ in range(300):
        tuner.train_step(RankPattern.constant(bench.adapted.shapes, 4))
    # At chance there would be nothing to lose by rounding.
    assert evaluate(bench.adapted.model, bench.train, bench.device).loss < 0.5
    canonicalise(bench.adapted)
    return settings, bench


def rough(bench: Workbench, ranks: int = 2, step: float = 1.5) -> list[SentItem]:
    """The first components of every module, at steps in units of each factor's root mean square."""
    sent = []
    for index in range(ranks):
        for name, module in components_of(bench.adapted).items():
            factors = module.balanced()
            left = step * float(np.sqrt(np.mean(factors.left[:, index] ** 2)))
            right = step * float(np.sqrt(np.mean(factors.right[index] ** 2)))
            sent.append(SentItem(name, index, left, right, 50.0))
    return sent


def head_steps(bench: Workbench) -> dict[str, float]:
    return dict.fromkeys(bench.adapted.head_state(), 1e-3)


def loss_of(bench: Workbench, found: Polished, sent: list[SentItem]) -> float:
    """Return the training loss with the components as they will be decoded; the bench's own adapter comes back."""
    state = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    updates = {}
    for name, update in found.updates.items():
        own = [component for component in sent if component.module == name]
        left = np.asarray([component.left_step for component in own])
        right = np.asarray([[component.right_step] for component in own])
        updates[name] = type(update)(
            (np.rint(update.left / left) * left).astype(np.float32),
            (np.rint(update.right / right) * right).astype(np.float32),
        )
    install_updates(bench.adapted, updates, found.head)
    result = evaluate(bench.adapted.model, bench.train, bench.device)
    bench.adapted.model.load_state_dict(state)
    return result.loss


def run(trained: tuple[Settings, Workbench], sent: list[SentItem], steps: int, **options: float) -> Polished:
    settings, bench = trained
    return polish(bench.adapted, bench.train, sent, head_steps(bench), settings, bench.device, steps=steps, **options)


def test_polished_components_lose_less_than_rounded_ones(trained: tuple[Settings, Workbench]) -> None:
    _, bench = trained
    sent = rough(bench)
    before, after = (loss_of(bench, run(trained, sent, steps, whole_share=1.0), sent) for steps in (0, 60))
    whole = evaluate(bench.adapted.model, bench.train, bench.device).loss
    assert whole < before
    assert after < before - 0.1 * (before - whole)


def test_layers_are_followed_too(trained: tuple[Settings, Workbench]) -> None:
    _, bench = trained
    sent = rough(bench)
    without, followed = (
        features_of(bench, run(trained, sent, 60, whole_share=1.0, feature_weight=weight)) for weight in (0.0, 30.0)
    )
    assert followed < 0.9 * without


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)])
def test_steps_that_take_the_whole_follow_layers_and_only_they(
    trained: tuple[Settings, Workbench], monkeypatch: pytest.MonkeyPatch, share: float, fewest: int, most: int
) -> None:
    sent, cuts, followed = rough(trained[1]), [], []
    state = _Student.state

    def spy(self: _Student, cut: int) -> dict[str, torch.Tensor]:
        cuts.append(cut)
        return state(self, cut)

    def distance(*_arguments: object) -> torch.Tensor:
        followed.append(len(cuts) - 1)
        return torch.tensor(0.0)

    monkeypatch.setattr(_Student, "state", spy)
    monkeypatch.setattr("airlora.training.polish._feature_distance", distance)
    run(trained, sent, 40, min_bytes=50.0, whole_share=share, feature_weight=1.0)
    assert len(cuts) == 40
    assert fewest <= len(followed) <= most
    assert all(cuts[step] == len(sent) for step in followed)
    if share < 1.0:
        assert min(cuts) < len(sent)


def features_of(bench: Workbench, found: Polished) -> float:
    """Return how far the last layer's output is from that of the bench's own adapter."""
    batch = bench.train.batch(np.arange(64), bench.device)
    batch.pop("labels")
    state = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    with torch.no_grad():
        wanted = bench.adapted.model(**batch, output_hidden_states=True).hidden_states[-1]
        install_updates(bench.adapted, found.updates, found.head)
        got = bench.adapted.model(**batch, output_hidden_states=True).hidden_states[-1]
    bench.adapted.model.load_state_dict(state)
    bench.adapted.set_ranks([bench.adapted.r_max] * len(bench.adapted.shapes))
    mask = batch["attention_mask"][..., None]
    return float(((got - wanted).square() * mask).sum() / (wanted.square() * mask).sum())


def test_padding_does_not_count_as_a_feature() -> None:
    wanted = torch.ones(1, 3, 2)
    found = wanted.clone()
    found[0, 2] = 100.0
    mask = torch.tensor([[1, 1, 0]])
    assert float(_feature_distance([wanted, found], [wanted, wanted], mask)) == 0.0
    found[0, 0] = 0.0
    assert float(_feature_distance([wanted, found], [wanted, wanted], mask)) == pytest.approx(0.5)


def test_no_step_returns_the_components_as_they_are(trained: tuple[Settings, Workbench]) -> None:
    _, bench = trained
    found = run(trained, rough(bench), 0)
    assert found.losses == []
    for name, module in components_of(bench.adapted).items():
        factors = module.balanced()
        np.testing.assert_allclose(found.updates[name].left, factors.left[:, :2], atol=1e-6)
        np.testing.assert_allclose(found.updates[name].right, factors.right[:2], atol=1e-6)


def test_the_model_is_left_as_it_was_and_a_seed_gives_the_same(trained: tuple[Settings, Workbench]) -> None:
    _, bench = trained
    bench.adapted.set_ranks([3] * len(bench.adapted.shapes))
    before = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    seen: list[int] = []
    settings = trained[0]
    sent = rough(bench)[:7]
    one, two = (
        polish(
            bench.adapted,
            bench.train,
            sent,
            head_steps(bench),
            settings,
            bench.device,
            steps=3,
            on_step=lambda step, _: seen.append(step),
        )
        for _ in range(2)
    )
    assert seen == [1, 2, 3, 1, 2, 3]
    assert one.losses == two.losses
    assert set(one.updates) == {component.module for component in sent}
    for name, update in one.updates.items():
        np.testing.assert_array_equal(update.left, two.updates[name].left)
    assert set(bench.adapted.rank_pattern.ranks) == {3}
    for name, value in bench.adapted.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_loss_that_explodes_is_refused(trained: tuple[Settings, Workbench]) -> None:
    with pytest.raises(TrainingError, match="loss at polishing step 1 = nan"):
        run(trained, rough(trained[1]), 5, learning_rate=float("inf"))


def test_a_base_in_half_precision_is_polished_too(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**{"model.dtype": "bfloat16"})
    bench = assemble(settings)
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            update.lam.fill_(0.1)
    found = polish(bench.adapted, bench.train, rough(bench), head_steps(bench), settings, bench.device, steps=2)
    assert len(found.losses) == 2
    assert all(value.dtype == np.float32 for value in found.head.values())
