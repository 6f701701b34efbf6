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
from airlora.packing.qat import QatResult, _feature_distance, _Student, preview_interval, run_qat
from airlora.ranks import RankPattern
from airlora.tasks import evaluate
from airlora.training import FineTuner, RunContext, Settings, build_context


@pytest.fixture(scope="module")
def trained(make_settings: Callable[..., Settings]) -> tuple[Settings, RunContext]:
    """An adapter after 300 steps, in canonical order."""
    rates = dict.fromkeys(("finetune.learning_rate", "finetune.head_learning_rate"), 0.01)
    settings = make_settings(**rates, **{"finetune.steps": 300, "model.dropout": False})
    bench = build_context(settings)
    tuner = FineTuner(bench.adapted, bench.train, settings, bench.device)
    for _ in range(300):
        tuner.train_step(RankPattern.constant(bench.adapted.shapes, 4))
    # Rounding has no effect on a model at chance level.
    assert evaluate(bench.adapted.model, bench.train, bench.device).loss < 0.5
    canonicalise(bench.adapted)
    return settings, bench


@dataclass(frozen=True)
class Coder:
    """Encoder that rounds every factor to multiples of a step.

    Args:
        ranks: Number of components per module.
        step: Step relative to the factor's root mean square.
        num_items: Number of items that are sent.
    """

    ranks: int = 2
    step: float = 1.5
    num_items: int | None = None

    def __call__(self, current: QatResult) -> StreamPreview:
        items = [
            PreviewedItem(name, index, self.rounded(own.left[:, index]), self.rounded(own.right[index]), 50.0)
            for index in range(self.ranks)
            for name, own in current.updates.items()
            if index < own.rank
        ]
        return StreamPreview(tuple(items[: self.num_items]), current.head, None)

    def rounded(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        step = np.float32(self.step * np.sqrt(np.mean(values**2)))
        return np.rint(values / step) * step

    def first(self, bench: RunContext) -> StreamPreview:
        """Return the preview of the bench's own adapter."""
        updates = {name: own.balanced() for name, own in components_of(bench.adapted).items()}
        head = {name: value.detach().float().numpy() for name, value in bench.adapted.head_state().items()}
        return self(QatResult(updates, head, []))


def loss_of(bench: RunContext, found: QatResult, coder: Coder) -> float:
    """Return the training loss of the decoded components. The model keeps its values."""
    state = {name: value.clone() for name, value in bench.adapted.model.state_dict().items()}
    install(bench, found, coder)
    result = evaluate(bench.adapted.model, bench.train, bench.device)
    bench.adapted.model.load_state_dict(state)
    return result.loss


def install(bench: RunContext, found: QatResult, coder: Coder) -> None:
    """Put the decoded components into the model."""
    updates: dict[str, list[PreviewedItem]] = {}
    for item in coder(found).items:
        updates.setdefault(item.module, []).append(item)
    factors = {
        name: LowRankUpdate(np.stack([item.u for item in own], axis=1), np.stack([item.v for item in own]))
        for name, own in updates.items()
    }
    install_updates(bench.adapted, factors, found.head)


def run(trained: tuple[Settings, RunContext], coder: Coder, steps: int, **options: Any) -> QatResult:
    settings, bench = trained
    first = coder.first(bench)
    return run_qat(
        bench.adapted, bench.train, first, coder, settings.compute_options(bench.device), steps=steps, **options
    )


def test_fine_tuned_components_have_a_lower_loss_than_rounded_ones(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    coder = Coder()
    before, after = (loss_of(bench, run(trained, coder, steps, whole_stream_share=1.0), coder) for steps in (0, 60))
    whole = evaluate(bench.adapted.model, bench.train, bench.device).loss
    assert whole < before
    assert after < before - 0.1 * (before - whole)


def test_the_feature_weight_brings_layer_outputs_closer(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    # Fine rounding: the noise of a coarse one hides the effect in this tiny model.
    coder = Coder(step=0.3)
    without, followed = (
        features_of(bench, run(trained, coder, 60, whole_stream_share=1.0, feature_weight=weight), coder)
        for weight in (0.0, 30.0)
    )
    assert followed < 0.7 * without


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)])
def test_only_steps_with_the_whole_stream_compare_layer_outputs(
    trained: tuple[Settings, RunContext], monkeypatch: pytest.MonkeyPatch, share: float, fewest: int, most: int
) -> None:
    sent, sizes, followed = Coder().first(trained[1]).items, [], []
    state = _Student.state

    def spy(self: _Student, num_items: int) -> dict[str, torch.Tensor]:
        sizes.append(num_items)
        return state(self, num_items)

    def distance(*_arguments: object) -> torch.Tensor:
        followed.append(len(sizes) - 1)
        return torch.tensor(0.0)

    monkeypatch.setattr(_Student, "state", spy)
    monkeypatch.setattr("airlora.packing.qat._feature_distance", distance)
    run(trained, Coder(), 40, min_prefix_bytes=50.0, whole_stream_share=share, feature_weight=1.0)
    assert len(sizes) == 40
    assert fewest <= len(followed) <= most
    assert all(sizes[step] == len(sent) for step in followed)
    if share < 1.0:
        assert min(sizes) < len(sent)


def features_of(bench: RunContext, found: QatResult, coder: Coder) -> float:
    """Return the relative distance of the last layer's output from that of the bench's own adapter."""
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


def test_the_feature_distance_ignores_padding() -> None:
    wanted = torch.ones(1, 3, 2)
    found = wanted.clone()
    found[0, 2] = 100.0
    mask = torch.tensor([[1, 1, 0]])
    assert float(_feature_distance([wanted, found], [wanted, wanted], mask)) == 0.0
    found[0, 0] = 0.0
    assert float(_feature_distance([wanted, found], [wanted, wanted], mask)) == pytest.approx(0.5)


def test_zero_steps_return_the_components_unchanged(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    found = run(trained, Coder(), 0)
    assert found.losses == []
    for name, module in components_of(bench.adapted).items():
        factors = module.balanced()
        np.testing.assert_allclose(found.updates[name].left, factors.left[:, :2], atol=1e-6)
        np.testing.assert_allclose(found.updates[name].right, factors.right[:2], atol=1e-6)


def test_the_model_keeps_its_values_and_a_seed_is_reproducible(trained: tuple[Settings, RunContext]) -> None:
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
    return [names[id(value)] for value in (update.P, update.lam, update.Q)]


def test_the_encoder_runs_at_intervals_and_the_model_uses_its_rounding(
    trained: tuple[Settings, RunContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, bench = trained
    given: list[QatResult] = []
    states: list[dict[str, torch.Tensor]] = []
    state = _Student.state

    def preview(current: QatResult) -> StreamPreview:
        given.append(current)
        return Coder()(current)

    def spy(self: _Student, num_items: int) -> dict[str, torch.Tensor]:
        states.append(state(self, num_items))
        return states[-1]

    monkeypatch.setattr(_Student, "state", spy)
    first, steps, compute = Coder().first(bench), 42, settings.compute_options(bench.device)
    run_qat(bench.adapted, bench.train, first, preview, compute, steps=steps, whole_stream_share=1.0)
    assert len(given) == 21
    for number, current in enumerate(given):
        for item in Coder()(current).items:
            own = states[number * preview_interval(steps)]
            P, _, Q = (own[name].detach() for name in parameter_names(bench, item.module))
            np.testing.assert_allclose(P[:, item.index] * bench.adapted.scale, item.u, atol=1e-5)
            np.testing.assert_allclose(Q[item.index], item.v, atol=1e-5)


def test_a_component_is_present_while_the_encoder_sends_it(trained: tuple[Settings, RunContext]) -> None:
    _, bench = trained
    first = Coder().first(bench)
    student = _Student(bench.adapted, components_of(bench.adapted), first, bench.device)
    name = first.items[0].module
    lam = parameter_names(bench, name)[1]
    place = list(bench.adapted.shapes).index(name)

    def present(num_items: int) -> list[float]:
        """Return lam, which has an entry for each component up to the last one that is received."""
        own: list[float] = student.state(num_items)[lam].tolist()
        assert student.ranks(num_items)[place] == len(own)
        return own

    assert present(len(first.items)) == [1.0, 1.0]
    student.set_rounding(replace(first, items=tuple(item for item in first.items if item.module != name)))
    assert present(len(first.items)) == []
    student.set_rounding(replace(first, items=tuple(item for item in first.items if item.index == 1)))
    assert present(len(first.items)) == [0.0, 1.0]
    student.set_rounding(replace(first, items=()))
    assert student.draw_prefix(np.random.default_rng(0), 2000.0, 0.0) == (1, False)
    assert present(1) == []
    student.set_rounding(first)
    assert present(1) == [1.0]


def test_a_loss_that_explodes_is_refused(trained: tuple[Settings, RunContext]) -> None:
    with pytest.raises(TrainingError, match="loss at QAT step 1 = nan"):
        run(trained, Coder(), 5, learning_rate=float("inf"))


def test_a_base_model_in_half_precision_is_fine_tuned_in_float32(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(**{"model.dtype": "bfloat16"})
    bench = build_context(settings)
    with torch.no_grad():
        for update in bench.adapted.updates.values():
            update.lam.fill_(0.1)
    found = run((settings, bench), Coder(), 6)
    assert len(found.losses) == 6
    assert all(value.dtype == np.float32 for value in found.head.values())
