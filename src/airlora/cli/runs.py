"""Commands on runs: train, evaluate, inspect, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from airlora.cli.app import Json, Model, Set, Since, app, make_console, parse_settings
from airlora.errors import SettingsError

__all__ = ["demo", "evaluate", "inspect", "train"]


@app.command()
def train(
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    train_file: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="FILE",
            help="Training data: TSV, CSV, JSONL, Parquet or `hf:owner/name`. Requires --eval.",
            show_default="the embedded corpus",
        ),
    ] = None,
    eval_file: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="FILE",
            help="Held-out data that accuracy is measured on. Requires --train.",
            show_default="the embedded corpus",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Base model: `embedded-minilm`, a folder, or a Hugging Face id.",
            show_default="embedded-minilm; paper: facebook/opt-1.3b",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Policy that decides the ranks, one of `airlora policies --list`, or package.module:Class.",
            show_default="greedy; paper: airllm",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="`quick` for two CPU cores, `standard` for a workstation, `paper` for Table II of the paper.",
            show_default="that of --config, else quick",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fine-tuning steps.", show_default="quick: 600; standard: 3000; paper: 15000"),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Seed of everything random.", show_default="42")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="TOML", help="File of settings that override the preset.")
    ] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in RUN.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune an adapter, train the policy, and choose the ranks for the reference link.

    The reference link has the middle of the settings' SNRs and bandwidths. The printed accuracy, loss and parameter
    counts are those of the rank pattern that the policy chooses for this link.

    `--set` overrides the other options, which override `--config`, which overrides the preset.
    """
    from airlora.policy import import_policy
    from airlora.progress import LiveProgress
    from airlora.settings.loading import value_at
    from airlora.training import RunFolder, load_settings, train

    flags = {
        "data.train": train_file,
        "data.eval": eval_file,
        "model.name": model,
        "policy.name": policy,
        "finetune.steps": steps,
        "seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None} | parse_settings(settings)
    if policy is not None:
        import_policy(policy)
    classes = given.keys() & {"channel.process", "policy.name"}
    if resume and (given.keys() - classes or preset or config):
        raise SettingsError(
            "--resume continues with the run's own settings: allowed are --out and --json, and --policy and "
            "--set channel.process as in the run"
        )
    resolved = RunFolder(out).settings() if resume else load_settings(preset, config, given)
    for key in classes:
        own = value_at(resolved.model_dump(), key)
        if given[key] != own:
            raise SettingsError.of(key, given[key], f"the run's own, {own!r}")
    with LiveProgress(make_console(stderr=True)) as progress:
        record = train(resolved, out, resume=resume, progress=progress)
    result = {
        "run": str(out),
        **record.metrics,
        "num_params": record.num_params,
        "steps": record.steps,
        "num_head_params": record.num_head_params,
        "policy": record.policy,
    }
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"{out}", title_justify="left", show_header=False)
    for metric in record.task.metrics:
        table.add_row(metric.name, metric.text(record.metrics[metric.name]))
    table.add_row("sent", f"{record.num_params:,} adapter numbers and {record.num_head_params:,} of the head")
    table.add_row("over", f"{record.link['snr_db']:g} dB, {record.link['bandwidth_hz'] / 1e6:g} MHz")
    table.add_row("decided by", record.policy)
    table.add_row("steps", str(record.steps))
    make_console().print(table)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or the file of a stream.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Data to measure on. Required for a stream.", show_default="the run's evaluation data"
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", help="Rank of every module.", show_default="the run's rank pattern")
    ] = None,
    rank_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Rank of each module: a JSON object with every module's name, or a file that holds one.",
            show_default="the run's rank pattern",
        ),
    ] = None,
    upto: Annotated[
        str | None,
        typer.Option(
            "--upto",
            metavar="SIZE",
            help="Use only the first whole segments of the stream within SIZE, such as 20kB.",
            show_default="the whole stream",
        ),
    ] = None,
    model: Model = None,
    since: Since = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the label and logits of every sample to FILE (JSONL).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and loss of a run at its own or another rank pattern, or of a stream or its prefix."""
    from airlora.tasks import find_metrics
    from airlora.workflows.inspect import evaluate_run
    from airlora.workflows.pack import parse_size

    max_bytes = None if upto is None else parse_size(upto)
    result = evaluate_run(
        run,
        data=data,
        rank=rank,
        rank_pattern=rank_pattern,
        predictions=predictions,
        max_bytes=max_bytes,
        model=model,
        since=since,
    )
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=f"{run}", title_justify="left", show_header=False)
    for metric in find_metrics(result):
        table.add_row(metric.name, metric.text(result[metric.name]))
    table.add_row("adapter numbers", f"{result['num_params']:,}")
    if "payload_bytes" in result:
        table.add_row("bytes of the stream", f"{result['payload_bytes']:,}")
    table.add_row("samples", f"{result['num_samples']:,}")
    make_console().print(table)


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")], as_json: Json = False
) -> None:
    """Show the rank of every layer and projection that a run chose, and its size."""
    from airlora.reports.tables import rank_table
    from airlora.tasks import find_metrics
    from airlora.workflows.inspect import inspect_run

    result = inspect_run(run)
    if as_json:
        print(json.dumps(result))
        return
    console = make_console()
    console.print(rank_table(result))
    policy, model = result["policy"], result["model"]
    labels = f", labels {', '.join(model['label_names'])}" if "label_names" in model else ""
    console.print(f"model   {model['name']} ({model['fingerprint'][:12]}), {model['task']}{labels}")
    console.print(
        f"policy  {policy['name']}, decided for {policy['link']['snr_db']:g} dB and "
        f"{policy['link']['bandwidth_hz'] / 1e6:g} MHz"
    )
    console.print(
        f"sent    {result['num_params']:,} adapter numbers (the paper's count: {result['paper_num_params']:,}) and "
        f"{result['num_head_params']:,} of the head"
    )
    metrics = [f"{metric.name} {metric.text(result[metric.name])}" for metric in find_metrics(result)]
    console.print(f"result  {', '.join(metrics)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run and the report.")] = Path("runs/demo"),
    settings: Set = None,
    deliver: Annotated[
        bool,
        typer.Option(
            "--deliver", help="Also publish the adapter and let three devices fetch it over slow, lossy links."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune the embedded model, train a policy, compare it with the others, and write a report.

    Takes about nine minutes on two cores and needs no network. The same command continues an interrupted demo.
    """
    from airlora.progress import LiveProgress
    from airlora.reports.tables import comparison_table
    from airlora.workflows.delivery_demo import deliver as deliver_run
    from airlora.workflows.delivery_demo import delivery_table
    from airlora.workflows.demo import demo_settings, run_demo

    resolved = demo_settings(parse_settings(settings))
    command = " ".join(["airlora demo", f"--out {out}", *(f"--set {item}" for item in settings or [])])
    with LiveProgress(make_console(stderr=True)) as progress:
        result = run_demo(out, resolved, watcher=progress, command=command)
        outcomes = deliver_run(out, out, watcher=progress) if deliver else []
    if as_json:
        value: dict[str, object] = {"report": str(result.report), "rows": [row.to_dict() for row in result.rows]}
        if deliver:
            value["delivery"] = [vars(outcome) for outcome in outcomes]
        print(json.dumps(value))
        return
    console = make_console()
    console.print(comparison_table(result.rows))
    if deliver:
        console.print(delivery_table(outcomes))
    console.print(f"report: {result.report}")
