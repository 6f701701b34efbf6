"""Commands on runs: train, evaluate, inspect, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from airlora.cli.app import Json, Model, Set, Since, app, make_console, parse_settings
from airlora.errors import SettingsError

__all__ = ["demo", "evaluate", "inspect", "train"]


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
        typer.Option(
            metavar="NAME", help="Policy that decides: one of `airlora policies --list`, or package.module:Class."
        ),
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
        raise SettingsError("--resume goes on with the run's own settings: give no other option than --out and --json")
    resolved = RunFolder(out).settings() if resume else load_settings(preset, config, given)
    for key in classes:
        own = value_at(resolved.model_dump(), key)
        if given[key] != own:
            raise SettingsError.of(key, given[key], f"the run's own, {own!r}")
    with LiveProgress(make_console(stderr=True)) as progress:
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
    make_console().print(table)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or the file of a stream.")],
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
    upto: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--upto", metavar="SIZE", help="Of a stream, use only the first whole segments within SIZE."),
    ] = None,
    model: Model = None,
    since: Since = None,
    predictions: Annotated[
        Optional[Path], typer.Option(metavar="F", help="Write label and logits of every sample here (JSONL).")  # noqa: UP045
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run at its own rank pattern or at another one, or a stream as far as it came."""
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
    table.add_row("accuracy", f"{result['accuracy']:.2%}")
    table.add_row("loss", f"{result['loss']:.4f} nats")
    table.add_row("adapter numbers", f"{result['num_params']:,}")
    if "payload_bytes" in result:
        table.add_row("bytes of the stream", f"{result['payload_bytes']:,}")
    table.add_row("samples", f"{result['num_samples']:,}")
    make_console().print(table)


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Show what a run decided: the rank of every layer and projection, and what that costs."""
    from airlora.reports.tables import rank_table
    from airlora.workflows.inspect import inspect_run

    result = inspect_run(run)
    if as_json:
        print(json.dumps(result))
        return
    console = make_console()
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
    deliver: Annotated[
        bool,
        typer.Option(
            "--deliver", help="Also publish the adapter and let three devices fetch it over slow, lossy links."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune the embedded model, learn a policy, compare it with the others, and write a report.

    Takes a few minutes on two cores and no network. An interrupted demo goes on where it was.
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
