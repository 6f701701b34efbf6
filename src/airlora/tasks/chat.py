"""Conversations in the chat template of a model's tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from airlora.errors import DataError, ModelError

__all__ = ["ASSISTANT", "render_chat"]

ASSISTANT = "assistant"
"""Role of the messages that a model writes."""


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, asks: bool = False) -> str:
    """Return messages in the chat template of a tokenizer. No messages give an empty text.

    Args:
        tokenizer: Tokenizer of the model.
        messages: Role and content of each message.
        asks: Whether the text ends with the beginning of an answer.

    Raises:
        ModelError: The tokenizer has no chat template.
        DataError: The template refuses the messages, for example the order of their roles.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "the model's tokenizer has no chat template: allowed are a model with one, or data with prompt and "
            "completion"
        )
    if not messages:
        return ""
    try:
        text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks)
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(f"the chat template of the model refuses the roles {roles}: {error}") from error
    return text
