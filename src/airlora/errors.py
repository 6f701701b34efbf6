"""Every error that airlora raises on purpose, in one tree.

A message names the thing that is wrong, its value and what is allowed, in one line.  The command line prints
that line and exits with `AirloraError.exit_code`.

```text
AirloraError
├── SettingsError            a setting, flag or preset
├── RankPatternError         ranks, module names, shapes
├── ChannelError             SNR, bandwidth, fading, deadline
├── DataError                data sets, corpora, vocabularies
├── ModelError               base models and their modules
├── AdapterError             adapter files and the base they belong to
├── CodecError               adapter streams that are damaged, foreign or newer
├── PolicyError              rank policies and their files
├── CheckpointError          runs and checkpoints
├── TrainingError            a loss or reward that is not finite
├── StorageError             a file that cannot be read or written
├── ReleaseError             repositories, releases and their keys
├── NetworkError             a server that cannot be reached, or gives up (exit code 3)
├── TrustError               signatures, versions and digests that are not to be trusted (exit code 4)
└── MissingDependencyError   an optional package that is not installed
```
"""

from __future__ import annotations

from typing import Self

__all__ = [
    "AdapterError",
    "AirloraError",
    "ChannelError",
    "CheckpointError",
    "CodecError",
    "DataError",
    "MissingDependencyError",
    "ModelError",
    "NetworkError",
    "PolicyError",
    "RankPatternError",
    "ReleaseError",
    "SettingsError",
    "StorageError",
    "TrainingError",
    "TrustError",
]


class AirloraError(Exception):
    """A mistake that the user can mend; the message is one line.

    Args:
        message: What is wrong, in one line; line breaks are folded into spaces.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @classmethod
    def of(cls, name: str, value: object, allowed: str) -> Self:
        """Return the error `NAME = VALUE: ALLOWED`, the shape that every value error has.

        Args:
            name: The setting, argument or file.
            value: What was given; long values are cut to 120 characters.
            allowed: What would be accepted, for example `"a number above 0"`.

        >>> str(ChannelError.of("snr_db", 1e9, "a number from -50 to 100"))
        'snr_db = 1000000000.0: allowed is a number from -50 to 100'
        """
        shown = repr(value)
        if len(shown) > 120:
            shown = f"{shown[:117]}..."
        return cls(f"{name} = {shown}: allowed is {allowed}")


class SettingsError(AirloraError):
    """A setting, flag or preset has a value that is not allowed."""


class RankPatternError(AirloraError):
    """A rank, a module name or a module shape is not allowed."""


class ChannelError(AirloraError):
    """A channel quantity (SNR, bandwidth, deadline, fading) is not allowed."""


class DataError(AirloraError):
    """A data set, corpus or vocabulary is missing, empty or malformed."""


class ModelError(AirloraError):
    """A base model is missing or has no module of the names asked for."""


class AdapterError(AirloraError):
    """An adapter file is damaged or belongs to another base model."""


class CodecError(AirloraError):
    """An adapter stream is damaged, foreign or newer, or something cannot be coded."""


class PolicyError(AirloraError):
    """A rank policy cannot be used for this problem, or its file is damaged."""


class CheckpointError(AirloraError):
    """A run or checkpoint is missing, damaged or not airlora's."""


class TrainingError(AirloraError):
    """Training met a loss or a reward that is not a finite number."""


class StorageError(AirloraError):
    """A file or folder cannot be read or written (full disk, permission, read-only)."""


class ReleaseError(AirloraError):
    """A repository of releases, a manifest or a signing key is missing, damaged or not allowed."""


class NetworkError(AirloraError):
    """A server cannot be reached, or was given up after bounded retries."""

    exit_code = 3


class TrustError(AirloraError):
    """Something that came is not signed, too old, of the wrong digest, or otherwise not to be trusted."""

    exit_code = 4


class MissingDependencyError(AirloraError):
    """An optional package is needed and is not installed."""
