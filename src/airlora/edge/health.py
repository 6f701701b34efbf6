"""Whether a candidate may be installed: what the user's command says of it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from airlora.codec import DecodedStream
from airlora.errors import AirloraError, SettingsError

__all__ = ["HealthCheck", "HealthUnknownError", "command_check", "numbers_check"]

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
        limit_s = min(timeout_s, limit_s)
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command
                words,
                env={**os.environ, "AIRLORA_ADAPTER": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise HealthUnknownError(f"health command {words[0]}: took longer than {limit_s:.3g} s") from None
        except OSError as error:
            raise HealthUnknownError(f"health command {words[0]}: {(error.strerror or str(error)).lower()}") from error
        if done.returncode < 0:
            raise HealthUnknownError(f"health command {words[0]}: was killed by signal {-done.returncode}")
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
            return f"{words[0]} exited with {done.returncode} {last[0][:200]}".strip()
        return None

    return check
