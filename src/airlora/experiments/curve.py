"""Accuracy against bytes: streams, cuts at fixed precision, and PEFT's adapters trained at every rank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from airlora.config import with_values
from airlora.errors import CheckpointError, SettingsError
from airlora.experiments.curve_jobs import measure_job
from airlora.experiments.curve_plan import CURVE_METHODS, PEFT_METHODS, CurvePlan, CurvePoint
from airlora.files import make_folder, read_bytes, sha256_of, write_bytes
from airlora.training import RunFolder, SilentWatcher, Watcher, num_processes, run_jobs
from airlora.version import __version__

__all__ = ["run_curve"]

_POINT = TypeAdapter(CurvePoint)
_NOT_FOR_PEFT = {"orthogonality_weight", "nested_probability", "ffn_update"}
"""Settings of the adapter that PEFT's baselines are trained without."""


def run_curve(
    runs: Sequence[Path | str], plan: CurvePlan, out: Path | str, *, watcher: Watcher | None = None
) -> list[CurvePoint]:
    """Return the points of all runs; what `out` holds of an earlier call is not measured again.

    Args:
        runs: Folders of finished runs of one model and data, such as three seeds; their data must still be there.
        plan: What is measured.
        out: Folder of `points.jsonl`.
        watcher: Is told of the progress.

    Raises:
        AirloraError: A run is not finished, its data are gone, or `points.jsonl` is damaged.
    """
    watcher = watcher or SilentWatcher()
    jobs: list[tuple[str, str, str]] = []
    for run in map(str, runs):
        folder = RunFolder(run)
        folder.record()
        with_values(folder.settings(), plan.overrides)
        jobs += [(run, job, _fingerprint(folder, plan, job)) for job in _jobs(plan)]
    _verify_alike([str(run) for run in runs])
    path = make_folder(out) / "points.jsonl"
    current = {(run, job): fingerprint for run, job, fingerprint in jobs}
    # What another call measured stays; what was measured with other settings goes.
    points = [p for p in _read(path) if current.get((p.run, p.job), p.fingerprint) == p.fingerprint]
    done = {(point.run, point.job) for point in points}
    todo = [job for job in jobs if (job[0], job[1]) not in done]
    watcher.phase("measuring", sum(_num_steps(run, plan, job) for run, job, _ in todo))

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
    order = {(run, job): place for place, (run, job, _) in enumerate(jobs)}
    wanted = [point for point in points if (point.run, point.job) in current]
    return sorted(wanted, key=lambda point: (order[point.run, point.job], point.payload_bytes))


def _jobs(plan: CurvePlan) -> list[str]:
    """Return the jobs of a run, the longest first."""
    trained = [f"{name} {rank}" for rank in sorted(plan.ranks, reverse=True) for name in ("adalora", "lora")]
    return [job for job in [*trained, *CURVE_METHODS] if job.split()[0] in plan.methods and job not in PEFT_METHODS]


def _num_steps(run: str, plan: CurvePlan, job: str) -> int:
    if job.split()[0] in PEFT_METHODS:
        return plan.steps(run)
    return {"stream": 1, "sized": len(plan.sizes)}.get(job, 0) * plan.packing.polish_steps or 1


def _fingerprint(folder: RunFolder, plan: CurvePlan, job: str) -> str:
    settings, name = folder.settings(), job.split()[0]
    relevant: list[Any] = [__version__, _content(plan.data or settings.data.eval), job]
    if name in PEFT_METHODS:
        # Trained anew: whatever became of the run's adapter, and whatever is for the run's own training alone.
        other = {"lora": "adalora_learning_rate", "adalora": "lora_learning_rate"}[name]
        tuned = with_values(settings, plan.overrides)
        relevant += [
            tuned.model_dump(mode="json", include={"seed", "model", "data"}),
            tuned.adapter.model_dump(mode="json", exclude=_NOT_FOR_PEFT),
            tuned.finetune.model_dump(mode="json", exclude={"steps", "eval_every", "learning_rate", other}),
            plan.steps(str(folder.path)),
            # How many samples are kept from training.
            [settings.env.frozen_batches, settings.env.frozen_batch_size],
        ]
    else:
        relevant += [
            settings.model_dump(mode="json", exclude={"num_threads"}),
            hashlib.sha256(read_bytes(folder.adapter_path, "adapter", CheckpointError)).hexdigest(),
        ]
    if name not in ("full", "constant", "singular"):
        relevant.append(_content(settings.data.train))
    if name in ("stream", "sized"):
        relevant += [asdict(plan.packing), plan.sizes if name == "sized" else ()]
    elif name in ("unpolished", "singular"):
        relevant.append(plan.packing.layers)
    if name == "unpolished":
        relevant.append(plan.packing.weighed_by)
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _content(source: str | None) -> list[str | None]:
    """Return what a data set is known by: its name, and of a file what is in it."""
    return [source, sha256_of(source) if source is not None and Path(source).is_file() else None]


def _verify_alike(runs: list[str]) -> None:
    """Raise `SettingsError` unless the runs are several, each once, of one model, data and rank."""
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
                raise SettingsError.of(f"{name} of {run}", own, f"that of {runs[0]}: a mean is over runs of one kind")


def _read(path: Path) -> list[CurvePoint]:
    if not path.exists():
        return []
    points = []
    for number, line in enumerate(read_bytes(path, "points of a curve", CheckpointError).splitlines(), 1):
        try:
            points.append(_POINT.validate_json(line))
        except ValidationError as error:
            raise CheckpointError(f"{path}: line {number} is no point of a curve: delete the file") from error
    return points
