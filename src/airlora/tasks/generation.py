"""Generation of completions by a causal language model, and their scores against references."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import transformers

from airlora.errors import DataError, MissingDependencyError, SettingsError
from airlora.tasks.chat import ASSISTANT, render_chat
from airlora.text import Completion, Conversation

__all__ = ["GenerateOptions", "Prompt", "complete", "prompt_of", "score_completions", "verify_scorers"]


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """Options of a generation.

    Args:
        max_new_tokens: Largest number of generated tokens, >= 1.
        temperature: Divisor of the logits before sampling, >= 0. 0 takes the most probable token.
        seed: Seed of the samples.

    Raises:
        SettingsError: A value is not allowed.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingsError.of("max_new_tokens", self.max_new_tokens, "a whole number, 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise SettingsError.of("temperature", self.temperature, "a number, 0 or more")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the model reads it.

    Args:
        text: Prompt as text; a conversation in the model's chat template.
        ids: Token ids.
        reference: Completion in the data, or None.
    """

    text: str
    ids: tuple[int, ...]
    reference: str | None


def prompt_of(sample: Completion | Conversation, tokenizer: Any) -> Prompt:
    """Return the prompt of a sample: all that is before the completion, or before the assistant's last message.

    The prompt of a plain text is the text, without a reference.

    Raises:
        DataError: The prompt has no token, or the chat template refuses the conversation.
        ModelError: The model has no chat template for a conversation.
    """
    if isinstance(sample, Conversation):
        messages = sample.as_dicts()
        last = max((n for n, own in enumerate(messages) if own["role"] == ASSISTANT), default=len(messages))
        text = render_chat(tokenizer, messages[:last], asks=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        reference = messages[last]["content"] if last < len(messages) else None
    else:
        text, reference = (sample.prompt, sample.completion or None) if sample.prompt else (sample.completion, None)
        ids = tokenizer(text)["input_ids"]
        if ids and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
    if not ids:
        raise DataError.of("prompt", text, "text that the tokenizer gives tokens for")
    return Prompt(text, tuple(ids), reference)


@torch.no_grad()
def complete(model: Any, tokenizer: Any, prompt: Prompt, options: GenerateOptions, device: torch.device) -> str:
    """Return the completion of a prompt, up to the end of the text, without special tokens.

    Args:
        model: Causal language model of `transformers`, with or without an adapter.
        tokenizer: Tokenizer of the model.
        prompt: Prompt to complete.
        options: Length and sampling.
        device: Device of the model.

    Raises:
        DataError: The prompt is as long as the longest text of the model, or longer.
    """
    model.eval()
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    if len(prompt.ids) >= longest:
        raise DataError.of("tokens of the prompt", len(prompt.ids), f"fewer than {longest}, the model's longest text")
    ends = getattr(model.generation_config, "eos_token_id", None)
    own_ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    config = transformers.GenerationConfig(
        max_new_tokens=min(options.max_new_tokens, longest - len(prompt.ids)),
        do_sample=options.temperature > 0,
        temperature=options.temperature or None,
        eos_token_id=sorted({*own_ends, tokenizer.eos_token_id} - {None}) or None,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
        num_beams=1,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
    )
    ids = torch.tensor([prompt.ids], device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        # The model's own defaults, such as a penalty of repetitions, would fill what the configuration leaves open.
        before, model.generation_config = model.generation_config, config
        try:
            found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        finally:
            model.generation_config = before
    text: str = tokenizer.decode(found[0, len(prompt.ids) :], skip_special_tokens=True)
    return text


def score_completions(completions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return BLEU of all completions together, and the mean ROUGE-L of each with its nearest reference, both 0 to 1.

    Args:
        completions: Completion of every prompt.
        references: References of every prompt, one or more each.

    Raises:
        MissingDependencyError: `sacrebleu` or `rouge-score` is not installed.

    Source: Papineni et al. 2002; Lin 2004.
    """
    bleu, rouge = _optional("sacrebleu"), _optional("rouge_score.rouge_scorer")
    longest = max(map(len, references))
    columns = [[own[place] if place < len(own) else None for own in references] for place in range(longest)]
    scorer = rouge.RougeScorer(["rougeL"], use_stemmer=False)
    best = [
        max(scorer.score(reference, completion)["rougeL"].fmeasure for reference in own)
        for completion, own in zip(completions, references, strict=True)
    ]
    return {
        "bleu": float(bleu.corpus_bleu(list(completions), columns).score) / 100,
        "rouge_l": float(sum(best) / len(best)),
    }


def verify_scorers() -> None:
    """Raise `MissingDependencyError` unless the packages that score completions are installed."""
    for module in ("sacrebleu", "rouge_score.rouge_scorer"):
        _optional(module)


def _optional(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0].replace("_", "-")
        raise MissingDependencyError(f"BLEU and ROUGE-L need {name}: pip install 'airlora[generation]'") from error
