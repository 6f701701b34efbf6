"""Whether a candidate may be installed: what the user's command says of it, or a probe."""

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

__all__ = ["AccuracyProbe", "HealthCheck", "HealthUnknownError", "command_check", "numbers_check"]

KEPT_BYTES = 64 * 1024
"""Of what a command writes: the end of it."""

LINGER_S = 0.5
"""How long the end of its output is waited for once a command has ended."""

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
        done = run_command(words, path, min(timeout_s, limit_s), words[0])
        return f"{words[0]} exited with {done.code} {done.last_line}".strip() if done.code else None

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
        done = run_command(words, path, min(self._timeout_s, limit_s), "probe")
        if done.code:
            # A package or a file that is missing says nothing of the candidate.
            raise HealthUnknownError(f"probe: {done.last_line}")
        try:
            self.accuracy = float(json.loads(done.output)["accuracy"])
        except (ValueError, KeyError, TypeError) as error:
            raise HealthUnknownError(f"probe: airlora evaluate said {done.output[:80]!r}") from error
        if self.accuracy < self._least:
            return f"probe: {self.accuracy:.1%} of the answers are right, fewer than {self._least:.1%}"
        return None


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: Its exit code.
        output: The end of what it wrote.
        errors: The end of what it wrote to standard error.
    """

    code: int
    output: bytes
    errors: bytes

    @property
    def last_line(self) -> str:
        """The last thing that it said, cut."""
        lines = self.errors.decode(errors="replace").strip().splitlines()[-1:] or [""]
        return lines[0].removeprefix("airlora: ")[:200]


def run_command(words: list[str], path: Path, limit_s: float, name: str) -> Ended:
    """Run a command on a candidate; raises `HealthUnknownError` unless it ended by itself.

    What it leaves running when it ends is its own business; what is running when it takes too long is stopped with it.
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
    return Ended(code, output.read(), errors.read())


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Stop a command and all that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


class _Tail:
    """The end of what a pipe brings, read as it comes, so that whoever writes is not held up."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._content = b""
        self._thread = threading.Thread(target=self._take, args=(pipe,), daemon=True)
        self._thread.start()

    def read(self) -> bytes:
        """Return it; a process that the command left behind is not waited for."""
        self._thread.join(LINGER_S)
        return self._content

    def _take(self, pipe: IO[bytes] | None) -> None:
        if pipe is None:
            return
        with pipe:
            while chunk := os.read(pipe.fileno(), KEPT_BYTES):
                self._content = (self._content + chunk)[-KEPT_BYTES:]
