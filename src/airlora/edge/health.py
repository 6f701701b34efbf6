"""Whether a candidate may be installed: what the user's command says of it, or a probe."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from airlora.codec import DecodedStream
from airlora.errors import AirloraError, SettingsError

__all__ = ["AccuracyProbe", "HealthCheck", "HealthUnknownError", "command_check", "numbers_check"]

HealthCheck = Callable[[Path, DecodedStream, float], str | None]
"""Given the candidate's file, what it decodes to and how many seconds there are, returns what is wrong, or None.

It raises `HealthUnknownError` if it cannot tell.
"""


class HealthUnknownError(AirloraError):
    """Nobody can say at the moment whether a candidate is good: it is neither installed nor refused for good."""


def numbers_check(_path: Path, decoded: DecodedStream, _limit_s: float = 0.0) -> str | None:
    """Return what is wrong with the numbers themselves: one that is not finite, or a head that has not come."""
    import numpy as np

    for name, (U, V) in decoded.modules.items():
        if not (np.isfinite(U).all() and np.isfinite(V).all()):
            return f"{name} holds a number that is not finite"
    for name, tensor in decoded.tensors.items():
        if not np.isfinite(tensor).all():
            return f"{name} holds a number that is not finite"
    missing = [name for name in decoded.header.tensors if name not in decoded.tensors]
    return f"{missing[0]} has not come" if missing else None


def command_check(command: str, timeout_s: float = 60.0) -> HealthCheck:
    """Return a check that runs a command: exit code 0 says that the adapter is good, any other that it is not.

    The candidate's file is in the environment variable `AIRLORA_ADAPTER`.  A command that cannot be started, is killed
    or takes too long says neither.

    Args:
        command: Split as a shell would, but run without one.
        timeout_s: How long it may take at most.

    Raises:
        SettingsError: The command is empty, its quotes do not close, or there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError.of("health command", command, f"words of a command ({error})") from error
    if not words:
        raise SettingsError.of("health command", command, "a command")
    if shutil.which(words[0]) is None:
        raise SettingsError.of("health command", words[0], "a program that is there and may be run")

    def check(path: Path, _decoded: DecodedStream, limit_s: float) -> str | None:
        done = _run(words, path, min(timeout_s, limit_s), words[0])
        return f"{words[0]} exited with {done.returncode} {_last_line(done)}".strip() if done.returncode else None

    return check


class AccuracyProbe:
    """A check that computes: the base model with the candidate, on samples that the device has.

    It runs `airlora evaluate` in a process of its own, so that the agent itself needs neither torch nor the model.

    Args:
        data: Samples with labels, as `airlora evaluate --data` takes them.
        least_accuracy: Share of right answers, 0 to 1, below which a candidate is refused.
        model: Its base model; None: the embedded one.
        timeout_s: How long it may take at most.

    Raises:
        SettingsError: A value is out of range, or the file is missing.
    """

    def __init__(
        self, data: Path, least_accuracy: float, *, model: str | None = None, timeout_s: float = 600.0
    ) -> None:
        if not 0.0 <= least_accuracy <= 1.0:
            raise SettingsError.of("least accuracy of the probe", least_accuracy, "a share of right answers, 0 to 1")
        if not data.is_file():
            raise SettingsError(f"probe {data}: no such file")
        self.accuracy: float | None = None
        """Of the last candidate; None: it was not measured."""
        self._least, self._timeout_s = least_accuracy, timeout_s
        self._options = ["--data", str(data), *([] if model is None else ["--model", model]), "--json"]

    def __call__(self, path: Path, _decoded: DecodedStream, limit_s: float) -> str | None:
        """Return that a candidate answers too often wrong; raises `HealthUnknownError` where it cannot be measured."""
        self.accuracy = None
        words = [sys.executable, "-m", "airlora.cli", "evaluate", str(path), *self._options]
        done = _run(words, path, min(self._timeout_s, limit_s), "probe")
        if done.returncode:
            # A package or a file that is missing says nothing of the candidate.
            raise HealthUnknownError(f"probe: {_last_line(done)}")
        try:
            self.accuracy = float(json.loads(done.stdout)["accuracy"])
        except (ValueError, KeyError, TypeError) as error:
            raise HealthUnknownError(f"probe: airlora evaluate said {done.stdout[:80]!r}") from error
        if self.accuracy < self._least:
            return f"probe: {self.accuracy:.1%} of the answers are right, fewer than {self._least:.1%}"
        return None


def _run(words: list[str], path: Path, limit_s: float, name: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command on a candidate; raises `HealthUnknownError` unless it ended by itself."""
    name = name if name == "probe" else f"health command {name}"
    try:
        done = subprocess.run(  # noqa: S603 - the user's own command
            words,
            env={**os.environ, "AIRLORA_ADAPTER": str(path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HealthUnknownError(f"{name}: took longer than {limit_s:.3g} s") from None
    except OSError as error:
        raise HealthUnknownError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    if done.returncode < 0:
        raise HealthUnknownError(f"{name}: was killed by signal {-done.returncode}")
    return done


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
    return lines[0].removeprefix("airlora: ")[:200]
