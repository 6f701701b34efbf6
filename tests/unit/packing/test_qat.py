from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from airlora.adapters import LowRankUpdate, canonicalise, components_of, install_updates
from airlora.codec import PreviewedItem, StreamPreview
from airlora.errors import TrainingError
from airlora.packing.qat import Polished, _feature_distance, _Student, polish, round_every
from airlora.ranks import RankPattern
from airlora.tasks import evaluate
from airlora.training import FineTuner, RunContext, Settings, build_context


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> tuple[Settings, RunContext]:
    """An adapter after some steps, in canonical order."""
    rates = dict.fromkeys(("finetune.learning_rate", "finetune.head_learning_rate"), 0.01)
    settings = make_settings(**rates, **{"finetune.steps": 300, "model.dropout": False})
    bench = build_context(settings)
    tuner = FineTuner(bench.adapted, bench.train, settings, bench.device)
    for _ in range(300):
        tuner.train_step(RankPattern.constant(bench.adapted.shapes, 4))
    # At chance there would be nothing to lose by rounding.
    assert evaluate(bench.adapted.model, bench.train, bench.device).loss < 0.5
    canonicalise(bench.adapted)
    return settings, bench


@dataclass(frozen=True)
class Coder:
    """Rounds what it is given to steps in units of each factor's root mean square, a component after the other.

    Args:
        ranks: Components per module.
        step: The step.
        num_items: Of these, how many are sent.
    """

    ranks: int = 2
    step: float = 1.5
    num_items: int | None = None

    def __call__(self, polished: Polished) -> StreamPreview:
        items = [
            PreviewedItem(name, index, self.rounded(own.left[:, index]), self.rounded(own.right[index]), 50.0)
            for index in range(self.ranks)
            for name, own in polished.updates.items()
            if index < own.rank
        ]
        return StreamPreview(tuple(items[: self.num_items]), polished.head, None)

    def rounded(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        step = np.float32(self.step * np.sqrt(np.mean(values**2)))
        return np.rint(values / step) * step

    def first(self, bench: RunContext) -> StreamPreview:
        """What it makes of the bench's own adapter."""
        updates = {name: own.balanced() for name, own in components_of(bench.adapted).items()}
        head = {name: value.detach().float().numpy() for name, value in bench.adapted.head_state().items()}
        return self(Polished(updates, head, []))


def loss_of(bench: RunContext, found: Polished, coder: Coder) -> float:
    """Return the training loss with the components as they will be decoded; the bench's own adapter comes back."""
    state = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    install(bench, found, coder)
    result = evaluate(bench.adapted.model, bench.train, bench.device)
    bench.adapted.model.load_state_dict(state)
    return result.loss


def install(bench: RunContext, found: Polished, coder: Coder) -> None:
    """Let the model compute with the components as they will be decoded."""
    updates: dict[str, list[PreviewedItem]] = {}
    for item in coder(found).items:
        updates.setdefault(item.module, []).append(item)
    factors = {
        name: LowRankUpdate(np.stack([item.u for item in own], axis=1), np.stack([item.v for item in own]))
        for name, own in updates.items()
    }
    install_updates(bench.adapted, factors, found.head)


def run(trained: tuple[Settings, RunContext], coder: Coder, steps: int, **options: Any) -> Polished:
    settings, bench = trained
    first = coder.first(bench)
    return polish(
        bench.adapted, bench.train, first, coder, settings.compute_options(bench.device), steps=steps, **options
    )


def test_polished_components_lose_less_than_rounded_ones(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    coder = Coder()
    before, after = (loss_of(bench, run(trained, coder, steps, whole_share=1.0), coder) for steps in (0, 60))
    whole = evaluate(bench.adapted.model, bench.train, bench.device).loss
    assert whole < before
    assert after < before - 0.1 * (before - whole)


def test_layers_are_followed_too(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    coder = Coder()
    without, followed = (
        features_of(bench, run(trained, coder, 60, whole_share=1.0, feature_weight=weight), coder)
        for weight in (0.0, 30.0)
    )
    assert followed < 0.9 * without


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)])
def test_steps_that_take_the_whole_follow_layers_and_only_they(
    trained: tuple[Settings, RunContext], monkeypatch: pytest.MonkeyPatch, share: float, fewest: int, most: int
) -> None:
    sent, cuts, followed = Coder().first(trained[1]).items, [], []
    state = _Student.state

    def spy(self: _Student, cut: int) -> dict[str, torch.Tensor]:
        cuts.append(cut)
        return state(self, cut)

    def distance(*_arguments: object) -> torch.Tensor:
        followed.append(len(cuts) - 1)
        return torch.tensor(0.0)

    monkeypatch.setattr(_Student, "state", spy)
    monkeypatch.setattr("airlora.packing.qat._feature_distance", distance)
    run(trained, Coder(), 40, min_bytes=50.0, whole_share=share, feature_weight=1.0)
    assert len(cuts) == 40
    assert fewest <= len(followed) <= most
    assert all(cuts[step] == len(sent) for step in followed)
    if share < 1.0:
        assert min(cuts) < len(sent)


def features_of(bench: RunContext, found: Polished, coder: Coder) -> float:
    """Return how far the last layer's output is from that of the bench's own adapter."""
    batch = bench.train.batch(np.arange(64), bench.device)
    batch.pop("labels")
    state = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    with torch.no_grad():
        wanted = bench.adapted.model(**batch, output_hidden_states=True).hidden_states[-1]
        install(bench, found, coder)
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


def test_no_step_returns_the_components_as_they_are(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    found = run(trained, Coder(), 0)
    assert found.losses == []
    for name, module in components_of(bench.adapted).items():
        factors = module.balanced()
        np.testing.assert_allclose(found.updates[name].left, factors.left[:, :2], atol=1e-6)
        np.testing.assert_allclose(found.updates[name].right, factors.right[:2], atol=1e-6)


def test_the_model_is_left_as_it_was_and_a_seed_gives_the_same(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    bench.adapted.set_ranks([3] * len(bench.adapted.shapes))
    before = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    seen: list[int] = []
    coder = Coder(num_items=7)
    one, two = (run(trained, coder, 3, on_step=lambda step, _: seen.append(step)) for _ in range(2))
    assert seen == [1, 2, 3, 1, 2, 3]
    assert one.losses == two.losses
    assert set(one.updates) == {item.module for item in coder.first(bench).items}
    for name, update in one.updates.items():
        np.testing.assert_array_equal(update.left, two.updates[name].left)
    assert set(bench.adapted.rank_pattern.ranks) == {3}
    for name, value in bench.adapted.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def parameter_names(bench: RunContext, module: str) -> list[str]:
    """Return the names of a module's P, lam and Q."""
    update = bench.adapted.updates[module]
    names = {id(value): name for name, value in bench.adapted.model.named_parameters()}
    return [names[id(part)] for part in (update.P, update.lam, update.Q)]


def test_the_encoder_is_asked_again_and_the_model_computes_with_what_it_says(
    trained: tuple[Settings, RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, bench = trained
    given: list[Polished] = []
    states: list[dict[str, torch.Tensor]] = []
    state = _Student.state

    def preview(polished: Polished) -> StreamPreview:
        given.append(polished)
        return Coder()(polished)

    def spy(self: _Student, cut: int) -> dict[str, torch.Tensor]:
        states.append(state(self, cut))
        return states[-1]

    monkeypatch.setattr(_Student, "state", spy)
    # As often as `round_every` says for that many.
    first, steps = Coder().first(bench), 42
    polish(
        bench.adapted, bench.train, first, preview, settings.compute_options(bench.device), steps=steps, whole_share=1.0
    )
    assert len(given) == 21
    for place, polished in enumerate(given):
        for item in Coder()(polished).items:
            P, _, Q = (
                states[place * round_every(steps)][name].detach() for name in parameter_names(bench, item.module)
            )
            np.testing.assert_allclose(P[:, item.index] * bench.adapted.scale, item.u, atol=1e-5)
            np.testing.assert_allclose(Q[item.index], item.v, atol=1e-5)


def test_a_component_is_there_while_the_encoder_sends_it(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    first = Coder().first(bench)
    student = _Student(bench.adapted, components_of(bench.adapted), first, bench.device)
    name = first.items[0].module
    lam = parameter_names(bench, name)[1]
    assert student.state(len(first.items))[lam].tolist() == [1.0, 1.0]
    student.round_as(replace(first, items=tuple(item for item in first.items if item.module != name)))
    assert student.state(len(first.items))[lam].tolist() == [0.0, 0.0]
    student.round_as(replace(first, items=()))
    assert student.draw(np.random.default_rng(0), 2000.0, 0.0) == (1, False)
    assert student.state(1)[lam].tolist() == [0.0, 0.0]
    student.round_as(first)
    assert student.state(1)[lam].tolist() == [1.0, 0.0]


def test_a_loss_that_explodes_is_refused(trained: tuple[Settings, RunContext]) -> None:
    with pytest.raises(TrainingError, match="loss at polishing step 1 = nan"):
        run(trained, Coder(), 5, learning_rate=float("inf"))


def test_a_base_in_half_precision_is_polished_too(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**{"model.dtype": "bfloat16"})
    bench = build_context(settings)
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            update.lam.fill_(0.1)
    found = run((settings, bench), Coder(), 6)
    assert len(found.losses) == 6
    assert all(value.dtype == np.float32 for value in found.head.values())
