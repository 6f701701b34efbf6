"""The command line: parse, call one function, print."""

from __future__ import annotations

import json
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from airlora.errors import AirloraError, SettingsError
from airlora.version import __version__

app = typer.Typer(
    name="airlora",
    help="Decide which low-rank adapter components to send over a weak link, and learn that decision.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045 (typer reads the annotation)
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as `--set adapter.r_max=16`; repeatable."),
]


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    # Waiting threads that spin slow a shared machine down tenfold; OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except AirloraError as error:
        print(f"airlora: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("airlora: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to keep the run in.")],
    train_file: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--train", metavar="F", help="TSV, CSV, JSONL, Parquet or `hf:owner/name`; none: embedded corpus."
        ),
    ] = None,
    eval_file: Annotated[
        Optional[str], typer.Option("--eval", metavar="F", help="Held-out data, to measure on.")  # noqa: UP045
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME|DIR", help="`embedded-minilm`, a folder, or a Hugging Face id."),
    ] = None,
    policy: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="What decides: see `airlora policies --list`."),
    ] = None,
    preset: Annotated[
        Optional[str], typer.Option(metavar="P", help="`paper` (Table II), `standard` or `quick`.")  # noqa: UP045
    ] = None,
    steps: Annotated[Optional[int], typer.Option(metavar="N", help="Fine-tuning steps.")] = None,  # noqa: UP045
    seed: Annotated[Optional[int], typer.Option(metavar="S", help="Of everything random.")] = None,  # noqa: UP045
    config: Annotated[
        Optional[Path], typer.Option(metavar="TOML", help="Settings laid over the preset.")  # noqa: UP045
    ] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in RUN.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune an adapter, learn which ranks to send, and decide for the reference link.

    The reference link is the middle of the settings' SNRs and bandwidths. Accuracy, loss and numbers are those of the
    pattern that the policy sends over it.
    """
    from airlora.config import load_settings
    from airlora.training import LiveProgress, train

    flags = {
        "data.train": train_file,
        "data.eval": eval_file,
        "model.name": model,
        "policy.name": policy,
        "finetune.steps": steps,
        "seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None} | _parse_settings(settings)
    if resume and (given or preset or config):
        raise SettingsError("--resume goes on with the run's own settings: give no other option than --out and --json")
    resolved = load_settings(preset, config, given)
    with LiveProgress(Console(stderr=True)) as progress:
        record = train(resolved, out, resume=resume, watcher=progress)
    result = {
        "run": str(out),
        "accuracy": record.accuracy,
        "loss": record.loss,
        "num_params": record.num_params,
        "steps": record.steps,
        "num_head_params": record.num_head_params,
        "policy": record.policy,
    }
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"{out}", title_justify="left", show_header=False)
    table.add_row("accuracy", f"{record.accuracy:.2%}")
    table.add_row("loss", f"{record.loss:.4f} nats")
    table.add_row("sent", f"{record.num_params:,} adapter numbers and {record.num_head_params:,} of the head")
    table.add_row("over", f"{record.link['snr_db']:g} dB, {record.link['bandwidth_hz'] / 1e6:g} MHz")
    table.add_row("decided by", record.policy)
    table.add_row("steps", str(record.steps))
    Console().print(table)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    data: Annotated[
        Optional[str], typer.Option(metavar="F", help="Data to measure on; none: the run's own.")  # noqa: UP045
    ] = None,
    rank: Annotated[
        Optional[int], typer.Option(metavar="N", help="The same rank in every module.")  # noqa: UP045
    ] = None,
    rank_pattern: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="JSON", help="Rank per module name: a JSON object, or a file that holds one."),
    ] = None,
    predictions: Annotated[
        Optional[Path], typer.Option(metavar="F", help="Write label and logits of every sample here (JSONL).")  # noqa: UP045
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run at its own rank pattern, or at another one."""
    from airlora.experiments import evaluate_run

    result = evaluate_run(run, data=data, rank=rank, rank_pattern=rank_pattern, predictions=predictions)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"{run}", title_justify="left", show_header=False)
    table.add_row("accuracy", f"{result['accuracy']:.2%}")
    table.add_row("loss", f"{result['loss']:.4f} nats")
    table.add_row("adapter numbers", f"{result['num_params']:,}")
    table.add_row("samples", f"{result['num_samples']:,}")
    Console().print(table)


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Show what a run decided: the rank of every layer and projection, and what that costs."""
    from airlora.experiments import inspect_run, rank_table

    result = inspect_run(run)
    if as_json:
        print(json.dumps(result))
        return
    console = Console()
    console.print(rank_table(result))
    policy, model = result["policy"], result["model"]
    console.print(f"model   {model['name']} ({model['fingerprint'][:12]}), labels {', '.join(model['label_names'])}")
    console.print(
        f"policy  {policy['name']}, decided for {policy['link']['snr_db']:g} dB and "
        f"{policy['link']['bandwidth_hz'] / 1e6:g} MHz"
    )
    console.print(
        f"sent    {result['num_params']:,} adapter numbers (the paper's count: {result['paper_num_params']:,}) and "
        f"{result['num_head_params']:,} of the head"
    )
    console.print(f"result  accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f} nats")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the demo's run and report.")] = Path("runs/demo"),
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Fine-tune the embedded model, learn a policy, compare it with the others, and write a report.

    Takes a few minutes on two cores and no network. An interrupted demo goes on where it was.
    """
    from airlora.experiments import demo_settings, run_demo
    from airlora.experiments.tables import comparison_table
    from airlora.training import LiveProgress

    resolved = demo_settings(_parse_settings(settings))
    command = " ".join(["airlora demo", f"--out {out}", *(f"--set {item}" for item in settings or [])])
    with LiveProgress(Console(stderr=True)) as progress:
        result = run_demo(out, resolved, watcher=progress, command=command)
    if as_json:
        print(json.dumps({"report": str(result.report), "rows": [row.to_dict() for row in result.rows]}))
        return
    console = Console()
    console.print(comparison_table(result.rows))
    console.print(f"report: {result.report}")


@app.command()
def policies(
    bench: Annotated[
        bool, typer.Option("--bench", help="Judge them against known optima, and write a report.")
    ] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show every policy by name (also without any option).")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One problem, few evaluations, two seeds: minutes instead of hours.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of records and report; a bench in it is gone on with.")
    ] = Path("runs/policies"),
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--policy", metavar="NAME", help="Only this one; repeatable."),
    ] = None,
    problems: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--problem", metavar="KEY", help="separable-36, interacting-36 or separable-144; repeatable."),
    ] = None,
    evaluations: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="Measured losses for each learner; 20000, with --quick 1000."),
    ] = None,
    seeds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="Landscapes and seeds; 3, with --quick 2."),
    ] = None,
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            "--run", metavar="RUN", help="Judge on this finished run's adapter instead; repeatable, one a seed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the policies, or judge them all on problems whose optimum is known, or on the adapters of finished runs."""
    from airlora.config import RECIPES
    from airlora.experiments.tables import policy_table

    numbers_given = evaluations is not None or seeds is not None
    if not bench:
        if show_list or not (quick or names or problems or numbers_given or runs):
            if as_json:
                print(json.dumps([{"policy": name, "summary": recipe.summary} for name, recipe in RECIPES.items()]))
            else:
                Console().print(policy_table())
            return
        raise SettingsError("these options belong to --bench: `airlora policies --bench`")
    if runs:
        if problems or seeds is not None or quick:
            raise SettingsError("--run judges on finished runs: leave --problem, --seeds and --quick out")
        _bench_on_runs(runs, names, out, evaluations, as_json=as_json)
        return
    from airlora.experiments import (
        BENCH_POLICIES,
        PROBLEMS,
        BenchPlan,
        bench_findings,
        bench_tables,
        run_bench,
        summarise,
        write_bench_report,
    )
    from airlora.training import LiveProgress, available_threads

    plan = BenchPlan(
        problems=tuple(problems or (tuple(PROBLEMS)[:1] if quick else PROBLEMS)),
        policies=tuple(names or BENCH_POLICIES),
        evaluations=(1_000 if quick else 20_000) if evaluations is None else evaluations,
        num_seeds=(2 if quick else 3) if seeds is None else seeds,
    )
    with LiveProgress(Console(stderr=True)) as progress:
        rows = summarise(run_bench(plan, out, num_processes=available_threads(), watcher=progress))
    report = write_bench_report(rows, out, command=shlex.join(["airlora", *sys.argv[1:]]))
    if as_json:
        print(json.dumps(rows))
        return
    console = Console()
    for table in bench_tables(rows):
        console.print(table)
    for line in bench_findings(rows):
        console.print(line)
    console.print(f"report: {report}")


def _bench_on_runs(
    runs: list[Path], names: list[str] | None, out: Path, evaluations: int | None, *, as_json: bool
) -> None:
    from airlora.experiments import FROZEN_POLICIES, frozen_table, run_frozen_bench
    from airlora.training import LiveProgress

    with LiveProgress(Console(stderr=True)) as progress:
        summary = run_frozen_bench(
            runs,
            tuple(names or FROZEN_POLICIES),
            out,
            evaluations=2_000 if evaluations is None else evaluations,
            watcher=progress,
        )
    if as_json:
        print(json.dumps(summary))
        return
    Console().print(frozen_table(summary))


def _parse_settings(items: list[str] | None) -> dict[str, Any]:
    """Return `KEY=VALUE` items as a dict; a value is read as TOML, or else as a plain string."""
    values: dict[str, Any] = {}
    for item in items or []:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise SettingsError.of("--set", item, "KEY=VALUE, such as adapter.r_max=16")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    return values


if __name__ == "__main__":
    main()
