"""Settings of the base model and of the data."""

from __future__ import annotations

from typing import Any, Literal, Protocol, Self

from pydantic import model_validator

from airlora.adapters import AdapterSettings
from airlora.errors import DataError
from airlora.settings.fields import PositiveInt, Section
from airlora.text import DataSources, find_data

__all__ = ["DataSettings", "LoadSettings", "ModelSettings"]

EMBEDDED_CORPUS = "embedded"
"""Value of `data.name` for the embedded corpus."""

TEXT_COLUMNS = ("text", "sentence")
"""Names of the column of the text in the files of a named data set: the default of `text_column`, and that of GLUE."""


class ModelSettings(Section):
    """Settings of the base model."""

    name: str = "embedded-minilm"
    """Base model: `embedded-minilm`, a folder, or a Hugging Face id."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`pretrained` loads the weights. `random` loads configuration and tokenizer and draws the weights, for tests."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers. On a CPU, `eager` is faster for short padded texts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights."""
    dropout: bool = True
    """Keep the base model's own dropout while an adapter is trained. Applies to PEFT's baselines, too."""


class DataSettings(Section):
    """Settings of the training and evaluation data."""

    name: str | None = None
    """Data set in place of `data.train` and `data.eval`: `sst2`, `embedded` for the embedded corpus, or a folder with a
    training file `train.*` and a held-out file `dev.*`, `validation.*` or `eval.*`."""
    train: str | None = None
    """Training data: a TSV, CSV, JSONL or Parquet file, or `hf:owner/name`. None uses `data.name`, else the embedded
    corpus."""
    eval: str | None = None
    """Held-out data that accuracy is measured on, in the same formats. Required with `data.train`."""
    text_column: str = "text"
    """Name of the column that holds the text. With `data.name`, `text` also stands for `sentence`, GLUE's name."""
    text_pair_column: str | None = None
    """Name of the column that holds the second text of a pair. None reads one text a sample."""
    label_column: str = "label"
    """Name of the column that holds the label."""
    format: Literal["auto", "text", "prompt-completion", "messages"] = "auto"
    """Format of the samples of a language model. `auto` takes the only one that the columns of the training data
    allow."""
    prompt_column: str = "prompt"
    """Name of the column that holds the prompt of a completion."""
    completion_column: str = "completion"
    """Name of the column that holds the completion of a prompt."""
    messages_column: str = "messages"
    """Name of the column that holds a conversation: a list of messages with role and content."""
    packing: bool = False
    """Concatenate the texts of a language model, and divide them into samples of `max_length` tokens."""
    vocabulary: str | None = None
    """File of known words, one a line, for the OOV rate. None counts a word as known if it is one token of the
    model."""
    max_length: PositiveInt = 128
    """Tokens kept of each sample. Longer samples are truncated."""
    max_train_samples: PositiveInt | None = None
    """Samples used of `data.train`, the first ones. None uses all."""
    max_eval_samples: PositiveInt | None = None
    """Samples used of `data.eval`, the first ones. None uses all."""
    num_train: PositiveInt = 6000
    """Training samples of the embedded corpus."""
    num_eval: PositiveInt = 1000
    """Held-out samples of the embedded corpus."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if self.name is not None and (self.train is not None or self.eval is not None):
            raise ValueError(
                f"data.name = {self.name!r}: stands for data.train and data.eval; give either data.name (--data) or "
                "these two (--train, --eval)"
            )
        if (self.train is None) != (self.eval is None):
            raise ValueError("data.train and data.eval are given together or not at all")
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names that the column of the text may have, the preferred one first."""
        return TEXT_COLUMNS if self.name is not None and self.text_column == TEXT_COLUMNS[0] else (self.text_column,)

    @property
    def columns(self) -> dict[str, Any]:
        """Names of the columns, as arguments of `load_dataset`."""
        return {
            "text_column": self.text_columns,
            "label_column": self.label_column,
            "text_pair_column": self.text_pair_column,
        }

    @property
    def completion_columns(self) -> dict[str, Any]:
        """Names of the columns, as arguments of `load_completions`."""
        return {
            "text_column": self.text_columns,
            "prompt_column": self.prompt_column,
            "completion_column": self.completion_column,
            "messages_column": self.messages_column,
        }

    def sources(self) -> DataSources | None:
        """Return the sources of the training and the held-out data. None stands for the embedded corpus.

        Raises:
            DataError: The data set `name` is unknown or is in none of the places where it is looked for.
        """
        if self.name == EMBEDDED_CORPUS:
            return None
        if self.name is not None:
            return find_data(self.name)
        return None if self.train is None else DataSources(self.train, str(self.eval))

    def required_sources(self, task: str) -> DataSources:
        """Return the sources of the data for a task that cannot use the embedded corpus.

        Args:
            task: Name of the task, for the message.

        Raises:
            DataError: No data are set, or the data set `name` is in none of the places where it is looked for.
        """
        sources = self.sources()
        if sources is None:
            raise DataError(
                f"task {task}: the embedded corpus has labels of two classes alone; give --train and --eval, or --data "
                "FOLDER"
            )
        return sources


class LoadSettings(Protocol):
    """Settings that loading a base model and its adapter requires. `Settings` of a run is one."""

    @property
    def seed(self) -> int:
        """Seed of randomly initialised weights and of the adapter."""
        ...

    @property
    def num_threads(self) -> int:
        """Number of CPU threads. 0 uses all cores."""
        ...

    @property
    def device(self) -> str:
        """Name of the torch device, or `auto`."""
        ...

    @property
    def model(self) -> ModelSettings:
        """Section of the base model."""
        ...

    @property
    def data(self) -> DataSettings:
        """Section of the data."""
        ...

    @property
    def adapter(self) -> AdapterSettings:
        """Section of the adapter."""
        ...
