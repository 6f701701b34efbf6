"""Completions of prompts by a run or a stream, with and without its adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from airlora.errors import SettingsError
from airlora.ranks import RankPattern
from airlora.tasks import CausalLM, GenerateOptions, Prompt, complete, prompt_of, score_completions, verify_scorers
from airlora.text import Completion, CompletionDataset, Conversation
from airlora.training import OpenRun, OpenStream
from airlora.workflows.open_source import open_source, read_data

__all__ = ["Generated", "generate_completions", "score_generated"]


@dataclass(frozen=True, slots=True)
class Generated:
    """Completions of a prompt.

    Args:
        prompt: Prompt.
        references: Completions of the prompt in the data. Empty without any.
        adapted: Completion by the model with the adapter.
        base: Completion by the base model, or None if it was not asked for.
    """

    prompt: str
    references: tuple[str, ...]
    adapted: str
    base: str | None


def generate_completions(
    source: Path | str,
    *,
    prompts: Sequence[str] = (),
    data: str | None = None,
    max_prompts: int | None = None,
    options: GenerateOptions | None = None,
    with_base: bool = True,
    needs_references: bool = False,
    max_bytes: int | None = None,
    model: str | None = None,
    since: Path | str | None = None,
    on_prompt: Callable[[int, int], None] = lambda number, total: None,
) -> list[Generated]:
    """Return the completions of prompts. Equal prompts of the data are completed once, with all their references.

    Args:
        source: Folder of a finished run, or file of a stream, of the task causal-lm.
        prompts: Prompts. A run on conversations takes each as a message of the user.
        data: Data set to take prompts from, in place of `prompts`. None without prompts selects the run's evaluation
            data.
        max_prompts: Largest number of different prompts of the data. None takes all.
        options: Length and sampling. None takes the defaults.
        with_base: Whether the base model completes the prompts, too.
        needs_references: Whether prompts without a reference, or without the packages that score them, are refused.
        max_bytes: For a stream: size of the prefix to read, bytes.
        model: For a stream: name or folder of the base model.
        since: For a delta: file of the complete stream that it refers to.
        on_prompt: Function that is called after each prompt with the number of finished prompts and of all.

    Raises:
        SettingsError: The task is another one, or both `prompts` and `data` are given.
        AirloraError: The run, the stream or the data cannot be used.
    """
    if prompts and data is not None:
        raise SettingsError("give --prompt or --data, not both")
    if not all(prompt.strip() for prompt in prompts):
        raise SettingsError.of("prompt", "", "text that is not empty")
    if max_prompts is not None and max_prompts < 1:
        raise SettingsError.of("number of prompts", max_prompts, "a whole number, 1 or more")
    if model is not None and not Path(source).is_file():
        raise SettingsError(f"model = {model!r}: {source} is a run, which names its base model; leave --model out")
    opened = open_source(source, max_bytes=max_bytes, model=model, since=since)
    if not isinstance(opened.task, CausalLM):
        raise SettingsError(f"{source}: has the task {opened.task.name}; only runs of causal-lm complete prompts")
    groups: dict[tuple[int, ...], tuple[Prompt, list[str]]] = {}
    for sample in _samples(opened, opened.task, prompts, data):
        prompt = prompt_of(sample, opened.tokenizer)
        if prompt.ids not in groups and len(groups) == max_prompts:
            continue
        references = groups.setdefault(prompt.ids, (prompt, []))[1]
        references += [] if prompt.reference is None else [prompt.reference]
    if needs_references:
        if not groups or not all(references for _, references in groups.values()):
            raise SettingsError("BLEU and ROUGE-L: the prompts have no references; give data with completions")
        verify_scorers()
    own = (opened.decoded if isinstance(opened, OpenStream) else opened.record).rank_pattern
    none = RankPattern.constant(opened.adapted.shapes, 0)
    found = []
    for number, (prompt, references) in enumerate(groups.values(), 1):
        texts = []
        for pattern in (own, *((none,) if with_base else ())):
            opened.adapted.set_ranks(pattern)
            chosen = options or GenerateOptions()
            texts.append(complete(opened.adapted.model, opened.tokenizer, prompt, chosen, opened.device))
        found.append(Generated(prompt.text, tuple(references), texts[0], texts[1] if with_base else None))
        on_prompt(number, len(groups))
    return found


def score_generated(found: Sequence[Generated]) -> dict[str, float]:
    """Return BLEU and ROUGE-L of the completions, those of the base model under `base_bleu` and `base_rouge_l`.

    Args:
        found: Completions of prompts that all have references.

    Raises:
        MissingDependencyError: A package is not installed.
    """
    references = [own.references for own in found]
    scores = score_completions([own.adapted for own in found], references)
    base = [own.base for own in found if own.base is not None]
    if len(base) == len(found):
        scores |= {f"base_{name}": value for name, value in score_completions(base, references).items()}
    return scores


def _samples(
    opened: OpenRun | OpenStream, task: CausalLM, prompts: Sequence[str], data: str | None
) -> Sequence[Completion | Conversation]:
    if prompts:
        if task.sample_format == "messages":
            return [Conversation((("user", text),)) for text in prompts]
        return [Completion(text, "") for text in prompts]
    found = read_data(opened, data)
    return found.samples if isinstance(found, CompletionDataset) else ()
