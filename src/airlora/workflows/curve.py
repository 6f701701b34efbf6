"""Measurement of a curve of accuracy against bytes: choice of learning rates, jobs, storage of their points."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter, ValidationError

from airlora.errors import CheckpointError, SettingsError, TrainingError
from airlora.files import make_folder, read_bytes, read_json, write_bytes, write_json
from airlora.progress import ProgressReporter, SilentProgress
from airlora.reports.curve_points import PEFT_METHODS, CurvePoint
from airlora.training import (
    BASELINE_BITS,
    FEW_PARAMETER_METHODS,
    PeftMethod,
    RunFolder,
    Settings,
    build_context,
    measure_few_parameters,
    measure_peft_baseline,
    num_processes,
    run_jobs,
    with_values,
)
from airlora.workflows.curve_jobs import (
    RANK_METHODS,
    CurvePlan,
    count_steps,
    fingerprint_of,
    list_jobs,
    measure_job,
    peft_sizes,
)

__all__ = ["run_curve"]

log = logging.getLogger(__name__)

_RATE_FACTORS = (1 / 3, 1.0, 3.0)
"""Tried learning rates of `RANK_METHODS`, relative to the setting."""

_POINT = TypeAdapter(CurvePoint)


def run_curve(
    runs: Sequence[Path | str], plan: CurvePlan, out: Path | str, *, watcher: ProgressReporter | None = None
) -> list[CurvePoint]:
    """Return the points of all runs. Points that `out` holds from an earlier call are not measured again.

    Args:
        runs: Folders of finished runs with the same model and data, one per seed. Requires their data.
        plan: Methods and sizes to measure.
        out: Folder of `points.jsonl`.
        watcher: Receiver of the progress.

    Raises:
        AirloraError: A run is not finished, its data are missing, or `points.jsonl` is damaged.
    """
    watcher = watcher or SilentProgress()
    for run in runs:
        RunFolder(run).record()
        with_values(RunFolder(run).settings(), plan.overrides)
    _verify_alike([str(run) for run in runs])
    path = make_folder(out) / "points.jsonl"
    # Damaged points and missing data are refused before anything is trained.
    _read(path)
    if plan.data is not None:
        first = RunFolder(runs[0])
        first.record().task.read(first.settings().data, plan.data)
    plan = replace(plan, rates=_tuned_rates(str(runs[0]), plan, Path(out) / "rates.json", watcher))
    jobs = [
        (run, job, fingerprint_of(RunFolder(run), plan, job)) for run in map(str, runs) for job in list_jobs(plan, run)
    ]
    current = {(run, job): fingerprint for run, job, fingerprint in jobs}
    # Points of other runs and jobs stay; points of these jobs with other settings are dropped.
    points = [p for p in _read(path) if current.get((p.run, p.job), p.fingerprint) == p.fingerprint]
    done = {(point.run, point.job) for point in points}
    todo = [job for job in jobs if (job[0], job[1]) not in done]
    log.info("%s: %d of %d jobs are measured already", path, len(jobs) - len(todo), len(jobs))
    watcher.phase("measuring", sum(count_steps(run, plan, job) for run, job, _ in todo))

    def keep(index: int, found: list[CurvePoint]) -> None:
        points.extend(replace(point, fingerprint=todo[index][2]) for point in found)
        write_bytes(path, "".join(json.dumps(asdict(point)) + "\n" for point in points).encode())
        watcher.show({"last": f"{todo[index][1]} of {todo[index][0]}"})

    run_jobs(
        [partial(measure_job, run, plan, job) for run, job, _ in todo],
        num_processes(RunFolder(runs[0]).settings()),
        on_step=lambda step: watcher.step(step, {}),
        on_result=keep,
    )
    order = {(run, job): index for index, (run, job, _) in enumerate(jobs)}
    wanted = [point for point in points if (point.run, point.job) in current]
    return sorted(wanted, key=lambda point: (order[point.run, point.job], point.payload_bytes))


def _tuned_rates(run: str, plan: CurvePlan, path: Path, watcher: ProgressReporter) -> dict[str, float]:
    """Return the learning rate of every method of PEFT in the plan.

    Each method tries three rates at one size on the first run. The best one has the least loss on the calibration
    samples, which no method is trained on. Tries are kept in `rates.json`.
    """
    settings = with_values(RunFolder(run).settings(), plan.overrides)
    rates = dict(plan.rates)
    given = {name for name, key in RANK_METHODS.items() if key in plan.overrides}
    rates |= {name: float(plan.overrides[RANK_METHODS[name]]) for name in given if name not in rates}
    wanted = [
        name for name in PEFT_METHODS if name in plan.methods and name not in rates and peft_sizes(name, plan, run)
    ]
    if not wanted:
        return rates
    tries = [(name, rate) for name in wanted for rate in _candidates(name, settings)]
    keys = {own: _try_fingerprint(run, plan, *own) for own in tries}
    known: dict[str, float | None] = {}  # None where training diverged
    if path.exists():
        found = read_json(path, "learning rates of a curve", CheckpointError)
        if not isinstance(found, dict) or not all(isinstance(value, float | None) for value in found.values()):
            raise CheckpointError(f"{path}: does not hold losses of learning rates; delete the file")
        known = found
    todo = [own for own in tries if keys[own] not in known]

    def keep(index: int, loss: float) -> None:
        known[keys[todo[index]]] = loss if math.isfinite(loss) else None
        write_json(path, known)

    if todo:
        watcher.phase("choosing learning rates", len(todo) * plan.tuning_steps)
        run_jobs(
            [partial(_try_rate, run, plan, *own) for own in todo],
            num_processes(RunFolder(run).settings()),
            on_step=lambda step: watcher.step(step, {}),
            on_result=keep,
        )
    for name in wanted:
        losses = {rate: loss for own, rate in tries if own == name and (loss := known[keys[own, rate]]) is not None}
        if not losses:
            tried = ", ".join(f"{rate:g}" for own, rate in tries if own == name)
            raise TrainingError(
                f"{name}: training diverges at every tried learning rate, {tried}; leave out the method"
            )
        rates[name] = min(losses, key=lambda rate: losses[rate])
        log.info("learning rate of %s: %g", name, rates[name])
    return rates


def _candidates(name: str, settings: Settings) -> tuple[float, ...]:
    if name in FEW_PARAMETER_METHODS:
        return FEW_PARAMETER_METHODS[name].rates
    middle = {"adalora": settings.finetune.adalora_learning_rate, "lora": settings.finetune.lora_learning_rate}[name]
    return tuple(float(f"{factor * middle:.2g}") for factor in _RATE_FACTORS)


def _middle_size(name: str, plan: CurvePlan, run: str) -> int:
    sizes = peft_sizes(name, plan, run)
    return sizes[len(sizes) // 2]


def _try_fingerprint(run: str, plan: CurvePlan, name: str, rate: float) -> str:
    tuned = replace(plan, rates={name: rate}, baseline_steps=plan.tuning_steps, data=None)
    return fingerprint_of(RunFolder(run), tuned, f"{name} {_middle_size(name, plan, run)}")


def _try_rate(run: str, plan: CurvePlan, name: str, rate: float, count_step: Callable[[], None]) -> float:
    """Return the loss on the calibration samples after `tuning_steps`; infinite if the training diverges."""
    settings = with_values(RunFolder(run).settings(), {**plan.overrides, "num_threads": 1})
    bench, size = build_context(settings), _middle_size(name, plan, run)
    try:
        if name in FEW_PARAMETER_METHODS:
            return measure_few_parameters(
                settings,
                bench.train,
                bench.calibration,
                method=name,
                size=size,
                learning_rate=rate,
                steps=plan.tuning_steps,
                bits=BASELINE_BITS[:1],
                on_step=lambda step: count_step(),
            )[0].evaluation.loss
        found = measure_peft_baseline(
            with_values(settings, {RANK_METHODS[name]: rate}),
            bench.train,
            bench.calibration,
            method=cast("PeftMethod", name),
            rank=size,
            steps=plan.tuning_steps,
            on_step=lambda step: count_step(),
        )
        return found[0].evaluation.loss
    except TrainingError:
        return math.inf


def _verify_alike(runs: list[str]) -> None:
    """Raise `SettingsError` unless there is a run, no run is repeated, and all have one model, data and rank."""
    if not runs or len(set(runs)) < len(runs):
        raise SettingsError.of("runs", runs, "one or more, each once")
    first, *others = [RunFolder(run).settings() for run in runs]
    for run, settings in zip(runs[1:], others, strict=True):
        for name, own, wanted in (
            ("model", settings.model, first.model),
            ("data", settings.data, first.data),
            ("adapter.r_max", settings.adapter.r_max, first.adapter.r_max),
            ("adapter.ffn_update", settings.adapter.ffn_update, first.adapter.ffn_update),
        ):
            if own != wanted:
                raise SettingsError.of(
                    f"{name} of {run}", own, f"that of {runs[0]}, since the curve shows means over the runs"
                )


def _read(path: Path) -> list[CurvePoint]:
    if not path.exists():
        return []
    points = []
    for number, line in enumerate(read_bytes(path, "points of a curve", CheckpointError).splitlines(), 1):
        try:
            points.append(_POINT.validate_json(line))
        except ValidationError as error:
            raise CheckpointError(f"{path}: line {number} is no point of a curve; delete the file") from error
    return points
