"""Kinds of trials: the functions that train or measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airlora.errors import SettingsError
from airlora.reproduce.trial import Trial, TrialResult

__all__ = ["KINDS", "TrialKind", "find_kind", "run_trial"]

TrialKind = Callable[[Mapping[str, Any], int, Path, Callable[[], None]], TrialResult]
"""Function that runs a trial and returns its result.

Its arguments are the options of the trial, its seed, an existing folder for files that later trials on the same machine
may reuse, and a function to call after every step. It is a function of a module, so that other processes can import it.
It computes on the CPU. Its result depends on the options and the seed alone, however many trials run at once.
"""

KINDS: dict[str, TrialKind] = {}
"""The kinds of trials by name."""


def find_kind(name: str, kinds: Mapping[str, TrialKind] = KINDS) -> TrialKind:
    """Return the function of a kind of trials.

    Args:
        name: Name of the kind.
        kinds: Kinds of trials by name.

    Raises:
        SettingsError: The name is unknown.
    """
    if name not in kinds:
        raise SettingsError.of("kind of a trial", name, f"one of {', '.join(kinds)}")
    return kinds[name]


def run_trial(
    trial: Trial, cache: Path, count_step: Callable[[], None], *, kinds: Mapping[str, TrialKind] = KINDS
) -> TrialResult:
    """Run a trial in this process and return its result.

    Args:
        trial: Trial to run.
        cache: Existing folder for files that later trials may reuse.
        count_step: Function called after every step of the trial.
        kinds: Kinds of trials by name.

    Raises:
        SettingsError: The kind of the trial is unknown.
        AirloraError: The trial's options are not allowed.
    """
    return find_kind(trial.kind, kinds)(trial.options, trial.seed, cache, count_step)
