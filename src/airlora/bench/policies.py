"""Every policy on every problem at equal numbers of measured losses (`airlora policies --bench`)."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from airlora.bench.problems import PROBLEMS, stale_break_rate, unseen_contexts
from airlora.bench.regret import Judge
from airlora.errors import CheckpointError, SettingsError
from airlora.files import make_folder, read_bytes, write_bytes
from airlora.policy import RECIPES, RandomPolicy, RankPolicy, make_policy
from airlora.progress import ProgressReporter
from airlora.training import Algorithm1, Settings, is_learner, load_settings, problem_of, run_jobs
from airlora.version import __version__

__all__ = ["BENCH_POLICIES", "MARKS", "BenchPlan", "BenchRecord", "run_bench", "summarise"]

BENCH_POLICIES = tuple(name for name, recipe in RECIPES.items() if name not in ("greedy", "eva", "constant"))
"""Policies that need no trained adapter; the best constant rank is regret 1 by definition."""

MARKS = (500, 1_000, 2_000, 4_000, 8_000, 20_000, 50_000)
"""Numbers of evaluations at which learners are judged on their way."""

FIRST_SEED = 10
"""Defaults were tuned on the landscapes of smaller seeds and of 100 and 101; those here had no part in it."""

STALE_DOPPLER_HZ = 0.1
STALE_STEPS = 400


@dataclass(frozen=True)
class BenchPlan:
    """What is to be compared.

    Args:
        problems: Keys of `PROBLEMS`.
        policies: Of `BENCH_POLICIES`.
        evaluations: Measured losses that each learner gets.
        num_seeds: Landscapes, and seeds of the learners, from `FIRST_SEED` on.

    Raises:
        SettingsError: An unknown name, or a number out of range.
    """

    problems: tuple[str, ...] = tuple(PROBLEMS)
    policies: tuple[str, ...] = BENCH_POLICIES
    evaluations: int = 20_000
    num_seeds: int = 3

    def __post_init__(self) -> None:
        for kind, names, known in (("problem", self.problems, PROBLEMS), ("policy", self.policies, BENCH_POLICIES)):
            if not names:
                raise SettingsError.of(kind, "", f"one of {', '.join(known)}")
            for name in names:
                if name not in known:
                    raise SettingsError.of(kind, name, f"one of {', '.join(known)}")
        if self.evaluations < MARKS[0]:
            raise SettingsError.of("evaluations", self.evaluations, f"{MARKS[0]} or more")
        if self.num_seeds < 1:
            raise SettingsError.of("seeds", self.num_seeds, "1 or more")

    def seeds(self) -> range:
        """Return the seeds."""
        return range(FIRST_SEED, FIRST_SEED + self.num_seeds)

    def marks(self) -> tuple[int, ...]:
        """Return when learners are judged."""
        return (*(mark for mark in MARKS if mark < self.evaluations), self.evaluations)


@dataclass(frozen=True)
class BenchRecord:
    """One policy on one landscape after some evaluations.

    Args:
        problem: Key of `PROBLEMS`.
        policy: Its name.
        seed: Of landscape and learner.
        modules: How many.
        evaluations: Losses measured so far; 0 for a policy that measures none.
        regret: 0 at the optimum, 1 at the best constant rank of every context.
        unseen_regret: The same on links that were never met; none before the last mark.
        deadline_breaks: Share of patterns that did not fit the link that they were chosen for.
        stale_breaks: Share that did not fit the link a block later; none before the last mark.
        seconds: Of learning, on one core of whatever machine it was.
        fingerprint: Of airlora's version and the learner's settings; a record of others does not count.
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


_RECORD = TypeAdapter(BenchRecord)


def run_bench(plan: BenchPlan, out: Path | str, *, num_processes: int, watcher: ProgressReporter) -> list[BenchRecord]:
    """Return a record per problem, policy, seed and mark; what `out` holds of an earlier run is not run again.

    That goes for every learner that had as many evaluations or more, with the same settings and version of airlora;
    any other starts anew.

    Args:
        plan: What to compare.
        out: Folder of `records.jsonl`.
        num_processes: How many jobs at once, one thread each.
        watcher: Is told of the progress.

    Raises:
        CheckpointError: `records.jsonl` is damaged.
        TrainingError: A process was killed.
    """
    path = make_folder(out) / "records.jsonl"
    fingerprints = {policy: _fingerprint(_settings(policy, 0)) for policy in plan.policies}
    records = [r for r in _read(path) if r.fingerprint == fingerprints.get(r.policy, r.fingerprint)]
    done = {(r.problem, r.policy, r.seed) for r in records if not 0 < r.evaluations < plan.evaluations}
    todo = [
        (problem, policy, seed)
        for problem in plan.problems
        for policy in plan.policies
        for seed in plan.seeds()
        if (problem, policy, seed) not in done
    ]
    watcher.phase("learning and judging", sum(plan.evaluations for _, policy, _ in todo if RECIPES[policy].learns))

    def keep(index: int, found: list[BenchRecord]) -> None:
        # An interrupted job leaves nothing behind; one of fewer evaluations is replaced.
        records[:] = [r for r in records if (r.problem, r.policy, r.seed) != todo[index]] + found
        write_bytes(path, "".join(json.dumps(asdict(record)) + "\n" for record in records).encode())
        watcher.show({"last": "{}, {}".format(*todo[index]), "regret": found[-1].regret})

    jobs = [partial(_judge_one, *job, plan.marks()) for job in todo]
    run_jobs(jobs, num_processes, on_step=lambda step: watcher.step(step, {}), on_result=keep)
    wanted = {(problem, policy) for problem in plan.problems for policy in plan.policies}
    return [r for r in records if (r.problem, r.policy) in wanted and r.seed in plan.seeds()]


def summarise(records: Sequence[BenchRecord]) -> list[dict[str, Any]]:
    """Return a dict per problem, policy and mark: means over seeds, and `spread`, the standard deviation of regret."""
    groups: dict[tuple[str, str, int], list[BenchRecord]] = {}
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


def _judge_one(
    key: str, name: str, seed: int, marks: tuple[int, ...], count_step: Callable[[], None]
) -> list[BenchRecord]:
    problem = PROBLEMS[key]
    env = problem.make(seed)
    settings = _settings(name, seed)
    judge, unseen = Judge(env), Judge(problem.make(seed), unseen_contexts(env))
    policy = _make(name, problem_of(env), settings)

    def record(evaluations: int, seconds: float, *, last: bool) -> BenchRecord:
        regret = judge.regret(policy.decide)
        return BenchRecord(
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
    algorithm = Algorithm1(env, policy, rollout_steps=settings.policy.rollout_steps, buffer_size=marks[-1], seed=seed)
    records, seconds = [], 0.0
    for mark in marks:
        start = time.perf_counter()
        while algorithm.num_steps < mark:
            algorithm.step()
            count_step()
        seconds += time.perf_counter() - start
        records.append(record(mark, seconds, last=mark == marks[-1]))
    return records


def _settings(name: str, seed: int) -> Settings:
    return load_settings("quick", overrides={"policy.name": name, "seed": seed})


def _fingerprint(settings: Settings) -> str:
    sections = settings.model_dump_json(include={"policy", "ppo", "diffusion", "allocate", "cma"})
    return hashlib.sha256(f"{__version__} {sections}".encode()).hexdigest()[:16]


def _make(name: str, problem: Any, settings: Settings) -> RankPolicy:
    if name == "random":
        # Any rank of any module would be cut to the budget; filling it at random is the stronger baseline.
        return RandomPolicy(problem, seed=settings.seed, fit_to_budget=True)
    return make_policy(
        name,
        problem,
        seed=settings.seed,
        ppo=settings.ppo,
        diffusion=settings.diffusion,
        allocate=settings.allocate,
        cma=settings.cma,
    )


def _read(path: Path) -> list[BenchRecord]:
    if not path.exists():
        return []
    lines = read_bytes(path, "records of a bench", CheckpointError).decode(errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_RECORD.validate_json(line))
        except ValidationError as error:
            raise CheckpointError(f"{path}: damaged in line {number}; delete it to start anew") from error
    return records
