"""Kinds of trials: functions of options and seed that train or measure, and return plain values.

| kind | result |
|---|---|
| `adapter` | an adapter fine-tuned at full rank, in the cache |
| `frozen` | a policy that learns on such an adapter, measured on every link |
| `live` | a policy that chooses the ranks while the adapter is fine-tuned, measured on every link |
| `rate` | the loss of a learning rate on held-out training samples; None if it diverged |
| `best_constant` | the constant rank of lowest objective for every link, on such an adapter |
| `baseline` | PEFT's AdaLoRA, LoRA or rsLoRA at a budget of parameters |
| `stream` | prefixes of the packed adapter, one for every link |
| `timing` | seconds of a decision and of an episode |

A measurement on a link is a dictionary with `snr_db`, `accuracy`, `loss` (nats), `num_params`, `paper_num_params`,
`cost` (eta of Eq. 8), `objective` (Eq. 9), `mean_rank`, `ranks` by module name and `correct`, a digit per sentence.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from airlora.adapters import load_adapter
from airlora.channel import Link, transfer_time_s
from airlora.codec import decode_stream, describe, truncate
from airlora.env import AnalyticObjective, RankAllocationEnv
from airlora.errors import TrainingError
from airlora.files import make_folder
from airlora.packing import Packing, pack_adapter, predict_decoded
from airlora.policy import find_policy, load_policy
from airlora.progress import SilentProgress
from airlora.ranks import RankPattern, paper_num_params
from airlora.reproduce.trial import TrialKind, TrialResult
from airlora.settings.loading import validate
from airlora.tasks import Predictions, evaluate, pick_autocast, pick_device, predict
from airlora.training import (
    Algorithm1,
    RunContext,
    RunFolder,
    Settings,
    build_context,
    build_policy,
    decide_for_link,
    frozen_env,
    is_learner,
    load_settings,
    problem_of,
    read_metrics,
    reference_link,
    stream_header,
    train,
    train_baseline,
    with_values,
)
from airlora.training.policies import make_from_settings
from airlora.version import __version__

__all__ = ["KINDS", "adapter_settings", "settings_of"]

CURVE_POINTS = 40
"""Points of a reward curve: means over equal parts of the steps."""


def settings_of(options: Mapping[str, Any], seed: int) -> Settings:
    """Return the settings of a trial, from its option `settings` with all values, for one thread."""
    return validate(Settings, {**options["settings"], "seed": seed, "num_threads": 1})


def adapter_settings(settings: Settings) -> Settings:
    """Return the settings of the fine-tuning at full rank, which do not depend on link or policy."""
    default = load_settings("quick")
    own = {"policy.name": "constant", "policy.constant_rank": 1, "policy.steps": 0, "policy.early_stop": False}
    frozen = {"env.objective": "frozen", "env.frozen_batches": settings.env.frozen_batches}
    names = ("channel", "env", "policy", "ppo", "diffusion", "allocate", "cma")
    base = settings.model_copy(update={name: getattr(default, name) for name in names} | {"preset": "quick"})
    return with_values(base, own | frozen | {"env.frozen_batch_size": settings.env.frozen_batch_size})


def _adapter(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    return {"loss": _adapter_run(options, seed, cache, count_step).record().metrics["loss"]}


def _frozen(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    settings, context = _open_frozen(options, seed, cache)
    env = frozen_env(context, settings)
    policy = build_policy(settings, env, context)
    rewards: list[float] = []
    if is_learner(policy):
        # The seed of the fine-tuning would draw the same links again.
        algorithm = Algorithm1(
            env,
            policy,
            rollout_steps=settings.policy.rollout_steps,
            buffer_size=options["evaluations"],
            seed=settings.seed + 1,
        )
        while algorithm.num_steps < options["evaluations"]:
            rewards.append(_plain_reward(algorithm.step()))
            count_step()
    patterns = {link: decide_for_link(policy, env, link, context.eval.complexity()) for link in _links(settings)}
    return {
        "links": _measure(patterns, context, env, settings),
        "rewards": _thinned(rewards),
        "modules": _modules(context),
    }


@dataclass(frozen=True)
class _LiveRun:
    """A run that was fine-tuned at the ranks of a policy, and the ranks that this policy decides for every link."""

    folder: RunFolder
    settings: Settings
    context: RunContext
    env: RankAllocationEnv
    patterns: Mapping[Link, RankPattern]

    @classmethod
    def open(cls, options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> _LiveRun:
        settings = settings_of(options, seed)
        identity = ["live", settings.model_dump(mode="json"), options["data_digest"]]
        folder = _finished_run(settings, make_folder(cache / "runs") / _digest(identity), count_step)
        context = build_context(settings)
        load_adapter(context.adapted, folder.adapter_path)
        env = frozen_env(context, settings)
        is_file = folder.policy_path.exists() or find_policy(settings.policy.name).learns
        policy = load_policy(folder.policy_path, problem_of(env)) if is_file else build_policy(settings, env, context)
        patterns = {link: decide_for_link(policy, env, link, context.eval.complexity()) for link in _links(settings)}
        return cls(folder, settings, context, env, patterns)

    def measure(self, *, on_calibration: bool = False) -> list[dict[str, Any]]:
        """Return a measurement per link on the evaluation data or on the calibration samples."""
        context = replace(self.context, eval=self.context.calibration) if on_calibration else self.context
        return _measure(self.patterns, context, self.env, self.settings)


def _live(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    run = _LiveRun.open(options, seed, cache, count_step)
    rewards = [line["reward"] for line in read_metrics(run.folder.path) if line["kind"] == "finetune"]
    result = {"links": run.measure(), "rewards": _thinned(rewards), "modules": _modules(run.context)}
    if options.get("on_calibration"):
        result["calibration"] = [row["objective"] for row in run.measure(on_calibration=True)]
    return result


def _rate(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    try:
        if "method" in options:
            (row,) = _baseline({**options, "on_calibration": True}, seed, cache, count_step)["links"]
            return {"loss": row["loss"]}
        run = _LiveRun.open(options, seed, cache, count_step)
        # The ranks, and with them the cost terms, are equal for every learning rate.
        return {"loss": sum(row["objective"] for row in run.measure(on_calibration=True)) / len(run.patterns)}
    except TrainingError as error:
        return {"loss": None, "error": str(error)}


def _best_constant(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    settings, context = _open_frozen(options, seed, cache)
    env = frozen_env(context, settings)
    r_max = context.adapted.r_max
    candidates = sorted({0, r_max, *(2**power for power in range(r_max.bit_length()) if 2**power <= r_max)})
    losses = {}
    for rank in candidates:
        context.adapted.set_ranks(RankPattern.constant(context.adapted.shapes, rank))
        with pick_autocast(settings.finetune.precision, context.device)():
            losses[rank] = evaluate(context.adapted.model, context.calibration, context.device).loss
        count_step()
    patterns = {}
    for link in _links(settings):
        own = {rank: RankPattern.constant(env.shapes, rank) for rank in candidates}
        best = min(candidates, key=lambda rank: losses[rank] + _price(env, link, own[rank]))
        patterns[link] = own[best]
    return {"links": _measure(patterns, context, env, settings), "rewards": [], "modules": _modules(context)}


def _baseline(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:  # noqa: ARG001
    settings = settings_of(options, seed)
    context = build_context(settings)
    env = frozen_env(context, settings)
    link = Link(options["snr_db"], reference_link(settings.channel).bandwidth_hz)
    full = RankPattern.constant(env.shapes, settings.adapter.r_max).num_params(env.shapes)
    budgets = {"link": min(full, env.budget_params(env.capacity_bps(link))), "r_max": full}
    budget = max(1, budgets.get(options["budget"], options["budget"]))
    trained = train_baseline(
        settings,
        context.train,
        method=options["method"],
        budget_params=budget,
        steps=settings.finetune.steps,
        on_step=lambda _: count_step(),
    )
    held_out = context.calibration if options.get("on_calibration") else context.eval
    row = _row(env, settings, link, trained.rank_pattern, trained.predict(held_out), num_params=trained.num_params)
    return {"links": [row], "rewards": [], "modules": _modules(context)}


def _stream(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:
    settings, context = _open_frozen(options, seed, cache)
    env = frozen_env(context, settings)
    compute = settings.compute_options(context.device)
    context.adapted.set_ranks(RankPattern.constant(context.adapted.shapes, context.adapted.r_max))
    data = pack_adapter(
        context.adapted,
        stream_header(context.adapted, settings, context.fingerprint, context.task),
        Packing(),
        compute,
        calibration=context.calibration,
    )
    count_step()
    rows = []
    for link in _links(settings):
        carried = int(env.capacity_bps(link) * settings.channel.deadline_s / 8)
        prefix = truncate(data, max(carried, describe(data)["head_bytes"]))
        decoded = decode_stream(prefix)
        found = predict_decoded(context.adapted, decoded, context.eval, context.device, compute.eval_batch_size)
        row = _row(env, settings, link, decoded.rank_pattern, found)
        # The price of a stream is the airtime of its bytes.
        cost = 8 * len(prefix) / (env.capacity_bps(link) * settings.channel.deadline_s)
        objective = row["loss"] + settings.env.cost_weight * cost
        rows.append(row | {"cost": cost, "objective": objective, "payload_bytes": len(prefix)})
    return {"links": rows, "rewards": [], "modules": _modules(context)}


def _timing(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> TrialResult:  # noqa: ARG001
    """Time all numbers of inference steps in turn, so that a change of the machine's load affects all of them.

    On a CPU the time is that of the process, which other processes do not lengthen by taking its turn.
    """
    settings = settings_of(options, seed)
    clock = time.process_time if pick_device(settings.device).type == "cpu" else time.perf_counter
    objective = AnalyticObjective(num_layers=options["num_layers"], r_max=settings.adapter.r_max, seed=seed)
    loops: dict[int, Algorithm1] = {}
    for steps in options["inference_steps"]:
        own = with_values(settings, {"diffusion.num_inference_steps": steps})
        env = RankAllocationEnv(objective, channel=own.channel, env=own.env)
        policy = make_from_settings(own, problem_of(env))
        loops[steps] = Algorithm1(
            env,
            policy,
            rollout_steps=own.policy.rollout_steps,
            buffer_size=own.diffusion.buffer_size,
            seed=seed,
        )
        policy.decide(env.observe())  # the warm-up belongs to no episode
    seconds = {steps: {"decision_seconds": 0.0, "episode_seconds": 0.0} for steps in loops}
    for _ in range(settings.policy.rollout_steps):
        for steps, loop in loops.items():
            start = clock()
            loop.policy.decide(loop.env.observe())
            decided = clock()
            loop.step()
            seconds[steps]["decision_seconds"] += (decided - start) / settings.policy.rollout_steps
            seconds[steps]["episode_seconds"] += (
                (clock() - decided) * settings.env.episode_steps / settings.policy.rollout_steps
            )
        count_step()
    return {"seconds": {str(steps): own for steps, own in seconds.items()}}


KINDS: dict[str, TrialKind] = {
    "adapter": _adapter,
    "frozen": _frozen,
    "live": _live,
    "rate": _rate,
    "best_constant": _best_constant,
    "baseline": _baseline,
    "stream": _stream,
    "timing": _timing,
}
"""Functions that run trials, by kind."""


class _StepCounter(SilentProgress):
    """Reporter that calls a function once per step."""

    def __init__(self, count_step: Callable[[], None]) -> None:
        self._count_step = count_step

    def step(self, done: int, values: Mapping[str, Any]) -> None:  # noqa: ARG002
        self._count_step()


def _finished_run(settings: Settings, path: Path, count_step: Callable[[], None]) -> RunFolder:
    """Return the run of these settings in a folder of the cache, after training or resuming it if it is not finished.

    Its checkpoint is removed in the end: it is the largest file, and nothing needs it any more.
    """
    folder = RunFolder(path)
    with FileLock(f"{path}.lock"):
        if not folder.record_path.exists():
            is_resumable = folder.checkpoint_path.exists()
            if path.exists() and not is_resumable:
                # A process that was killed before its first checkpoint left no more than settings.
                shutil.rmtree(path)
            train(settings, path, resume=is_resumable, progress=_StepCounter(count_step))
        folder.checkpoint_path.unlink(missing_ok=True)
    return folder


def _adapter_run(options: Mapping[str, Any], seed: int, cache: Path, count_step: Callable[[], None]) -> RunFolder:
    """Return the run that is fine-tuned at full rank for the options of a trial."""
    settings = adapter_settings(settings_of(options, seed))
    identity = ["adapter", settings.model_dump(mode="json"), options["data_digest"]]
    return _finished_run(settings, make_folder(cache / "adapters") / _digest(identity), count_step)


def _open_frozen(options: Mapping[str, Any], seed: int, cache: Path) -> tuple[Settings, RunContext]:
    """Return the settings of a trial, and its context with the adapter loaded."""
    settings = settings_of(options, seed)
    folder = _adapter_run(options, seed, cache, lambda: None)
    context = build_context(settings)
    load_adapter(context.adapted, folder.adapter_path)
    return settings, context


def _links(settings: Settings) -> list[Link]:
    bandwidth_hz = reference_link(settings.channel).bandwidth_hz
    return [Link(snr_db, bandwidth_hz) for snr_db in settings.channel.snr_db]


def _measure(
    patterns: Mapping[Link, RankPattern], context: RunContext, env: RankAllocationEnv, settings: Settings
) -> list[dict[str, Any]]:
    """Return a measurement on the evaluation data per link; equal patterns are measured once."""
    known: dict[RankPattern, Predictions] = {}
    for pattern in patterns.values():
        if pattern not in known:
            context.adapted.set_ranks(pattern)
            with pick_autocast(settings.finetune.precision, context.device)():
                known[pattern] = predict(
                    context.adapted.model, context.eval, context.device, settings.finetune.eval_batch_size
                )
    return [_row(env, settings, link, pattern, known[pattern]) for link, pattern in patterns.items()]


def _row(
    env: RankAllocationEnv,
    settings: Settings,
    link: Link,
    pattern: RankPattern,
    found: Predictions,
    *,
    num_params: int | None = None,
) -> dict[str, Any]:
    evaluation = found.evaluation
    own = pattern.num_params(env.shapes) if num_params is None else num_params
    cost = _cost(env, link, own)
    correct = found.logits.argmax(dim=-1).numpy() == np.asarray(found.targets)
    return {
        "snr_db": link.snr_db,
        "accuracy": evaluation.values["accuracy"],
        "loss": evaluation.loss,
        "num_params": own,
        "paper_num_params": paper_num_params(pattern.ranks, env.hidden_size),
        "cost": cost,
        "objective": evaluation.loss + settings.env.cost_weight * cost,
        "mean_rank": float(np.mean(pattern.ranks)),
        "ranks": pattern.to_dict(),
        "correct": "".join("1" if right else "0" for right in correct),
    }


def _cost(env: RankAllocationEnv, link: Link, num_params: int) -> float:
    seconds = transfer_time_s(
        num_params + env.objective.head_params,
        capacity_bps=env.capacity_bps(link),
        bits_per_param=env.channel.bits_per_param,
    )
    return seconds / env.channel.deadline_s


def _price(env: RankAllocationEnv, link: Link, pattern: RankPattern) -> float:
    return env.settings.cost_weight * _cost(env, link, pattern.num_params(env.shapes))


def _plain_reward(record: Any) -> float:
    return float(record.info.get("plain_reward", record.reward))


def _thinned(values: Sequence[float]) -> list[list[float]]:
    """Return pairs (last step, mean value) of at most `CURVE_POINTS` equal parts."""
    parts = np.array_split(np.asarray(values, dtype=np.float64), min(CURVE_POINTS, len(values))) if values else []
    ends = np.cumsum([len(part) for part in parts])
    return [[float(end), float(part.mean())] for end, part in zip(ends, parts, strict=True)]


def _modules(context: RunContext) -> dict[str, dict[str, Any]]:
    return {site.name: {"role": site.role, "layer": site.layer} for site in context.adapted.sites}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps([__version__, content], sort_keys=True).encode()).hexdigest()[:20]
