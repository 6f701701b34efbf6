"""Health checks of a candidate before it is installed: its parameters, a command, or a measured accuracy."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airlora.codec import DecodedStream
from airlora.errors import AirloraError, SettingsError

__all__ = ["AccuracyProbe", "HealthCheck", "HealthUnknownError", "command_check", "parameter_check"]

MAX_OUTPUT_BYTES = 64 * 1024
"""Bytes from the end of a command's output that are kept."""

OUTPUT_TIMEOUT_S = 0.5
"""Maximum seconds to wait for the output of a command that has ended."""

HealthCheck = Callable[[Path, DecodedStream, float], str | None]
"""Function of the candidate's file, the decoded candidate and the seconds it may take.

It returns why the candidate must not be installed, or None. It raises `HealthUnknownError` if it cannot tell.
"""


class HealthUnknownError(AirloraError):
    """A check could not be carried out. The candidate is neither installed nor refused for good."""


def parameter_check(_path: Path, decoded: DecodedStream, _limit_s: float = 0.0) -> str | None:
    """Return the name of a parameter that is not finite or of a dense tensor that is missing. None if all are usable.

    This is a `HealthCheck` that every candidate must pass.
    """
    import numpy as np

    for name, (U, V) in decoded.modules.items():
        if not (np.isfinite(U).all() and np.isfinite(V).all()):
            return f"{name} has a parameter that is not finite"
    for name, tensor in decoded.tensors.items():
        if not np.isfinite(tensor).all():
            return f"{name} has a parameter that is not finite"
    missing = [name for name in decoded.header.tensors if name not in decoded.tensors]
    return f"{missing[0]} is missing" if missing else None


def command_check(command: str, timeout_s: float = 60.0) -> HealthCheck:
    """Return a check that runs a command. Exit code 0 accepts the candidate, any other exit code refuses it.

    The environment variable `AIRLORA_ADAPTER` names the candidate's file. The check cannot tell if the command does not
    start, is killed or takes too long.

    Args:
        command: Command line. It is split as a shell does, but no shell runs it.
        timeout_s: Maximum duration of the command in seconds.

    Raises:
        SettingsError: The command is empty, a quote is not closed, or the program does not exist.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError.of("health command", command, f"a command line ({error})") from error
    if not words:
        raise SettingsError.of("health command", command, "a command line")
    if shutil.which(words[0]) is None:
        raise SettingsError.of("health command", words[0], "an executable program")

    def check(path: Path, _decoded: DecodedStream, limit_s: float) -> str | None:
        done = run_command(words, path, min(timeout_s, limit_s), words[0])
        return f"{words[0]} exited with {done.code} {done.last_line}".strip() if done.code else None

    return check


class AccuracyProbe:
    """Check that measures the accuracy of the base model with the candidate on labelled samples of the device.

    For another task than classification, it measures the quality that releases of the task state, such as the share of
    right tokens.

    It runs `airlora evaluate` in a separate process, so that the agent itself loads neither PyTorch nor the model.

    Args:
        data: File of labelled samples, as for `airlora evaluate --data`.
        min_accuracy: Share of right answers, 0 to 1, below which a candidate is refused.
        model: Base model. None for the embedded model.
        timeout_s: Maximum duration of the measurement in seconds.

    Attributes:
        accuracy: Measured accuracy of the last candidate. None if it could not be measured.

    Raises:
        SettingsError: `min_accuracy` is out of range, or the file is missing.
    """

    def __init__(self, data: Path, min_accuracy: float, *, model: str | None = None, timeout_s: float = 600.0) -> None:
        if not 0.0 <= min_accuracy <= 1.0:
            raise SettingsError.of("minimum accuracy of the probe", min_accuracy, "a share of right answers, 0 to 1")
        if not data.is_file():
            raise SettingsError(f"probe {data}: no such file")
        self.accuracy: float | None = None
        self._min_accuracy, self._timeout_s = min_accuracy, timeout_s
        self._options = ["--data", str(data), *([] if model is None else ["--model", model]), "--json"]

    def __call__(self, path: Path, _decoded: DecodedStream, limit_s: float) -> str | None:
        """Return why the candidate is not accurate enough, or None; see `HealthCheck`."""
        self.accuracy = None
        words = [sys.executable, "-m", "airlora.cli", "evaluate", str(path), *self._options]
        done = run_command(words, path, min(self._timeout_s, limit_s), "probe")
        if done.code:
            # A missing package or file says nothing about the candidate.
            raise HealthUnknownError(f"probe: {done.last_line}")
        try:
            accuracy = float(json.loads(done.output)["quality"])
            if not 0.0 <= accuracy <= 1.0:
                raise ValueError("accuracy out of range")
        except (ValueError, KeyError, TypeError) as error:
            raise HealthUnknownError(f"probe: airlora evaluate printed {done.output[:80]!r}") from error
        self.accuracy = accuracy
        if accuracy < self._min_accuracy:
            return f"probe: accuracy {accuracy:.1%}, below {self._min_accuracy:.1%}"
        return None


@dataclass(frozen=True)
class CommandResult:
    """Result of a command that ended by itself.

    Args:
        code: Exit code.
        output: End of the standard output.
        errors: End of the standard error output.
    """

    code: int
    output: bytes
    errors: bytes

    @property
    def last_line(self) -> str:
        """Last line of the standard error output, at most 200 characters."""
        lines = self.errors.decode(errors="replace").strip().splitlines()[-1:] or [""]
        return lines[0].removeprefix("airlora: ")[:200]


def run_command(words: list[str], path: Path, limit_s: float, name: str) -> CommandResult:
    """Return the result of a command on a candidate.

    A command that takes too long is killed together with all processes that it started. Processes that outlive a
    command which ended by itself are left alone.

    Args:
        words: Program and arguments.
        path: File of the candidate.
        limit_s: Maximum duration in seconds.
        name: Name of the command for error messages.

    Raises:
        HealthUnknownError: The command did not start, was killed, or took too long.
    """
    name = name if name == "probe" else f"health command {name}"
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command
            words,
            env={**os.environ, "AIRLORA_ADAPTER": str(path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise HealthUnknownError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    output, errors = _Tail(process.stdout), _Tail(process.stderr)
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise HealthUnknownError(f"{name}: took longer than {limit_s:.3g} s") from None
    finally:
        if process.poll() is None:
            _kill(process)
    if code < 0:
        raise HealthUnknownError(f"{name}: was killed by signal {-code}")
    return CommandResult(code, output.read(), errors.read())


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


class _Tail:
    """Reader that keeps the end of a pipe's output, so that the writing process never blocks."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._content = b""
        self._thread = threading.Thread(target=self._take, args=(pipe,), daemon=True)
        self._thread.start()

    def read(self) -> bytes:
        """Return the last `MAX_OUTPUT_BYTES` of the output, after at most `OUTPUT_TIMEOUT_S` of waiting for its end."""
        # Another process that the command started may hold the pipe open.
        self._thread.join(OUTPUT_TIMEOUT_S)
        return self._content

    def _take(self, pipe: IO[bytes] | None) -> None:
        if pipe is None:
            return
        with pipe:
            while chunk := os.read(pipe.fileno(), MAX_OUTPUT_BYTES):
                self._content = (self._content + chunk)[-MAX_OUTPUT_BYTES:]
