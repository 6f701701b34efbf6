import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airlora.bench.policies import (
    EVALUATION_POINTS,
    FIRST_SEED,
    BenchmarkPlan,
    BenchmarkRecord,
    benchmark_policies,
    run_benchmark,
    summarise,
)
from airlora.errors import CheckpointError, SettingsError
from airlora.policy import RandomPolicy, policy_specs
from airlora.progress import SilentProgress

PLAN = BenchmarkPlan(("separable-36",), ("random", "cmaes", "ppo"), evaluations=500, num_seeds=1)
CHEAP = replace(PLAN, policies=("random", "cmaes"))


class Recorder(SilentProgress):
    """Records the length of every phase and all steps."""

    def __init__(self) -> None:
        self.totals: list[int] = []
        self.steps: list[int] = []

    def phase(self, title: str, total: int, done: int = 0) -> None:
        self.totals.append(total)

    def step(self, done: int, values: Any) -> None:
        self.steps.append(done)


def benchmark(plan: BenchmarkPlan, out: Path, num_processes: int = 1) -> list[BenchmarkRecord]:
    return run_benchmark(plan, out, num_processes=num_processes, watcher=SilentProgress())


def without_time(records: list[BenchmarkRecord]) -> list[BenchmarkRecord]:
    return [replace(record, seconds=0.0) for record in records]


def record(policy: str = "ppo", **values: Any) -> BenchmarkRecord:
    base: dict[str, Any] = {
        "problem": "separable-36",
        "policy": policy,
        "seed": 0,
        "modules": 36,
        "evaluations": 500,
        "regret": 0.5,
        "unseen_regret": None,
        "deadline_breaks": 0.0,
        "stale_breaks": None,
        "seconds": 1.0,
    }
    return BenchmarkRecord(**base | values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BenchmarkRecord], Recorder]:
    """A finished benchmark of three policies."""
    out, watcher = tmp_path_factory.mktemp("bench"), Recorder()
    return out, run_benchmark(PLAN, out, num_processes=1, watcher=watcher), watcher


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"policies": ("ppo", "magic")}, ["policy.name = 'magic'", *benchmark_policies()]),
        ({"policies": ("greedy",)}, ["policy.name = 'greedy'", "allocate"]),
        ({"policies": ()}, ["policy.name = ''", "allocate"]),
        (
            {"problems": ("separable-7",)},
            ["problem = 'separable-7'", "separable-36, noisy-36, interacting-36, separable-144"],
        ),
        ({"problems": ()}, ["problem = ''", "separable-36"]),
        ({"evaluations": 499}, ["evaluations = 499", "500 or more"]),
        ({"evaluations": -1}, ["evaluations = -1", "500 or more"]),
        ({"num_seeds": 0}, ["seeds = 0", "1 or more"]),
    ],
)
def test_a_plan_with_unknown_names_or_numbers_out_of_range_is_refused(values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        BenchmarkPlan(**values)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_by_default_all_policies_without_measurements_on_a_model_are_compared() -> None:
    plan = BenchmarkPlan()
    assert plan.policies == benchmark_policies()
    assert set(policy_specs()) - set(plan.policies) == {"greedy", "eva", "constant"}


@pytest.mark.parametrize(
    ("evaluations", "points"),
    [(500, (500,)), (501, (500, 501)), (2_000, (500, 1_000, 2_000)), (4_500, (500, 1_000, 2_000, 4_000, 4_500))],
)
def test_learners_are_evaluated_at_points_on_the_way_and_at_the_end(evaluations: int, points: tuple[int, ...]) -> None:
    assert BenchmarkPlan(evaluations=evaluations).evaluation_points() == points
    assert BenchmarkPlan(evaluations=10**6).evaluation_points() == (*EVALUATION_POINTS, 10**6)


def test_a_benchmark_writes_a_record_per_policy_and_evaluation_point(
    finished: tuple[Path, list[BenchmarkRecord], Recorder],
) -> None:
    out, records, watcher = finished
    assert [(r.policy, r.evaluations) for r in records] == [("random", 0), ("cmaes", 500), ("ppo", 500)]
    for r in records:
        assert (r.problem, r.modules, r.seed) == ("separable-36", 36, FIRST_SEED)
        assert r.regret > 0.0
        assert r.unseen_regret is not None
        assert r.unseen_regret > 0.0
        assert r.stale_breaks is not None
        assert 0.0 < r.stale_breaks < 1.0
        assert 0.0 <= r.deadline_breaks <= 1.0
    # Random fills each budget and breaks none, and takes no time to learn.
    assert records[0].deadline_breaks == 0.0
    assert records[0].seconds == 0.0
    assert min(r.seconds for r in records[1:]) > 0.0
    assert watcher.totals == [1_000]
    assert watcher.steps == list(range(1, 1_001))
    lines = (out / "records.jsonl").read_text().splitlines()
    assert [BenchmarkRecord(**json.loads(line)) for line in lines] == records


def test_finished_records_are_reused(finished: tuple[Path, list[BenchmarkRecord], Recorder]) -> None:
    out, records, _ = finished
    path = out / "records.jsonl"
    before = path.read_bytes(), path.stat().st_mtime_ns
    watcher = Recorder()
    assert run_benchmark(PLAN, out, num_processes=1, watcher=watcher) == records
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert (watcher.totals, watcher.steps) == ([0], [])
    # Part of it is what it was, too.
    assert benchmark(replace(PLAN, policies=("ppo",)), out) == records[2:]
    assert path.read_bytes() == before[0]


def test_records_of_other_settings_are_ignored(
    finished: tuple[Path, list[BenchmarkRecord], Recorder], tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (finished[0] / "records.jsonl").read_text().splitlines()]
    others = [line | {"fingerprint": "another", "regret": 0.123} for line in lines]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in others))
    again = run_benchmark(PLAN, tmp_path, num_processes=1, watcher=Recorder())
    assert sorted(record.regret for record in again) == sorted(line["regret"] for line in lines)
    assert "another" not in (tmp_path / "records.jsonl").read_text()


def test_a_seed_gives_the_same_records_in_another_folder_and_process(
    finished: tuple[Path, list[BenchmarkRecord], Recorder], tmp_path: Path
) -> None:
    again = benchmark(CHEAP, tmp_path, num_processes=2)
    key = {r.policy: r for r in without_time(again)}
    assert [key[r.policy] for r in without_time(finished[1])[:2]] == without_time(finished[1])[:2]


def test_an_interrupted_benchmark_runs_only_the_missing_jobs(
    finished: tuple[Path, list[BenchmarkRecord], Recorder], tmp_path: Path
) -> None:
    lines = (finished[0] / "records.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "records.jsonl").write_text(lines[0] + lines[2])
    watcher = Recorder()
    records = run_benchmark(PLAN, tmp_path, num_processes=1, watcher=watcher)
    assert watcher.totals == [500]
    assert sorted(without_time(records), key=str) == sorted(without_time(finished[1]), key=str)


def test_records_with_more_evaluations_replace_those_with_fewer(
    finished: tuple[Path, list[BenchmarkRecord], Recorder], tmp_path: Path
) -> None:
    (tmp_path / "records.jsonl").write_bytes((finished[0] / "records.jsonl").read_bytes())
    plan = replace(CHEAP, policies=("cmaes",), evaluations=600)
    longer = benchmark(plan, tmp_path)
    assert [r.evaluations for r in longer] == [500, 600]
    # What a mark on the way does not have, the last one has.
    assert longer[0].unseen_regret is longer[0].stale_breaks is None
    assert None not in (longer[1].unseen_regret, longer[1].stale_breaks)
    assert longer[0].regret == finished[1][1].regret
    # The others' records are still there, and hours of learning are not lost to a shorter bench.
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 4
    assert benchmark(replace(plan, evaluations=550), tmp_path) == longer


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: "foreign\n" + text,
        lambda text: text.replace('"regret"', '"regrets"'),
        lambda text: text.replace(f'"seed": {FIRST_SEED}', '"seed": "ten"'),
        lambda text: "[]\n",
        lambda text: text.replace("{", "\x00"),
    ],
)
def test_damaged_records_are_refused(
    change: Any, finished: tuple[Path, list[BenchmarkRecord], Recorder], tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(change((finished[0] / "records.jsonl").read_text()))
    damaged = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"records\.jsonl: damaged in line \d; delete it to start anew") as caught:
        benchmark(PLAN, tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


def test_the_summary_holds_means_and_standard_deviations_over_seeds() -> None:
    records = [
        record(seed=0, regret=0.2, unseen_regret=0.3, stale_breaks=0.5, deadline_breaks=0.0, seconds=2.0),
        record(seed=1, regret=0.4, unseen_regret=0.5, stale_breaks=0.1, deadline_breaks=0.5, seconds=4.0),
        record(seed=2, regret=0.9, unseen_regret=0.7, stale_breaks=0.3, deadline_breaks=0.1, seconds=9.0),
    ]
    (row,) = summarise(records)
    # (0.3^2 + 0.1^2 + 0.4^2) / 2 = 0.13
    expected = {"regret": 0.5, "spread": 0.13**0.5, "unseen_regret": 0.5, "stale_breaks": 0.3, "deadline_breaks": 0.2}
    for key, value in (expected | {"seconds": 5.0}).items():
        assert row[key] == pytest.approx(value), key
    assert (row["problem"], row["policy"], row["modules"]) == ("separable-36", "ppo", 36)
    assert (row["evaluations"], row["seeds"]) == (500, 3)


def test_the_summary_has_a_row_per_problem_policy_and_evaluation_point() -> None:
    records = [
        record(seed=seed, problem=problem, policy=policy, evaluations=evaluations, regret=0.1 * (seed + 1))
        for problem in ("separable-36", "interacting-36")
        for policy in ("ppo", "cmaes")
        for evaluations in (500, 1_000)
        for seed in range(2)
    ]
    rows = summarise(records)
    assert len({(row["problem"], row["policy"], row["evaluations"]) for row in rows}) == len(rows) == 8
    assert [row["regret"] for row in rows] == pytest.approx([0.15] * 8)
    assert {row["unseen_regret"] for row in rows} == {None}
    assert summarise([]) == []


def test_one_seed_has_no_spread() -> None:
    assert summarise([record()])[0]["spread"] == 0.0


def test_the_preset_is_that_of_the_policies_settings_and_part_of_their_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(
        "airlora.bench.policies._make",
        lambda problem, settings: made.append(settings.ppo.gamma) or RandomPolicy(problem, seed=0),
    )

    def run(preset: str) -> list[BenchmarkRecord]:
        plan = BenchmarkPlan(("separable-36",), ("random",), evaluations=500, num_seeds=1, preset=preset)
        return run_benchmark(plan, tmp_path, num_processes=1, watcher=SilentProgress())

    quick, paper = run("quick"), run("paper-literal")
    assert {record.fingerprint for record in quick}.isdisjoint(record.fingerprint for record in paper)
    # The records of another preset are not reused.
    assert len(quick) == len(paper) == len((tmp_path / "records.jsonl").read_text().splitlines()) == 1
    assert made == [0.0, 0.95]
    with pytest.raises(SettingsError, match="preset = 'slow': allowed is one of paper, paper-literal"):
        BenchmarkPlan(preset="slow")
