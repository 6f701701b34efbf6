"""The command train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, show_progress, two_columns
from airlora.cli.options import Json, Set, parse_settings
from airlora.errors import SettingsError

__all__ = ["train"]


@app.command()
def train(
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    train_file: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="FILE",
            help="Training data: TSV, CSV, JSONL, Parquet or `hf:owner/name`. Requires --eval.",
            show_default="that of --data",
        ),
    ] = None,
    eval_file: Annotated[
        str | None,
        typer.Option(
            "--eval",
            metavar="FILE",
            help="Held-out data that accuracy is measured on. Requires --train.",
            show_default="that of --data",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Data set in place of --train and --eval: `sst2`, `embedded` for the embedded corpus, or a folder "
            "with train.* and dev.* files.",
            show_default="the embedded corpus; paper, paper-literal: sst2",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="T",
            help="`classification` (a label for each text), `regression` (a number for each text), or `causal-lm` "
            "(texts, prompts with completions, or conversations).",
            show_default="classification",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Base model: `embedded-minilm`, a folder, or a Hugging Face id.",
            show_default="embedded-minilm; paper, paper-literal: facebook/opt-1.3b",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Policy that decides the ranks, one of `airlora policies --list`, or package.module:Class.",
            show_default="greedy; paper, paper-literal: airllm",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="`quick` for two CPU cores, `standard` for a workstation, `paper-literal` for the paper's method as "
            "printed, `paper` for the same with repairs.",
            show_default="that of --config, else quick",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Fine-tuning steps.",
            show_default="quick: 600; standard: 3000; paper, paper-literal: 15000",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIZE",
            help="Train the best adapter for a stream of this size, such as 4kB, and write the stream to "
            "RUN/stream.airs. Up to 2.5 kB, the adapter is a few coefficients that a seed spreads over all components. "
            "Above, it is the components themselves, and a fifth of the steps are quantisation-aware. Repeatable: the "
            "stream has the largest size, and its prefixes of the smaller sizes are trained too.",
            show_default="none: no stream",
        ),
    ] = None,
    snr_db: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="In place of --size: mean SNR of the link, dB. Requires --bandwidth-hz.",
            show_default="none",
        ),
    ] = None,
    bandwidth_hz: Annotated[
        float | None, typer.Option(metavar="HZ", help="Bandwidth of this link, Hz, such as 10e3.", show_default="none")
    ] = None,
    deadline_s: Annotated[
        float | None,
        typer.Option(metavar="S", help="Time for the transfer over this link, s.", show_default="1"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="Seed of all random generators.", show_default="42")
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            "--init-from",
            metavar="PEFT_DIR|STREAM|RUN",
            help="Adapter to continue from: a PEFT LoRA or AdaLoRA, a stream, or a finished run.",
            show_default="none: a zero update",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="TOML", help="File of settings that override the preset.")
    ] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in RUN.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune an adapter, train the policy, and choose the ranks for the reference link.

    The reference link has the middle of the settings' SNRs and bandwidths. The printed metrics and parameter counts
    are those of the rank pattern that the policy chooses for this link. With --size they are those of the stream.

    `--set` overrides the other options, which override `--config`, which overrides the preset.
    """
    from airlora.channel import Link
    from airlora.policy import import_policy
    from airlora.settings.loading import value_at
    from airlora.settings.sizes import parse_size
    from airlora.training import RunFolder, load_settings, recipe_for_sizes, train

    flags = {
        "data.name": data,
        "data.train": train_file,
        "data.eval": eval_file,
        "task": task,
        "model.name": model,
        "policy.name": policy,
        "adapter.init_from": None if init_from is None else str(init_from.resolve()),
        "finetune.steps": steps,
        "seed": seed,
    }
    given = {key: value for key, value in flags.items() if value is not None} | parse_settings(settings)
    sizes = [parse_size(own) for own in size or []]
    if snr_db is not None or bandwidth_hz is not None or deadline_s is not None:
        if snr_db is None or bandwidth_hz is None or sizes:
            raise SettingsError(
                "--snr-db, --bandwidth-hz, --deadline-s: allowed are the first two together, and the third with them, "
                "without --size"
            )
        channel = load_settings(preset, config, given).channel
        sizes = [Link(snr_db, bandwidth_hz).carried_bytes(channel, 1.0 if deadline_s is None else deadline_s)]
    if sizes:
        base = load_settings(preset, config, given)
        given.pop("finetune.steps", None)
        # The recipe depends on them, and a file may set them.
        given = {"task": base.task, "adapter.init_from": base.adapter.init_from} | given
        given = recipe_for_sizes(*sizes, steps=base.finetune.steps, given=given)
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
    with show_progress() as progress:
        record = train(resolved, out, resume=resume, progress=progress)
    result = {
        "run": str(out),
        **record.metrics,
        "num_params": record.num_params,
        "steps": record.steps,
        "num_head_params": record.num_head_params,
        "policy": record.policy,
    }
    rows = {metric.name: metric.text(record.metrics[metric.name]) for metric in record.task.metrics} | {
        "adapter parameters": f"{record.num_params:,}",
        "head parameters": f"{record.num_head_params:,}",
        "link": f"{record.link['snr_db']:g} dB, {record.link['bandwidth_hz'] / 1e6:g} MHz",
        "policy": record.policy,
        "steps": str(record.steps),
    }
    if record.stream is not None:
        # Metrics and numbers of parameters over the reference link say nothing about the stream.
        result["stream"] = record.stream
        qat_steps = resolved.finetune.qat_steps
        rows = {"stream": f"{out / 'stream.airs'}, {record.stream['bytes']:,} bytes"}
        rows |= {own.name: own.text(record.stream[own.name]) for own in record.task.metrics}
        rows["steps"] = f"{record.steps}" + (f", then {qat_steps} quantisation-aware" if qat_steps else "")
    print_result(result, two_columns(str(out), rows), as_json=as_json)
