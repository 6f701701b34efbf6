"""A trial: one training or measurement whose result depends on its kind, its options and its seed alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airlora.version import __version__

__all__ = ["Trial", "TrialKind", "TrialResult", "digest_of"]

TrialResult = dict[str, Any]
"""Result of a trial: plain values for JSON."""

TrialKind = Callable[[Mapping[str, Any], int, Path, Callable[[], None]], TrialResult]
"""Function that runs a trial and returns its result.

Its arguments are the options of the trial, its seed, an existing folder for files that later trials on the same machine
may reuse, and a function to call after every step. It is a function of a module, so that other processes can import it.
Its result depends on the options and the seed alone, however many trials run at once; only `timing` measures time.
"""


@dataclass(frozen=True)
class Trial:
    """Description of one trial. Equal trials of several tables run once.

    Args:
        kind: Name of a function in `airlora.reproduce.kinds.KINDS`, which runs the trial.
        options: Arguments of that function, plain values for JSON.
        seed: Seed of the trial.
        num_steps: Steps that the trial takes, for the progress and the expected time.
        step_seconds: Expected duration of a step, s on one core, for `--dry-run`.
        rate_family: Family of methods whose learning rate the trial uses (see `RATE_KEYS`). None if it uses none.
    """

    kind: str
    options: Mapping[str, Any]
    seed: int
    num_steps: int = field(default=1, compare=False)
    step_seconds: float = field(default=1.0, compare=False)
    rate_family: str | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Digest of version, kind, options and seed: the name of the trial's result file."""
        return digest_of([__version__, self.kind, self.options, self.seed])[:20]


def digest_of(content: Any) -> str:
    """Return the SHA-256 of plain values for JSON, whatever the order of their keys, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
