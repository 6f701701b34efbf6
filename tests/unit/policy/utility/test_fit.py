from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import PolicyError
from airlora.policy import Measurements, UtilityFit, UtilityModel, fit_utility
from airlora.policy.utility.fit import NOTICEABLE
from airlora.policy.utility.forms import FORMS

True_ = Callable[..., UtilityModel]
Measure = Callable[..., Measurements]


def fit(
    measured: Measurements, *forms: str, ridge: float = 3e-4, num_members: int = 0, r_max: int = 6, seed: int = 0
) -> UtilityFit:
    return fit_utility(
        measured,
        r_max=r_max,
        ridge=ridge,
        forms=forms or tuple(FORMS),
        num_members=num_members,
        generator=np.random.default_rng(seed),
    )


def off_by(found: UtilityModel, model: UtilityModel) -> float:
    """Standard deviation of the error for new patterns and texts, as a share of what is to be explained."""
    generator = np.random.default_rng(99)
    ranks = generator.integers(0, model.r_max + 1, (300, model.num_modules))
    texts = generator.normal(size=(300, 2))
    true = model.drop(ranks, texts)
    return float(np.std(found.drop(ranks, texts) - true) / np.std(true))


def test_recovers_concave_curves(true_model: True_, measure: Measure) -> None:
    model = true_model(0)
    found = fit(measure(model, 400), "separable", ridge=0.0)
    np.testing.assert_allclose(found.model.curves, model.curves, atol=1e-3)
    assert found.residual_std < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_recovers_what_texts_change(true_model: True_, measure: Measure, seed: int) -> None:
    model = true_model(seed, text=0.2)
    found = fit(measure(model, 1000), "separable", "text", ridge=1e-5)
    assert found.form == "text"
    assert off_by(found.model, model) < 0.15
    # No sign is wrong; nothing is bent where the truth is a line.
    true, fitted = model.text_curves[:, :, -1], found.model.text_curves[:, :, -1]
    np.testing.assert_allclose(fitted[:2], true, rtol=0.25, atol=0.02)
    assert np.abs(fitted[2:]).max() < 0.1 * np.abs(true).max()


def test_recovers_what_texts_bend(true_model: True_, measure: Measure) -> None:
    """Where a text scales every worth by an exponential, a line leaves several times the noise; squares do not."""
    model = true_model(0, num_modules=12)
    drawn = measure(model, 4000)
    slopes = 0.2 * np.random.default_rng(1).normal(size=(2, 12))
    own = model.curves[np.arange(12), drawn.ranks]
    losses = 2.0 - (np.exp(drawn.texts @ slopes) * own).sum(axis=1)
    found = fit(Measurements(drawn.ranks, losses, drawn.texts), "separable", "text")
    assert found.form == "text"
    straight = [own * drawn.texts[:, [axis]] for axis in range(2)]
    columns = np.column_stack([np.ones(4000), drawn.texts, own, *straight])
    rest = losses - columns @ np.linalg.lstsq(columns, losses, rcond=None)[0]
    assert found.residual_std < 0.5 * np.std(rest)


@pytest.mark.parametrize("seed", range(4))
def test_recovers_couplings_of_either_sign(true_model: True_, measure: Measure, seed: int) -> None:
    model = true_model(seed, coupling=0.3)
    found = fit(measure(model, 3000, varied=False), "separable", "pairwise", ridge=1e-5)
    assert found.form == "pairwise"
    strong = np.abs(model.coupling) > 0.2
    assert strong.any()
    # The ridge takes up to two thirds of each; what is left has the right sign, and pairs apart get next to nothing.
    share = found.model.coupling[strong] / model.coupling[strong]
    assert (share > 1 / 3).all()
    assert (share < 1.05).all()
    assert np.abs(found.model.coupling[~strong]).max() < 0.21
    assert np.corrcoef(found.model.coupling.ravel(), model.coupling.ravel())[0, 1] > 0.95
    np.testing.assert_array_equal(found.model.coupling, found.model.coupling.T)
    assert not np.diag(found.model.coupling).any()
    assert off_by(found.model, model) < 0.15


@pytest.mark.parametrize("seed", range(3))
def test_a_stronger_ridge_says_less_of_couplings(true_model: True_, measure: Measure, seed: int) -> None:
    model = true_model(seed, coupling=0.3)
    measured = measure(model, 1000, varied=False)
    forms = ("text-pairwise-smooth", "text-pairwise")
    assert FORMS[forms[0]].penalty > FORMS[forms[1]].penalty
    smooth, usual = (np.abs(fit(measured, form).model.coupling).sum() for form in forms)
    assert 0 < smooth < usual < 1.05 * np.abs(model.coupling).sum()


@given(st.integers(0, 1000), st.floats(0, 0.5), st.sampled_from(sorted(FORMS)), st.booleans())
def test_curves_are_concave_rise_and_start_at_0_whatever_the_noise(
    true_model: True_, measure: Measure, seed: int, noise: float, form: str, varied: bool
) -> None:
    found = fit(measure(true_model(seed), 40, noise=noise, varied=varied), form, ridge=1e-3, num_members=2)
    for model in (found.model, *found.members):
        gains = np.diff(model.curves, axis=1)
        assert (model.curves[:, 0] == 0).all()
        assert (gains >= -1e-12).all()
        assert (np.diff(gains, axis=1) <= 1e-9).all()
        assert not model.text_curves[:, :, 0].any()


def test_more_measurements_come_closer(true_model: True_, measure: Measure) -> None:
    model = true_model(1)
    errors = [off_by(fit(measure(model, count, noise=0.1), "separable").model, model) for count in (30, 300, 3000)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_held_out_measurements_choose_the_form(true_model: True_, measure: Measure) -> None:
    num_simple = 0
    for seed in range(10):
        apart, together = (
            fit(
                measure(true_model(seed, 16, coupling=coupling), 1000, noise=0.1, seed=seed, varied=False),
                "separable",
                "pairwise",
                seed=seed,
            )
            for coupling in (0.0, 0.3)
        )
        assert together.form == "pairwise"
        assert not together.model.is_separable
        assert together.held_out_std["pairwise"] < 0.7 * together.held_out_std["separable"]
        num_simple += apart.form == "separable"
        assert apart.model.is_separable == (apart.form == "separable")
        # Where chance prefers the form that can say more, it is by next to nothing.
        assert apart.held_out_std["pairwise"] > 0.99 * apart.held_out_std["separable"]
    assert num_simple >= 8


def test_the_form_is_the_best_of_all_and_is_not_chosen_from_few(true_model: True_, measure: Measure) -> None:
    model = true_model(3, text=0.1, coupling=0.1)
    many = fit(measure(model, 100))
    assert set(many.held_out_std) == set(FORMS)
    # A simpler form may stay that is not noticeably worse.
    assert many.held_out_std[many.form] * NOTICEABLE <= min(many.held_out_std.values()) + 1e-12
    few = fit(measure(model, 99))
    assert (few.form, few.held_out_std) == ("stiff", {})
    alone = fit(measure(model, 100), "pairwise")
    assert (alone.form, alone.held_out_std) == ("pairwise", {})


@pytest.mark.parametrize(("form", "text", "pairs"), [("separable", 0, 0), ("text", 1, 0), ("pairwise", 0, 1)])
def test_what_a_form_leaves_out_is_zero(
    true_model: True_, measure: Measure, form: str, text: bool, pairs: bool
) -> None:
    found = fit(measure(true_model(4, text=0.1, coupling=0.1), 300), form, num_members=1)
    for model in (found.model, *found.members):
        assert model.text_curves.any() == text
        assert model.coupling.any() == pairs


def test_residuals_are_the_noise(true_model: True_, measure: Measure) -> None:
    found = fit(measure(true_model(5), 3000, noise=0.2))
    assert found.residual_std == pytest.approx(0.2, rel=0.05)
    assert found.held_out_std[found.form] == pytest.approx(0.2, rel=0.1)


def test_members_come_together_with_measurements(true_model: True_, measure: Measure) -> None:
    model = true_model(6)
    spreads = []
    for count in (60, 600, 6000):
        members = fit(measure(model, count, noise=0.2), "separable", num_members=6).members
        assert len(members) == 6
        spreads.append(np.std([member.curves[:, -1] for member in members], axis=0).mean())
    assert spreads[0] > spreads[1] > spreads[2] > 0


@pytest.mark.parametrize("num_texts", [4, 1000])
def test_the_level_of_a_text_is_not_taken_for_a_gain(true_model: True_, measure: Measure, num_texts: int) -> None:
    model = true_model(7)
    plain = measure(model, 1000, varied=False)
    texts = np.random.default_rng(0).normal(size=(num_texts, 2))[np.arange(1000) % num_texts]
    level = texts @ np.asarray([3.0, -2.0])
    found = fit(Measurements(plain.ranks, plain.losses + level, texts), "separable", ridge=0.0)
    np.testing.assert_allclose(found.model.curves, model.curves, atol=0.02)


@pytest.mark.parametrize("rank", [0, 2, 6])
@pytest.mark.parametrize("level", [5.0, -5.0])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("num_texts", [1, 3, 5])
def test_a_module_that_was_never_moved_has_no_gain(
    true_model: True_, measure: Measure, rank: int, level: float, ridge: float, num_texts: int
) -> None:
    drawn = measure(true_model(8), 201, noise=0.05)
    ranks = drawn.ranks.copy()
    ranks[:, 2] = rank
    texts = drawn.texts[np.arange(201) % num_texts]
    found = fit(Measurements(ranks, drawn.losses + level, texts), "separable", ridge=ridge, num_members=2)
    for model in (found.model, *found.members):
        assert not model.curves[2].any()
        assert model.curves[0].any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ridge", [0.0, 3e-4])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("form", sorted(FORMS))
def test_one_pattern_gives_no_gain(form: str, count: int, ridge: float) -> None:
    measured = Measurements(np.ones((count, 3), np.int64), np.full(count, -2.0), np.zeros((count, 2)))
    found = fit(measured, form, num_members=4, r_max=2, ridge=ridge)
    assert not any(model.curves.any() for model in (found.model, *found.members))


def test_the_same_seed_gives_the_same_fit(true_model: True_, measure: Measure) -> None:
    measured = measure(true_model(9, coupling=0.1), 200, noise=0.1)
    one, other = (fit(measured, num_members=2, seed=4) for _ in range(2))
    assert one.form == other.form
    for left, right in zip((one.model, *one.members), (other.model, *other.members), strict=True):
        np.testing.assert_array_equal(left.curves, right.curves)
        np.testing.assert_array_equal(left.coupling, right.coupling)


def test_refuses_no_measurement_and_what_is_no_loss() -> None:
    with pytest.raises(PolicyError, match="no measured loss"):
        Measurements(np.ones((0, 3), np.int64), np.ones(0), np.zeros((0, 2)))
    for value in (np.nan, np.inf):
        with pytest.raises(PolicyError, match="losses: allowed are finite numbers"):
            Measurements(np.ones((2, 3), np.int64), np.asarray([1.0, value]), np.zeros((2, 2)))


def test_refuses_an_unknown_form(true_model: True_, measure: Measure) -> None:
    with pytest.raises(PolicyError, match="'cubic': allowed is one of stiff, separable, text") as caught:
        fit(measure(true_model(0), 10), "separable", "cubic")
    assert "\n" not in str(caught.value)
