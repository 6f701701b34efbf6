"""Data sets for language models: texts, prompts with completions, and conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from airlora.errors import DataError
from airlora.text.datasets import checked_text, verify_unicode
from airlora.text.readers import Column, open_rows, read_columns

__all__ = ["Completion", "CompletionDataset", "CompletionFormat", "Conversation", "load_completions"]

CompletionFormat = Literal["text", "prompt-completion", "messages"]
"""Format of the samples, as in TRL.

| value | a sample is | the loss counts |
|---|---|---|
| "text" | a text | all tokens |
| "prompt-completion" | a prompt and its completion, as texts or as lists of messages | tokens of the completion |
| "messages" | a conversation for the model's chat template | tokens of the assistant's messages |
"""

_ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion of a prompt.

    Args:
        prompt: Prompt, verbatim. Empty for a plain text.
        completion: Text that follows the prompt, verbatim.
    """

    prompt: str
    completion: str

    @property
    def text(self) -> str:
        """Prompt and completion."""
        return self.prompt + self.completion


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation.

    Args:
        messages: Role and content of each message, in order.
        num_prompt: Number of messages at the beginning that are a prompt, whose tokens do not count.
    """

    messages: tuple[tuple[str, str], ...]
    num_prompt: int = 0

    @property
    def text(self) -> str:
        """Contents of all messages, one a line."""
        return "\n".join(content for _, content in self.messages)

    def as_dicts(self) -> list[dict[str, str]]:
        """Return the messages as chat templates expect them."""
        return [{"role": role, "content": content} for role, content in self.messages]


@dataclass(frozen=True, slots=True)
class CompletionDataset:
    """Immutable data set for a language model.

    Args:
        samples: Samples, all of one kind.
        format: Format that they were read in.
        name: Name of the data set, for messages and reports.
    """

    samples: tuple[Completion | Conversation, ...]
    format: CompletionFormat
    name: str

    def __len__(self) -> int:
        return len(self.samples)

    def subset(self, indices: Sequence[int]) -> CompletionDataset:
        """Return the samples at the given indices, in that order."""
        return CompletionDataset(tuple(self.samples[index] for index in indices), self.format, self.name)


def load_completions(
    source: str | Path,
    *,
    format: CompletionFormat | None = None,  # noqa: A002 (the name of the setting)
    text_column: Column = "text",
    prompt_column: str = "prompt",
    completion_column: str = "completion",
    messages_column: str = "messages",
    max_samples: int | None = None,
) -> CompletionDataset:
    """Return the samples of a source of `load_dataset` for a language model.

    Args:
        source: File, or name of a Hub data set.
        format: Format of the samples. None takes the only one that the columns of the source allow.
        text_column: Name of the column of a text, or names that it may have, the preferred one first.
        prompt_column: Name of the column of the prompt.
        completion_column: Name of the column of the completion.
        messages_column: Name of the column of a conversation.
        max_samples: Maximum number of samples to read, or None for all.

    Raises:
        DataError: The data are missing, empty or malformed, or their columns allow no format or several. The message
            names the line.
        MissingDependencyError: The format of the file needs a package that is not installed.
    """
    text_names = (text_column,) if isinstance(text_column, str) else tuple(text_column)
    columns: dict[CompletionFormat, tuple[Column, ...]] = {
        "text": (text_names,),
        "prompt-completion": (prompt_column, completion_column),
        "messages": (messages_column,),
    }
    chosen = _only_format(source, columns) if format is None else format
    samples: list[Completion | Conversation] = []
    with open_rows(source, *columns[chosen]) as rows:
        for row in islice(rows.samples, max_samples):
            where = f"{source}, {row.place}, column "
            if chosen == "text":
                samples.append(Completion("", checked_text(row.values[0], row.place, str(source), text_names)))
            elif chosen == "messages":
                samples.append(_conversation(row.values[0], f"{where}{messages_column}"))
            elif isinstance(row.values[0], list) and isinstance(row.values[1], list):
                samples.append(_conversation(row.values[1], f"{where}{completion_column}", prompt=row.values[0]))
            else:
                prompt, completion = (
                    checked_text(value, row.place, str(source), name)
                    for value, name in zip(row.values, (prompt_column, completion_column), strict=True)
                )
                samples.append(Completion(prompt, completion))
    if not samples:
        raise DataError(f"{source}: no samples; one sample or more are needed")
    if len({type(sample) for sample in samples}) > 1:
        raise DataError(f"{source}: some prompts are texts and some are lists of messages; allowed is one kind")
    return CompletionDataset(tuple(samples), chosen, str(source))


def _only_format(source: str | Path, columns: Mapping[CompletionFormat, tuple[Column, ...]]) -> CompletionFormat:
    found = read_columns(source)
    fitting = [
        name
        for name, wanted in columns.items()
        if all(any(own in found for own in ([column] if isinstance(column, str) else column)) for column in wanted)
    ]
    if len(fitting) != 1:
        formats = ", ".join(repr(name) for name in get_args(CompletionFormat))
        shown = ", ".join(repr(name[:40]) for name in found[:12]) or "none"
        problem = f"the columns allow several formats, {' and '.join(fitting)}" if fitting else "no column of a text"
        raise DataError(
            f"{source}: {problem}; there are {shown}; set data.format to one of {formats}, or name the columns by "
            "data.text_column, data.prompt_column, data.completion_column and data.messages_column"
        )
    return fitting[0]


def _conversation(value: object, where: str, *, prompt: Sequence[object] = ()) -> Conversation:
    """Return a conversation. Its list of messages, without the prompt, holds one of the assistant."""
    if not isinstance(value, list) or not value:
        raise DataError.of(where, value, "a list of messages, each with role and content")
    messages = [_message(message, where) for message in value]
    if not any(role == _ASSISTANT and content.strip() for role, content in messages):
        roles = ", ".join(dict.fromkeys(role for role, _ in messages))
        raise DataError.of(f"{where}: roles", roles, f"one message with content of the role {_ASSISTANT!r} or more")
    return Conversation((*(_message(message, where) for message in prompt), *messages), num_prompt=len(prompt))


def _message(value: object, where: str) -> tuple[str, str]:
    found: Any = value if isinstance(value, Mapping) else {}
    role, content = found.get("role"), found.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError.of(where, value, "a message with role and content, both texts")
    verify_unicode(content, where)
    return role, content
