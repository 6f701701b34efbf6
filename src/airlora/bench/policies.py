"""Benchmark of policies on synthetic problems at equal numbers of measured losses (`airlora policies --bench`)."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from airlora.bench.problems import PROBLEMS, stale_break_rate, unseen_contexts
from airlora.bench.regret import RegretEvaluator
from airlora.errors import CheckpointError, SettingsError
from airlora.files import make_folder, read_bytes, write_bytes
from airlora.policy import PolicyProblem, RandomPolicy, RankPolicy, find_policy, import_policy, policy_specs
from airlora.progress import ProgressReporter
from airlora.training import Algorithm1, Settings, is_learner, load_settings, problem_of, run_jobs
from airlora.training.policies import make_from_settings
from airlora.version import __version__

__all__ = ["BenchmarkPlan", "BenchmarkRecord", "benchmark_policies", "run_benchmark", "summarise"]

EVALUATION_POINTS = (500, 1_000, 2_000, 4_000, 8_000, 20_000, 50_000)
"""Numbers of measured losses at which the regret of a learner is evaluated."""

FIRST_SEED = 10
"""First seed of the landscapes. Default settings were tuned on smaller seeds and on 100 and 101."""

STALE_DOPPLER_HZ = 0.1
STALE_STEPS = 400


def benchmark_policies() -> tuple[str, ...]:
    """Return the names of the policies that the benchmark includes by default."""
    return tuple(name for name, spec in policy_specs().items() if "synthetic" in spec.benchmarks)


@dataclass(frozen=True)
class BenchmarkPlan:
    """The problems, policies and seeds of a benchmark.

    Args:
        problems: Keys of `PROBLEMS`.
        policies: Names of policies that need no measurement on a model. Classes `package.module:Class` are imported.
        evaluations: Number of losses that each learner may measure, 500 or more.
        num_seeds: Number of seeds, from `FIRST_SEED` on. A seed draws the landscape and seeds the learner.
        preset: Preset that the policies' settings are taken from. Its model, data, link and episodes are not used.

    Raises:
        SettingsError: A name is unknown or a number is out of range.
    """

    problems: tuple[str, ...] = tuple(PROBLEMS)
    policies: tuple[str, ...] = field(default_factory=benchmark_policies)
    evaluations: int = 20_000
    num_seeds: int = 3
    preset: str = "quick"

    def __post_init__(self) -> None:
        load_settings(self.preset)
        for problem in self.problems or ("",):
            if problem not in PROBLEMS:
                raise SettingsError.of("problem", problem, f"one of {', '.join(PROBLEMS)}")
        for policy in self.policies or ("",):
            if import_policy(policy).needs is not None:
                allowed = [name for name, spec in policy_specs().items() if spec.needs is None]
                raise SettingsError.of("policy.name", policy, f"one of {', '.join(allowed)} without --run")
        if self.evaluations < EVALUATION_POINTS[0]:
            raise SettingsError.of("evaluations", self.evaluations, f"{EVALUATION_POINTS[0]} or more")
        if self.num_seeds < 1:
            raise SettingsError.of("seeds", self.num_seeds, "1 or more")

    def seeds(self) -> range:
        """Return the seeds."""
        return range(FIRST_SEED, FIRST_SEED + self.num_seeds)

    def evaluation_points(self) -> tuple[int, ...]:
        """Return the numbers of measured losses at which learners are evaluated; the last one is `evaluations`."""
        return (*(point for point in EVALUATION_POINTS if point < self.evaluations), self.evaluations)


@dataclass(frozen=True)
class BenchmarkRecord:
    """Result of one policy on one landscape after a number of measured losses.

    Args:
        problem: Key of `PROBLEMS`.
        policy: Name of the policy.
        seed: Seed of the landscape and the learner.
        modules: Number of modules.
        evaluations: Number of losses measured so far; 0 for a policy that measures none.
        regret: Regret, 0 at the optimum and 1 at the best constant rank of every context.
        unseen_regret: Regret on links that did not occur during learning. None before the last evaluation point.
        deadline_breaks: Share of rank patterns that did not fit the link that they were chosen for.
        stale_breaks: Share of rank patterns that did not fit the link one block later. None before the last evaluation
            point.
        seconds: Duration of learning, s, on one core.
        fingerprint: Digest of airlora's version and the policy's settings. A run ignores records with another one.
    """

    problem: str
    policy: str
    seed: int
    modules: int
    evaluations: int
    regret: float
    unseen_regret: float | None
    deadline_breaks: float
    stale_breaks: float | None
    seconds: float
    fingerprint: str = ""


_RECORD = TypeAdapter(BenchmarkRecord)


def run_benchmark(
    plan: BenchmarkPlan, out: Path | str, *, num_processes: int, watcher: ProgressReporter
) -> list[BenchmarkRecord]:
    """Return a record per problem, policy, seed and evaluation point.

    Records of an earlier run in `out` are reused if their learner had the same settings and version of airlora and at
    least as many evaluations. All other learners start anew.

    Args:
        plan: Problems, policies and seeds.
        out: Folder of `records.jsonl`.
        num_processes: Number of concurrent processes with one thread each.
        watcher: Receives the progress.

    Raises:
        CheckpointError: `records.jsonl` is damaged.
        TrainingError: A process was killed.
    """
    path = make_folder(out) / "records.jsonl"
    fingerprints = {policy: _fingerprint(_settings(policy, 0, plan.preset)) for policy in plan.policies}
    records = [r for r in _read(path) if r.fingerprint == fingerprints.get(r.policy, r.fingerprint)]
    done = {(r.problem, r.policy, r.seed) for r in records if not 0 < r.evaluations < plan.evaluations}
    todo = [
        (problem, policy, seed)
        for problem in plan.problems
        for policy in plan.policies
        for seed in plan.seeds()
        if (problem, policy, seed) not in done
    ]
    total = sum(plan.evaluations for _, policy, _ in todo if find_policy(policy).learns)
    watcher.phase("benchmarking policies", total)

    def keep(index: int, found: list[BenchmarkRecord]) -> None:
        # An interrupted job leaves no records; records with fewer evaluations are replaced.
        records[:] = [r for r in records if (r.problem, r.policy, r.seed) != todo[index]] + found
        write_bytes(path, "".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
        watcher.show({"last": "{}, {}".format(*todo[index]), "regret": found[-1].regret})

    jobs = [partial(_evaluate_policy, *job, plan.preset, plan.evaluation_points()) for job in todo]
    run_jobs(jobs, num_processes, on_step=lambda step: watcher.step(step, {}), on_result=keep)
    wanted = {(problem, policy) for problem in plan.problems for policy in plan.policies}
    return [r for r in records if (r.problem, r.policy) in wanted and r.seed in plan.seeds()]


def summarise(records: Sequence[BenchmarkRecord]) -> list[dict[str, Any]]:
    """Return a dictionary per problem, policy and evaluation point.

    Values are means over seeds. `spread` is the standard deviation of the regret, 0 for one seed.
    """
    groups: dict[tuple[str, str, int], list[BenchmarkRecord]] = {}
    for record in records:
        groups.setdefault((record.problem, record.policy, record.evaluations), []).append(record)
    return [
        {
            "policy": policy,
            "modules": group[0].modules,
            "evaluations": evaluations,
            "regret": statistics.fmean(r.regret for r in group),
            "spread": statistics.stdev(r.regret for r in group) if len(group) > 1 else 0.0,
            "problem": problem,
            "seeds": len(group),
            "unseen_regret": _mean_of([r.unseen_regret for r in group]),
            "deadline_breaks": statistics.fmean(r.deadline_breaks for r in group),
            "stale_breaks": _mean_of([r.stale_breaks for r in group]),
            "seconds": statistics.fmean(r.seconds for r in group),
        }
        for (problem, policy, evaluations), group in groups.items()
    ]


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _evaluate_policy(
    key: str, name: str, seed: int, preset: str, points: tuple[int, ...], count_step: Callable[[], None]
) -> list[BenchmarkRecord]:
    # A process of its own knows no classes that the parent process imported.
    import_policy(name)
    problem = PROBLEMS[key]
    env = problem.make(seed)
    settings = _settings(name, seed, preset)
    seen, unseen = RegretEvaluator(env), RegretEvaluator(problem.make(seed), unseen_contexts(env))
    policy = _make(problem_of(env), settings)

    def record(evaluations: int, seconds: float, *, last: bool) -> BenchmarkRecord:
        regret = seen.regret(policy.decide)
        return BenchmarkRecord(
            problem=key,
            policy=name,
            seed=seed,
            modules=problem.num_modules,
            evaluations=evaluations,
            regret=regret.value,
            unseen_regret=unseen.regret(policy.decide).value if last else None,
            deadline_breaks=regret.num_deadline_breaks / regret.num_contexts,
            stale_breaks=(
                stale_break_rate(policy, problem.make(seed), correlation_hz=STALE_DOPPLER_HZ, num_steps=STALE_STEPS)
                if last
                else None
            ),
            seconds=seconds,
            fingerprint=_fingerprint(settings),
        )

    if not is_learner(policy):
        return [record(0, 0.0, last=True)]
    algorithm = Algorithm1(env, policy, rollout_steps=settings.policy.rollout_steps, buffer_size=points[-1], seed=seed)
    records, seconds = [], 0.0
    for point in points:
        start = time.perf_counter()
        while algorithm.num_steps < point:
            algorithm.step()
            count_step()
        seconds += time.perf_counter() - start
        records.append(record(point, seconds, last=point == points[-1]))
    return records


def _settings(name: str, seed: int, preset: str) -> Settings:
    return load_settings(preset, overrides={"policy.name": name, "seed": seed})


def _fingerprint(settings: Settings) -> str:
    sections = settings.model_dump_json(include={"policy", "ppo", "diffusion", "allocate", "cma"})
    module = inspect.getmodule(find_policy(settings.policy.name).policy)
    source = ""
    # The version of airlora says nothing about the code of other packages.
    if module is not None and not module.__name__.startswith("airlora."):
        with contextlib.suppress(OSError, TypeError):
            source = inspect.getsource(module)
    return hashlib.sha256(f"{__version__} {sections}{source}".encode()).hexdigest()[:16]


def _make(problem: PolicyProblem, settings: Settings) -> RankPolicy:
    if find_policy(settings.policy.name).policy is RandomPolicy:
        # Ranks that are drawn without regard to the budget would be reduced to it. Filling it is a stronger baseline.
        return RandomPolicy(problem, seed=settings.seed, fit_to_budget=True)
    return make_from_settings(settings, problem)


def _read(path: Path) -> list[BenchmarkRecord]:
    if not path.exists():
        return []
    lines = read_bytes(path, "records of a benchmark", CheckpointError).decode(errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_RECORD.validate_json(line))
        except ValidationError as error:
            raise CheckpointError(f"{path}: damaged in line {number}; delete it to start anew") from error
    return records
