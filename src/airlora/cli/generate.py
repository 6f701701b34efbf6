"""The command generate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, show_progress, two_columns
from airlora.cli.options import Json, Model, Since, Upto, parse_upto

__all__ = ["generate"]


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or the file of a stream.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Prompt to complete; repeatable.", show_default="those of --data"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Data set whose prompts are completed, see `airlora train --train`.",
            show_default="the run's evaluation data",
        ),
    ] = None,
    num: Annotated[
        int, typer.Option(metavar="N", help="Number of different prompts of the data that are completed.")
    ] = 5,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="Largest number of generated tokens.")] = 64,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="Temperature of the samples. 0 takes the most probable token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of the samples.")] = 0,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Complete by the base model, too.")] = True,
    score: Annotated[
        bool,
        typer.Option("--score", help="Print BLEU and ROUGE-L against the completions of the data."),
    ] = False,
    upto: Upto = None,
    model: Model = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Complete prompts by a run or a stream of the task causal-lm, with and without the adapter."""
    from airlora.tasks import GenerateOptions
    from airlora.workflows.generate import generate_completions, score_generated

    options = GenerateOptions(max_new_tokens, temperature, seed)
    with show_progress() as progress:
        progress.phase("completing prompts", len(prompt) if prompt else num)
        found = generate_completions(
            run,
            prompts=prompt or (),
            data=data,
            max_prompts=None if prompt else num,
            options=options,
            with_base=base,
            needs_references=score,
            max_bytes=parse_upto(upto),
            model=model,
            since=since,
            on_prompt=lambda number, total: progress.step(number, {}),
        )
    scores = score_generated(found) if score else {}
    parts = [
        two_columns(
            own.prompt,
            {"adapter": own.adapted}
            | ({} if own.base is None else {"base model": own.base})
            | ({"reference": own.references[0]} if own.references else {}),
        )
        for own in found
    ]
    if scores:
        parts.append(two_columns("scores", {name: f"{value:.3f}" for name, value in scores.items()}))
    print_result({"completions": [asdict(own) for own in found], **scores}, *parts, as_json=as_json)
