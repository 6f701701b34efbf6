"""Error classes of airlora, all derived from `AirloraError`.

A message is one line that names the setting or file, its value and what is allowed. The command line prints the
message and exits with `AirloraError.exit_code`.

```text
AirloraError
├── SettingsError            a setting, flag or preset
├── RankPatternError         ranks, module names, shapes
├── ChannelError             SNR, bandwidth, fading, deadline
├── DataError                data sets, corpora, vocabularies
├── ModelError               base models and their modules
├── AdapterError             adapter files and their base models
├── CodecError               adapter streams
├── PolicyError              rank policies and their files
├── CheckpointError          runs and checkpoints
├── TrainingError            losses and rewards that are not finite
├── StorageError             files that cannot be read or written
├── ReleaseError             repositories, releases and their keys
├── NetworkError             unreachable servers (exit code 3)
├── TrustError               signatures, versions and digests (exit code 4)
└── MissingDependencyError   optional packages that are not installed
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
    """Base class of all errors that airlora raises deliberately.

    Args:
        message: Description of the problem and its remedy. Line breaks are replaced by spaces.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @classmethod
    def of(cls, name: str, value: object, allowed: str) -> Self:
        """Return the error with the message `NAME = VALUE: allowed is ALLOWED`.

        Args:
            name: Name of the setting, argument or file.
            value: Rejected value, shown with at most 120 characters.
            allowed: Description of the allowed values, such as `"a number above 0"`.

        Examples:
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
    """A base model is missing or damaged, or lacks a requested module."""


class AdapterError(AirloraError):
    """An adapter file is missing, damaged or belongs to another base model."""


class CodecError(AirloraError):
    """An adapter stream is damaged, of an unknown format or version, or an adapter cannot be encoded."""


class PolicyError(AirloraError):
    """A rank policy does not fit the problem, or its file is damaged."""


class CheckpointError(AirloraError):
    """A run or checkpoint is missing, damaged or not written by airlora."""


class TrainingError(AirloraError):
    """A loss, gradient or reward in training is not finite or not available."""


class StorageError(AirloraError):
    """A file or folder cannot be read or written, for example because the disk is full or read-only."""


class ReleaseError(AirloraError):
    """A repository of releases, a manifest or a signing key is missing, damaged or not allowed."""


class NetworkError(AirloraError):
    """A server cannot be reached within the allowed retries."""

    exit_code = 3


class TrustError(AirloraError):
    """Received data have a missing or invalid signature, an outdated version or a wrong digest."""

    exit_code = 4


class MissingDependencyError(AirloraError):
    """A required optional package is not installed."""
