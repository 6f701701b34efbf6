"""Run the trials of tables and figures, and write their files and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from airlora.errors import CheckpointError, SettingsError
from airlora.files import make_folder, read_json, write_bytes
from airlora.progress import ProgressReporter
from airlora.reproduce.experiment import Experiment, Results, experiments, find_experiments
from airlora.reproduce.kinds import KINDS
from airlora.reproduce.plan import RATE_KEYS, Plan, is_pending
from airlora.reproduce.rates import choose_rates, rate_trials
from airlora.reproduce.report import write_report
from airlora.reproduce.result import ExperimentResult, write_result
from airlora.reproduce.runner import read_results, run_trials
from airlora.reproduce.statistics import holm
from airlora.reproduce.trial import Trial
from airlora.reproduce.verdicts import Verdict
from airlora.tasks import pick_device
from airlora.training import num_processes as processes_for
from airlora.version import __version__

__all__ = ["DryRun", "Judged", "Reproduction", "dry_run", "read_verdicts", "reproduce"]


@dataclass(frozen=True)
class DryRun:
    """Trials that a reproduction would run.

    Args:
        kind: Kind of the trials.
        num_trials: Number of trials.
        num_done: Number of these whose results the folder holds.
        hours: Expected hours of the others on one core.
    """

    kind: str
    num_trials: int
    num_done: int
    hours: float


@dataclass(frozen=True)
class Reproduction:
    """Result of a reproduction.

    Args:
        results: Results of the tables and figures.
        report: Path of the report.
    """

    results: Sequence[ExperimentResult]
    report: Path


def dry_run(name: str, plan: Plan, out: Path | str) -> list[DryRun]:
    """Return the trials of a table or figure by kind, without running any.

    Args:
        name: Name of a table or figure, or `all`.
        plan: Plan of the trials. Learning rates that are not tuned yet count as the scale's, and budgets that are not
            known yet as not done.
        out: Folder of the reproduction.

    Raises:
        SettingsError: There is no such table or figure.
    """
    chosen, folder = find_experiments(name), Path(out)
    families = _rate_families(chosen, plan)
    tuning = [trial for (family, _), trial in rate_trials(plan).items() if family in families]
    plan = _informed(plan, experiments().values(), folder, families)
    trials = _distinct(_trials(chosen, plan))
    done = read_results([*tuning, *plan.adapter_trials(trials), *trials], folder)
    groups: dict[str, list[Trial]] = {"rate": tuning, "adapter": plan.adapter_trials(trials)}
    for trial in trials:
        groups.setdefault(trial.kind, []).append(trial)
    return [
        DryRun(
            kind,
            len(group),
            sum(trial.key in done for trial in group),
            sum(trial.num_steps * trial.step_seconds for trial in group if trial.key not in done) / 3600,
        )
        for kind, group in groups.items()
        if group
    ]


def reproduce(
    name: str,
    plan: Plan,
    out: Path | str,
    *,
    executor: str = "local",
    address: str | None = None,
    num_processes: int | None = None,
    progress: ProgressReporter,
    command: str,
) -> Reproduction:
    """Run the trials of a table or figure, and write its files and `report.html`.

    Trials whose results the folder holds do not run again. The files and the report of the other tables and figures are
    written, too, if the folder holds all results of the same plan for them.

    Args:
        name: Name of a table or figure, or `all`.
        plan: Plan of the trials.
        out: Folder of the reproduction.
        executor: `local` for processes of this machine, or `ray`.
        address: Address of a Ray cluster.
        num_processes: Number of trials to run at once on this machine. None takes all cores, or one on a GPU.
        progress: Receiver of the progress.
        command: Command line that the report shows as its origin.

    Raises:
        SettingsError: There is no such table or figure.
        AirloraError: A trial failed, or its options are not allowed.
    """
    chosen, folder, start = find_experiments(name), make_folder(out), time.monotonic()

    _check_libraries(plan)
    device = pick_device(plan.settings().device)
    if executor == "local":
        num_processes = num_processes or processes_for(plan.settings({"num_threads": 0}))

    def run(trials: Sequence[Trial]) -> None:
        run_trials(
            [trial for trial in trials if not is_pending(trial)],
            folder,
            kinds=KINDS,
            executor=executor,
            address=address,
            num_processes=num_processes,
            num_gpus=int(device.type == "cuda"),
            progress=progress,
        )

    families = _rate_families(chosen, plan)
    run([trial for (family, _), trial in rate_trials(plan).items() if family in families])
    plan = _informed(plan, chosen, folder, families)
    run(plan.adapter_trials(_trials(chosen, plan)))
    run(_trials(chosen, plan))
    plan = _informed(plan, experiments().values(), folder, families)
    run(_trials(chosen, plan))  # those that depend on the others
    minutes = (time.monotonic() - start) / 60
    shown = [own for own in experiments().values() if own in chosen or _is_complete(own, plan, folder)]
    known = {own.name: _result(own, plan, folder) for own in shown}
    for result in known.values():
        write_result(folder, result)
    lines = [json.dumps({"experiment": name, **row}) for name, result in known.items() for row in result.rows]
    write_bytes(folder / "results.jsonl", "".join(f"{line}\n" for line in lines).encode())
    report = write_report(folder, list(known.values()), info=_info(plan, command, minutes))
    found = [known[own.name] for own in chosen]
    return Reproduction(found, report)


@dataclass(frozen=True)
class Judged:
    """Verdicts of a table or figure that a folder holds.

    Args:
        origin: Scale, variant and number of seeds that the results are of.
        verdicts: Verdicts.
    """

    origin: str
    verdicts: Sequence[Verdict]


def read_verdicts(out: Path | str, name: str = "all") -> dict[str, Judged]:
    """Return the verdicts in a folder by the name of their table or figure.

    Args:
        out: Folder of a reproduction.
        name: Name of a table or figure, or `all` for those that the folder holds.

    Raises:
        SettingsError: There is no such table or figure, or the folder does not hold it.
        CheckpointError: A file is damaged.
    """
    folder, found = Path(out), {}
    for own in find_experiments(name):
        path = folder / f"{own.name}.json"
        if path.exists():
            value = read_json(path, "result of a reproduction", CheckpointError)
            try:
                settings, verdicts = value["settings"], value["verdicts"]
                origin = f"{settings['scale']}, {settings['variant']}, seeds {len(settings['seeds'])}"
                found[own.name] = Judged(origin, [Verdict.from_dict(verdict) for verdict in verdicts])
            except (KeyError, TypeError, ValidationError, SettingsError) as error:
                raise CheckpointError(
                    f"{path}: damaged; make it again with `airlora reproduce {own.name} --out {folder}`"
                ) from error
    if not found:
        what = "table or figure" if name == "all" else name
        given = "NAME" if name == "all" else name
        raise SettingsError(f"{folder}: holds no {what}; make one with `airlora reproduce {given} --out {folder}`")
    return found


def _informed(plan: Plan, chosen: Iterable[Experiment], folder: Path, families: Collection[str | None]) -> Plan:
    """Return the plan with what the results in a folder tell: learning rates, and budgets of dependent trials."""
    plan = choose_rates(plan, read_results([*rate_trials(plan).values()], folder), required=families)
    known = read_results([trial for trial in _trials(chosen, plan) if not is_pending(trial)], folder)
    return replace(plan, known=known)


def _check_libraries(plan: Plan) -> None:
    """Raise `MissingDependencyError` if a library of the last step is missing, before the first one."""
    if len(plan.seeds) > 1:
        holm([0.5])


def _trials(chosen: Iterable[Experiment], plan: Plan) -> list[Trial]:
    return [trial for own in chosen for trial in own.trials(plan)]


def _rate_families(chosen: Iterable[Experiment], plan: Plan) -> set[str | None]:
    """Return the families of methods whose learning rates the chosen tables and figures use."""
    return {trial.rate_family for trial in _trials(chosen, plan)}


def _distinct(trials: Sequence[Trial]) -> list[Trial]:
    return list({trial.key: trial for trial in trials}.values())


def _is_complete(own: Experiment, plan: Plan, folder: Path) -> bool:
    trials = own.trials(plan)
    return not any(is_pending(trial) for trial in trials) and len(read_results(trials, folder)) == len(
        _distinct(trials)
    )


def _result(own: Experiment, plan: Plan, folder: Path) -> ExperimentResult:
    result = own.result(Results(plan, read_results(own.trials(plan), folder)))
    settings: Mapping[str, Any] = {
        "scale": plan.scale.name,
        "variant": plan.variant,
        "preset": plan.preset,
        "objective": plan.scale.objective,
        "data": plan.data or "embedded corpus",
        "model": plan.settings().model.name,
        "seeds": list(plan.seeds),
        "steps": plan.steps,
        "evaluations": 0 if plan.is_live else plan.scale.evaluations,
        "bandwidth_hz": plan.bandwidth_hz,
        "learning_rates": _learning_rates(plan),
        "bounded": {method: plan.caps(method) for method in plan.scale.caps},
        "version": __version__,
    }
    return replace(result, settings=settings)


def _learning_rates(plan: Plan) -> dict[str, float]:
    return {family: plan.rate(family, plan.rates.get(family, 1.0)) for family in RATE_KEYS}


def _info(plan: Plan, command: str, minutes: float) -> dict[str, str]:
    rates = ", ".join(
        f"{family} {rate:g}{' (tuned)' if family in plan.rates else ''}"
        for family, rate in _learning_rates(plan).items()
    )
    return {
        "scale": f"{plan.scale.name} ({plan.scale.summary})",
        "variant": f"{plan.variant}, preset {plan.preset}",
        "objective": plan.scale.objective,
        "model": plan.settings().model.name,
        "data": plan.data or "the corpus that airlora generates",
        "seeds": ", ".join(map(str, plan.seeds)),
        "steps": _steps(plan),
        "bandwidth": f"{plan.bandwidth_hz / 1e6:.3g} MHz",
        "learning rates": rates,
        "command": command,
        "version": __version__,
        "minutes of this call": f"{minutes:.1f}",
    }


def _steps(plan: Plan) -> str:
    steps = f"{plan.steps} of fine-tuning"
    return steps if plan.is_live else f"{steps}, {plan.scale.evaluations} losses per policy on a frozen adapter"
