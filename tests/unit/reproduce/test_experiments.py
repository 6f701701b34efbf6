import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airlora.errors import SettingsError, TrainingError
from airlora.reproduce import fig3, fig7, fig8
from airlora.reproduce.experiment import (
    Arm,
    Claim,
    Results,
    bounds_text,
    experiments,
    find_experiments,
    judge,
    running_mean,
)
from airlora.reproduce.fig3 import saved_steps, steps_to_reach
from airlora.reproduce.methods import AIRLLM, METHODS
from airlora.reproduce.plan import OPT_PARAMS_PER_RANK, Plan, is_pending
from airlora.reproduce.rates import RATE_FACTORS, choose_rates, rate_trials
from airlora.reproduce.result import ExperimentResult, write_result
from airlora.reproduce.run import dry_run
from airlora.reproduce.scales import SCALES
from airlora.reproduce.trial import Trial, TrialResult
from airlora.reproduce.verdicts import Verdict

NAMES = ["table3", "table4", "table5a", "table5b", "table6", "fig3", "fig4", "fig5", "fig6", "fig7", "fig8"]
SNRS_DB = (-5.0, 0.0, 5.0, 10.0, 15.0)
MODULES = {f"layer.{layer}.{role}": {"role": role, "layer": layer} for layer in range(4) for role in ("q", "o", "fc1")}
MODULES["layer.4.q"] = {"role": "q", "layer": 4}


@functools.cache  # A plan keeps the trials that it has made.
def plan(scale: str = "standard", num_seeds: int = 3) -> Plan:
    return Plan(SCALES[scale], "repaired", tuple(range(42, 42 + num_seeds)), bandwidth_hz=5e6)


def fake_result(trial: Trial) -> TrialResult:
    """Return a result whose values follow from the trial's key."""
    generator = np.random.default_rng(int(trial.key, 16) % 2**32)
    if trial.kind == "timing":
        own = {"decision_seconds": 0.1, "episode_seconds": 1.0}
        return {
            "seconds": {steps: {key: value * int(steps) for key, value in own.items()} for steps in ("30", "50", "100")}
        }
    snrs_db = (trial.options["snr_db"],) if trial.kind == "baseline" else SNRS_DB
    links = []
    for snr_db in snrs_db:
        correct = generator.random(50) < 0.8
        links.append(
            {
                "snr_db": snr_db,
                "accuracy": float(correct.mean()),
                "loss": float(generator.uniform(0.2, 0.5)),
                "num_params": int(generator.integers(100, 1000)),
                "paper_num_params": int(generator.integers(100, 1000)),
                "cost": float(generator.random()),
                "objective": float(generator.random()),
                "mean_rank": 2.0,
                "ranks": {name: int(generator.integers(0, 5)) for name in MODULES},
                "correct": "".join("1" if right else "0" for right in correct),
            }
        )
    rewards = [[float(step), float(generator.normal())] for step in range(10, 110, 10)]
    calibration = [float(generator.random()) for _ in SNRS_DB]
    return {"links": links, "rewards": rewards, "calibration": calibration, "modules": MODULES}


def faked(own: Plan, names: list[str] = NAMES) -> Results:
    def results() -> dict[str, TrialResult]:
        trials = [trial for name in names for trial in experiments()[name].trials(own)]
        return {trial.key: fake_result(trial) for trial in trials if not is_pending(trial)}

    # Budgets of AdaLoRA and LoRA follow from the results of the paper's method.
    own = replace(
        own, known=results() | {own.trial(AIRLLM, seed).key: fake_result(own.trial(AIRLLM, seed)) for seed in own.seeds}
    )
    return Results(own, results())


def change(results: Results, arm: Arm, **values: list[Any]) -> None:
    """Set measured values of an arm, one per seed."""
    for place, seed in enumerate(results.plan.seeds):
        for trial in results.plan.trials(arm.method, seed, arm.changes, snrs_db=(arm.snr_db,)):
            result = results.by_key[trial.key]
            for link in result["links"]:
                link.update({key: own[place] for key, own in values.items() if key in link})
            result.update({key: own[place] for key, own in values.items() if key in result})


def by_claim(result: ExperimentResult) -> dict[str, Verdict]:
    return {verdict.claim: verdict for verdict in result.verdicts}


def test_every_table_and_figure_is_found_by_its_file() -> None:
    assert list(experiments()) == NAMES
    assert [own.name for own in find_experiments("all")] == NAMES
    with pytest.raises(SettingsError, match=r"table or figure = 'table9': allowed is one of table3, .*fig8, all"):
        find_experiments("table9")


@pytest.mark.parametrize(
    ("name", "scale", "num_seeds"),
    [(name, "standard", 3) for name in NAMES] + [(name, "quick", 1) for name in ("table3", "fig8")],
)
def test_every_table_and_figure_has_rows_verdicts_and_files(
    name: str, scale: str, num_seeds: int, tmp_path: Path
) -> None:
    own = plan(scale, num_seeds)
    result = experiments()[name].result(faked(own, [name]))
    assert result.name == name
    assert {row["seed"] for row in result.rows} == set(own.seeds)
    assert all({"method", "setting", "seed"} <= row.keys() for row in result.rows)
    assert not any({"ranks", "correct"} & row.keys() for row in result.rows)
    if num_seeds == 1:
        assert {verdict.verdict for verdict in result.verdicts} <= {"not decidable here"}
    for verdict in result.verdicts:
        if verdict.claim.endswith((": accuracy", ": lower loss")):
            assert re.search(r" η (\d|\.)\S* against (\d|\.)\S*\.$", verdict.reason)
    suffixes = {path.suffix for path in write_result(tmp_path, result)}
    assert suffixes == ({".csv", ".md", ".tex", ".json"} if result.table else {".csv", ".svg", ".pdf", ".json"})


def test_verdicts_state_the_interval_over_sentences_and_the_probability_of_improvement() -> None:
    verdicts = experiments()["table5a"].result(faked(plan(), ["table5a"])).verdicts
    assert all("Over evaluation sentences: " in verdict.reason for verdict in verdicts[::2])
    assert all(re.search(r"Probability of improvement: [01]\.\d\d \(", verdict.reason) for verdict in verdicts[1::2])


def test_accuracies_of_the_paper_stand_beside_ours() -> None:
    own = plan()
    table = experiments()["table3"].result(faked(own, ["table3"])).table
    assert table is not None
    lines = {line["method"]: line for line in table.lines}
    assert set(lines) == set(METHODS)
    assert lines["PPO+DDIM/MLP"]["paper_accuracy"] == 0.9553
    assert "paper_accuracy" not in lines["allocate"]


def test_tables_share_equal_trials() -> None:
    own = plan()
    keys = {name: {trial.key for trial in experiments()[name].trials(own)} for name in NAMES}
    base = own.trial("PPO+DDIM/MLP", 42).key
    # lambda .1, epsilon, 1000 x 50 and scaled-linear are the values of the preset.
    assert all(base in keys[name] for name in ("table3", "table5a", "table5b", "fig3", "fig4", "fig5", "fig7", "fig8"))
    assert keys["fig5"] == keys["table5a"]
    assert keys["fig3"] <= keys["table3"]
    r_max = own.settings().adapter.r_max
    assert own.trial("PPO+DDIM/MLP", 42, {"adapter.r_max": r_max}).key == base
    assert own.trial("PPO+DDIM/MLP", 43).key != base


def test_methods_on_one_adapter_share_its_training() -> None:
    own = plan("quick", 1)
    trials = [trial for name in ("table3", "fig4", "fig7") for trial in experiments()[name].trials(own)]
    (adapter,) = own.adapter_trials(trials)
    assert adapter.num_steps == own.steps
    assert len(own.adapter_trials(experiments()["table4"].trials(own))) == 5


def test_variants_share_the_trials_in_which_the_paper_s_policies_do_not_learn() -> None:
    repaired, literal = plan(), replace(plan(), variant="literal")
    shared = {"AdaLoRA, r_max", "random", "best constant", "greedy", "allocate", "stream"}
    own = {"PPO", "DDIM", "PPO+DDPM", "PPO+DDIM/MLP", "PPO+DDIM/U-Net"}
    # Budgets of the others follow from the results of the paper's method.
    assert shared | own == METHODS.keys() - {"AdaLoRA", "LoRA", "rsLoRA"}
    for method in shared | own:
        assert (repaired.trials(method, 42) == literal.trials(method, 42)) == (method in shared)
    assert rate_trials(repaired) == rate_trials(literal)


def test_a_bound_of_the_scale_lowers_a_setting_and_never_raises_it() -> None:
    def unet(own: Plan) -> dict[str, Any]:
        found: dict[str, Any] = own.trial("PPO+DDIM/U-Net", 42).options["settings"]["diffusion"]
        return found

    repaired, literal = unet(plan()), unet(replace(plan(), variant="literal"))
    assert (repaired["updates_per_stage"], repaired["warmup_updates"]) == (4, 200)
    assert (literal["updates_per_stage"], literal["warmup_updates"]) == (4, 0)
    assert unet(plan("paper"))["updates_per_stage"] == 32


def test_only_trials_that_are_chosen_among_measure_the_calibration_samples() -> None:
    own = plan()
    assert all(trial.options["on_calibration"] for trial in own.trials("best constant", 42))
    assert not any("on_calibration" in own.trial(method, 42).options for method in METHODS if method != "best constant")


def test_the_best_constant_rank_is_chosen_on_the_calibration_samples() -> None:
    own = plan("standard", 1)
    trials = own.trials("best constant", 42)
    assert [trial.options["settings"]["policy"]["constant_rank"] for trial in trials] == [1, 2, 4, 8, 16]
    by_key = {trial.key: fake_result(trial) for trial in trials}
    for place, trial in enumerate(trials):
        by_key[trial.key]["calibration"] = [1.0, 1.0, 0.1 if place == 3 else 0.5, 1.0, 1.0]
        by_key[trial.key]["links"][2]["accuracy"] = place / 10
    assert Results(own, by_key).link(Arm("best constant"), 42)["accuracy"] == 0.3


def test_every_family_of_methods_tries_as_many_learning_rates_and_takes_the_best() -> None:
    own = plan()
    tuning = rate_trials(own)
    families = [family for family, _ in tuning]
    assert {families.count(family) for family in families} == {len(RATE_FACTORS)}
    results: dict[str, TrialResult] = {}
    for (family, factor), trial in tuning.items():
        loss = 0.1 if factor == RATE_FACTORS[2] else 0.9
        results[trial.key] = {"loss": loss if family != "lora" else 1.0 - loss}
    diverged = tuning["adalora", RATE_FACTORS[2]].key
    results[diverged] = {"loss": None, "error": "loss = nan"}
    tuned = choose_rates(own, results)
    others = dict.fromkeys(("changing ranks", "constant rank", "full rank", "rslora"), 3.0)
    assert tuned.rates == {"lora": RATE_FACTORS[0], "adalora": RATE_FACTORS[0], **others}
    changed = tuned.trial("AdaLoRA", 42).options["settings"]["finetune"]["adalora_learning_rate"]
    assert changed == pytest.approx(own.settings().finetune.adalora_learning_rate / 3)
    assert not rate_trials(plan("quick"))


def test_a_family_keeps_the_learning_rate_of_the_scale_until_all_its_trials_have_run() -> None:
    own = plan()
    (first, *others), lora = (
        [trial for (family, _), trial in rate_trials(own).items() if family == name] for name in ("lora", "rslora")
    )
    results: dict[str, TrialResult] = {trial.key: {"loss": 0.5} for trial in (*others, *lora)}
    assert choose_rates(own, results).rates.keys() == {"rslora"}
    assert choose_rates(own, results | {first.key: {"loss": 0.4}}).rates.keys() == {"lora", "rslora"}


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("table6", set()),
        ("table5a", {"changing ranks"}),
        ("table3", {"changing ranks", "constant rank", "full rank", "adalora", "lora", "rslora"}),
    ],
)
def test_only_the_learning_rates_that_a_table_uses_are_tuned(name: str, families: set[str], tmp_path: Path) -> None:
    rates = [line for line in dry_run(name, plan(), tmp_path) if line.kind == "rate"]
    assert sum(line.num_trials for line in rates) == len(RATE_FACTORS) * len(families)


def test_a_family_whose_training_diverges_at_every_rate_is_named() -> None:
    own = plan()
    results: dict[str, TrialResult] = {trial.key: {"loss": 0.5} for trial in rate_trials(own).values()}
    for factor in RATE_FACTORS:
        results[rate_trials(own)["rslora", factor].key] = {"loss": None, "error": "loss = nan at step 7"}
    with pytest.raises(
        TrainingError, match=r"^finetune.lora_learning_rate of rslora: .* at each of .* \(loss = nan at"
    ):
        choose_rates(own, results)
    tuned = choose_rates(own, results, required={"changing ranks"})
    assert tuned.rates.keys() == {"changing ranks", "constant rank", "full rank", "adalora", "lora"}


def test_adalora_and_lora_get_the_parameters_that_the_paper_s_method_sends_over_the_same_link() -> None:
    own = plan("standard", 2)
    assert all(is_pending(own.trial(method, 42)) for method in ("AdaLoRA", "LoRA", "rsLoRA"))
    assert not any(is_pending(own.trial(method, 42)) for method in ("AdaLoRA, r_max", AIRLLM, "stream"))
    results = faked(own, ["fig4"])
    for seed in own.seeds:
        for snr_db in SNRS_DB:
            (trial,) = results.plan.trials("AdaLoRA", seed, snrs_db=(snr_db,))
            sent = results.link(Arm(AIRLLM, snr_db=snr_db), seed)["num_params"]
            assert (trial.options["snr_db"], trial.options["budget"]) == (snr_db, sent)
    assert own.trial("AdaLoRA, r_max", 42).options["budget"] == "r_max"


def test_other_data_make_other_trials(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\ngood\t1\nbad\t0\n")
    first = Plan.make("quick", "repaired", data=str(tmp_path))
    (tmp_path / "train.tsv").write_text("text\tlabel\ngood\t1\nawful\t0\n")
    second = Plan.make("quick", "repaired", data=str(tmp_path))
    assert first.trial("PPO", 42).key != second.trial("PPO", 42).key
    (one,), (other,) = (own.adapter_trials([own.trial("PPO", 42)]) for own in (first, second))
    assert one.key != other.key


def test_a_literal_stage_visits_every_diffusion_step_once() -> None:
    literal = replace(plan(), variant="literal")
    diffusion = literal.trial(AIRLLM, 42, {"diffusion.num_train_timesteps": 600}).options["settings"]["diffusion"]
    assert (diffusion["num_train_timesteps"], diffusion["updates_per_stage"]) == (600, 600)
    for own, updates in ((literal, 600), (plan(), 32)):
        (timing, *_) = experiments()["table6"].trials(own)
        assert timing.options["settings"]["diffusion"]["updates_per_stage"] == updates


def test_a_small_model_has_the_communication_cost_of_the_papers_model() -> None:
    own = Plan.make("quick", "repaired")
    shapes = 6 * (4 * (384 + 384 + 1) + 2 * (384 + 1536 + 1))
    assert own.bandwidth_hz == pytest.approx(1e8 * shapes / OPT_PARAMS_PER_RANK)
    assert own.settings().data.name == "embedded"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "huge"}, "scale = 'huge': allowed is one of quick, standard, paper"),
        ({"variant": "exact"}, "variant = 'exact': allowed is one of literal, repaired"),
        ({"num_seeds": 0}, "seeds = 0: allowed is 1 to 1000"),
    ],
)
def test_bad_plans_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Plan.make(**{"scale": "quick", "variant": "repaired", **arguments})


def test_convergence_is_the_first_step_at_which_the_running_mean_reaches_a_level() -> None:
    steps = [float(step) for step in range(10, 110, 10)]
    rising = np.linspace(0.0, 1.0, 10)
    # The mean of points 4 to 8 is the first one above a half.
    assert steps_to_reach(steps, rising, 0.5) == 80.0
    assert steps_to_reach(steps, np.zeros(10), 0.5) == steps[-1]


def test_a_claim_on_a_method_that_the_scale_bounds_is_not_decidable() -> None:
    results = faked(plan(), ["table3"])
    change(results, Arm(AIRLLM), accuracy=[0.90, 0.91, 0.92], loss=[0.10, 0.11, 0.12])
    for method in ("PPO", "PPO+DDIM/U-Net"):
        change(results, Arm(method), accuracy=[0.60, 0.60, 0.62], loss=[0.50, 0.51, 0.51])
    verdicts = by_claim(experiments()["table3"].result(results))
    for measure in ("accuracy", "lower loss"):
        assert verdicts[f"PPO then DDIM beats PPO alone: {measure}"].verdict == "holds"
        bounded = verdicts[f"The MLP beats the U-Net: {measure}"]
        assert bounded.verdict == "not decidable here"
        assert bounded.interval is not None
        assert "PPO+DDIM/U-Net trains with fewer updates or steps at this scale: " in bounded.reason
        assert "diffusion.updates_per_stage 4 instead of 32" in bounded.reason
        assert " p " not in bounded.reason


def test_a_bound_that_lowers_no_setting_leaves_a_claim_decidable() -> None:
    unet = Arm("PPO+DDIM/U-Net")
    literal = replace(plan(), variant="literal")
    # As printed, there is no warm-up that the bound could lower.
    text = bounds_text(literal, unet)
    assert text is not None
    assert text.endswith("at this scale: diffusion.updates_per_stage 4 instead of 1000.")
    # A table that varies the setting replaces its bound.
    assert bounds_text(literal, Arm("PPO+DDIM/U-Net", {"diffusion.updates_per_stage": 1000})) is None
    assert bounds_text(plan(), Arm(AIRLLM), Arm("PPO")) is None
    assert bounds_text(plan("paper"), unet) is None


def test_claims_beyond_the_paper_are_judged_by_the_objective_alone() -> None:
    results = faked(plan(), ["table3"])
    change(results, Arm("allocate"), objective=[0.10, 0.11, 0.12], accuracy=[0.5, 0.5, 0.5])
    change(results, Arm(AIRLLM), objective=[0.50, 0.51, 0.50], accuracy=[0.9, 0.9, 0.9])
    verdicts = experiments()["table3"].result(results).verdicts
    own = {verdict.claim: verdict for verdict in verdicts if verdict.source == "airlora"}
    assert list(own) == [
        "PPO then DDIM beats random ranks: lower U + λη",
        "PPO then DDIM beats the best constant rank: lower U + λη",
        "The planner allocate beats PPO then DDIM: lower U + λη",
    ]
    assert own["The planner allocate beats PPO then DDIM: lower U + λη"].verdict == "holds"
    assert len(verdicts) == 13


def test_each_source_and_measure_has_its_own_correction() -> None:
    verdicts = by_claim(experiments()["table3"].result(faked(plan(), ["table3"])))
    # The claim on the bounded U-Net is not tested.
    for measure in ("accuracy", "lower loss"):
        assert "after the correction for 4 tests" in verdicts[f"PPO then DDIM beats PPO alone: {measure}"].reason
    assert (
        "after the correction for 3 tests"
        in verdicts["PPO then DDIM beats the best constant rank: lower U + λη"].reason
    )


@pytest.mark.parametrize(("name", "unit", "num_tests"), [("fig6", "", 2), ("fig8", "ranks", 6)])
def test_figures_state_the_number_of_their_tests(name: str, unit: str, num_tests: int) -> None:
    verdicts = experiments()[name].result(faked(plan(), [name])).verdicts
    own = [verdict for verdict in verdicts if verdict.unit == unit]
    assert len(own) == num_tests
    assert all(f"after the correction for {num_tests} tests" in verdict.reason for verdict in own)


def test_a_correction_covers_the_p_values_of_its_family_alone() -> None:
    results = faked(plan(), ["table3"])
    change(results, Arm(AIRLLM), accuracy=[0.90, 0.91, 0.92], objective=[0.1, 0.1, 0.1])
    change(results, Arm("PPO"), accuracy=[0.88, 0.88, 0.88], objective=[0.3, 0.2, 0.1])
    claims = [Claim("first", Arm(AIRLLM), Arm("PPO"), measures=("accuracy",))]
    alone = judge(results, claims)[0].reason
    others = [
        Claim("loss", Arm(AIRLLM), Arm("PPO"), measures=("loss",)),
        Claim("ours", Arm(AIRLLM), Arm("PPO"), source="airlora", measures=("accuracy",)),
        Claim("bounded", Arm(AIRLLM), Arm("PPO+DDIM/U-Net"), measures=("accuracy",)),
    ]
    assert judge(results, [*claims, *others])[0].reason == alone
    assert judge(results, [*claims, *claims])[0].reason != alone


def test_a_verdict_states_the_mean_costs_of_both_methods() -> None:
    results = faked(plan(), ["table3"])
    change(results, Arm(AIRLLM), cost=[0.92, 0.94, 0.96])
    change(results, Arm("PPO"), cost=[1.0, 1.1, 1.2])
    change(results, Arm("DDIM"), cost=[0.002, 0.003, 0.002])
    both = judge(results, [Claim("a", Arm(AIRLLM), Arm("PPO")), Claim("b", Arm(AIRLLM), Arm("DDIM"))])
    assert [verdict.reason[verdict.reason.index("η") :] for verdict in both] == [
        *["η .94 against 1.10."] * 2,
        *["η .94 against .0023."] * 2,
    ]


def test_convergence_on_a_grid_of_points_is_only_known_to_a_point() -> None:
    results = faked(plan(), ["fig3"])
    steps = [float(step) for step in range(10, 110, 10)]
    for method, first in ((AIRLLM, 0), ("PPO", 2), ("PPO+DDPM", 2)):
        curve = [[step, float(place >= first)] for place, step in enumerate(steps)]
        change(results, Arm(method), rewards=[curve] * 3)
    result = fig3.EXPERIMENT.result(results)
    # Every seed saves 1 - 50 / 70 of the steps, but a point is 10 of 70 steps.
    for verdict in result.verdicts:
        assert verdict.ours == pytest.approx(1 - 50 / 70)
        assert verdict.interval is not None
        assert verdict.interval[1] - verdict.interval[0] > 0.1
        assert verdict.unit == "%"
        assert "+28.6 %" in verdict.reason
        assert "after the correction for 2 tests" in verdict.reason
    assert result.verdicts[0].verdict == "not decidable here"
    assert saved_steps(steps, *(np.asarray([[float(k >= n) for k in range(10)]]) for n in (0, 2))).resolution == 1 / 7


def test_curves_that_still_rise_decide_nothing_about_convergence() -> None:
    results = faked(plan(), ["fig3"])
    early = [[10.0 * place, 1.0] for place in range(1, 11)]
    rising = [[10.0 * place, float(place)] for place in range(1, 11)]
    change(results, Arm(AIRLLM), rewards=[early, rising, early])
    change(results, Arm("PPO"), rewards=[early, rising, early])
    change(results, Arm("PPO+DDPM"), rewards=[early, early, early])
    first, second = fig3.EXPERIMENT.result(results).verdicts
    assert first.verdict == "not decidable here"
    assert "Neither curve reaches the level before the last quarter, which sets it, with seed 43." in first.reason
    assert "Neither curve" not in second.reason


def test_a_curve_reaches_its_own_last_quarter_within_that_quarter() -> None:
    steps = [float(step) for step in range(1, 41)]
    rising, early = np.arange(40.0)[None], np.full((1, 40), 100.0)
    assert steps_to_reach(steps, rising[0], float(rising[0, 30:].mean())) < steps[-1]
    assert saved_steps(steps, rising, rising).censored == [0]
    assert saved_steps(steps, early, rising).censored == []


def test_a_claim_against_several_settings_compares_with_their_mean() -> None:
    results = faked(plan(), ["fig7"])
    result = fig7.EXPERIMENT.result(results)
    accuracy, loss = result.verdicts
    means = {label: results.scores(fig7.SWEEP.arm(label)).mean() for label in fig7.SWEEP.settings if label != fig7.BEST}
    assert len(means) == 8
    best = results.scores(fig7.SWEEP.arm(fig7.BEST)).mean()
    assert accuracy.ours == pytest.approx(best - np.mean(list(means.values())))
    assert "Over evaluation sentences: " in accuracy.reason
    assert loss.unit == "nats"
    assert "95.30 %" in result.notes[0]


def test_schedules_are_compared_by_where_they_put_ranks() -> None:
    results = faked(plan(), ["fig8"])
    for label, slope in (("scaled-linear", 20), ("linear", 30), ("cosine", 40)):
        ranks = [
            {name: 200 - (slope + spread) * module["layer"] for name, module in MODULES.items()} for spread in (0, 1, 0)
        ]
        change(results, fig8.SWEEP.arm(label), ranks=ranks)
    verdicts = by_claim(fig8.EXPERIMENT.result(results))
    within = "The schedule scaled-linear gives lower layers a higher rank than upper layers"
    assert verdicts[within].verdict == "holds"
    against = verdicts[f"{within}, by more than linear and cosine on average"]
    assert against.verdict == "does not hold"
    assert against.ours is not None
    assert against.ours < 0
    assert "The schedule scaled-linear beats the mean of linear and cosine: accuracy" in verdicts
    assert sum("by more than linear and cosine on average" in claim for claim in verdicts) == 3


def test_a_module_that_a_layer_lacks_lowers_no_mean() -> None:
    results = faked(plan(), ["fig8"])
    for label in fig8.SWEEP.settings:
        change(results, fig8.SWEEP.arm(label), ranks=[dict.fromkeys(MODULES, 3)] * 3)
    result = fig8.EXPERIMENT.result(results)
    # The last layer has only q.
    assert {row["rank_o"] for row in result.rows} == {row["rank_layer_4"] for row in result.rows} == {3.0}
    assert by_claim(result)["The schedule scaled-linear gives o a higher rank than the mean module"].ours == 0.0


def test_a_model_with_one_layer_has_no_claim_on_lower_layers() -> None:
    results = faked(plan(), ["fig8"])
    for label in fig8.SWEEP.settings:
        modules = {name: module for name, module in MODULES.items() if module["layer"] == 0}
        change(results, fig8.SWEEP.arm(label), modules=[modules] * 3)
    claims = by_claim(fig8.EXPERIMENT.result(results))
    assert not any("lower layers" in claim for claim in claims)
    assert "The schedule scaled-linear gives o a higher rank than the mean module" in claims


def test_notes_say_what_every_method_trains() -> None:
    live, frozen = (
        " ".join(experiments()["fig4"].result(faked(own, ["fig4"])).notes) for own in (plan(), plan("quick", 1))
    )
    budget = "AdaLoRA is trained for the number of parameters that PPO+DDIM/MLP sends on the same link."
    for note in (live, frozen):
        assert budget in note
    assert "the best of 5 adapters of constant rank (1, 2, 4, 8 and 16)" in live
    assert "PPO+DDIM/MLP trains one adapter per seed" in live
    assert "All other methods choose their ranks on one adapter per seed" in frozen
    table = experiments()["table3"].result(faked(plan("quick", 1), ["table3"])).table
    assert table is not None
    assert f"AdaLoRA, LoRA and rsLoRA are{budget.removeprefix('AdaLoRA is')}" in table.notes[1]


def test_reward_figures_show_running_means() -> None:
    steps, means = running_mean([10.0, 20.0, 30.0, 40.0], np.asarray([[1.0, 2.0, 3.0, 10.0]]), 3)
    assert list(steps) == [30.0, 40.0]
    np.testing.assert_allclose(means, [[2.0, 5.0]])
    assert running_mean([10.0, 20.0], np.asarray([[1.0, 3.0]]), 5)[1].tolist() == [[2.0]]
