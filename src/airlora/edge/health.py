"""Whether a candidate may be installed: what the user's command says of it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from airlora.codec import DecodedStream
from airlora.errors import SettingsError

__all__ = ["HealthCheck", "command_check", "numbers_check"]

HealthCheck = Callable[[Path, DecodedStream], str | None]
"""Given the candidate's file and what it decodes to, returns what is wrong with it, or None."""


def numbers_check(_path: Path, decoded: DecodedStream) -> str | None:
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
    """Return a check that runs a command: exit code 0 says that the adapter is good.

    The candidate's file is in the environment variable `AIRLORA_ADAPTER`.

    Args:
        command: Split as a shell would, but run without one.
        timeout_s: A command that takes longer has failed.

    Raises:
        SettingsError: The command is empty or its quotes do not close.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise SettingsError.of("health command", command, f"words of a command ({error})") from error
    if not words:
        raise SettingsError.of("health command", command, "a command")

    def check(path: Path, _decoded: DecodedStream) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command
                words,
                env={**os.environ, "AIRLORA_ADAPTER": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{words[0]} took longer than {timeout_s:g} s"
        except OSError as error:
            return f"{words[0]}: {(error.strerror or str(error)).lower()}"
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [""]
            return f"{words[0]} exited with {done.returncode} {last[0][:200]}".strip()
        return None

    return check
