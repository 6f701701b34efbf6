"""Folder and record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airlora.errors import CheckpointError, SettingsError
from airlora.files import make_folder, read_json, write_json
from airlora.ranks import ModuleShape, RankPattern
from airlora.settings.loading import validate
from airlora.tasks import Task, find_task
from airlora.training.settings import Settings, read_settings, save_settings

__all__ = ["RunFolder", "RunRecord"]

_FORMAT = "airlora-run"
_VERSION = 1
_FIRST_TASK = "classification"
"""Task of records without the key `task`, which were written when there was no other task."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Result of a finished run, the contents of `run.json`.

    Args:
        model: Name of the base model.
        fingerprint: Fingerprint of the base model.
        modules: `d_in`, `d_out`, `role` and `layer` of each adapted module by name, in order.
        policy: Name of the policy.
        rank_pattern: Ranks that the policy sends over the reference link.
        link: Reference link: `snr_db`, `bandwidth_hz`.
        num_params: Number of adapter parameters at `rank_pattern`.
        paper_num_params: Number of adapter parameters at `rank_pattern` by the paper's formula.
        num_head_params: Number of parameters of the head, which is always sent.
        steps: Number of fine-tuning steps.
        text: Mean `entropy_nats` and `oov_rate` of the evaluation data.
        task: Task of the run. Its fields are top-level keys of `run.json`.
        metrics: Metrics at `rank_pattern` on the evaluation data by name, top-level keys of `run.json`.
        stream: `bytes` of the run's own stream, and its metrics on the evaluation data. None without a stream.
    """

    model: str
    fingerprint: str
    modules: Mapping[str, Mapping[str, Any]]
    policy: str
    rank_pattern: RankPattern
    link: Mapping[str, float]
    num_params: int
    paper_num_params: int
    num_head_params: int
    steps: int
    text: Mapping[str, float]
    task: Task
    metrics: Mapping[str, float]
    stream: Mapping[str, float] | None = None

    @property
    def shapes(self) -> dict[str, ModuleShape]:
        """Shape of each adapted module by name, in order."""
        return {name: ModuleShape(module["d_in"], module["d_out"]) for name, module in self.modules.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("task", "metrics")}
        if self.stream is None:
            del own["stream"]
        own["rank_pattern"] = self.rank_pattern.to_dict()
        task = {"task": self.task.name, **self.task.model_dump(mode="json")}
        return {"format": _FORMAT, "version": _VERSION} | own | task | dict(self.metrics)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> RunRecord:
        """Return the record that `to_dict` was called on.

        Raises:
            KeyError, TypeError, AttributeError, SettingsError: A key is missing or its value is invalid.
        """
        task = find_task(value.get("task", _FIRST_TASK))
        own: dict[str, Any] = {
            name: value[name] for name in cls.__dataclass_fields__ if name not in ("task", "metrics", "stream")
        }
        own["rank_pattern"] = RankPattern(own["rank_pattern"])
        metrics = {metric.name: value[metric.name] for metric in task.metrics}
        return cls(**own, task=validate(task, value), metrics=metrics, stream=value.get("stream"))


class RunFolder:
    """Files of one run.

    | file | contents |
    |---|---|
    | `settings.toml` | resolved settings |
    | `run.json` | result of the run (`RunRecord`), written last |
    | `adapter.safetensors` | components, head, fingerprint of the base model |
    | `coefficients.safetensors` | coefficients and head of a seeded adapter before rounding |
    | `stream.airs` | stream of a seeded adapter |
    | `policy.pt` | trained policy |
    | `checkpoint.pt` | state from which an interrupted run resumes |
    | `metrics.jsonl`, `tensorboard/` | metrics of every step |

    Args:
        path: Path of the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.settings_path = self.path / "settings.toml"
        self.record_path = self.path / "run.json"
        self.adapter_path = self.path / "adapter.safetensors"
        self.coefficients_path = self.path / "coefficients.safetensors"
        self.stream_path = self.path / "stream.airs"
        self.policy_path = self.path / "policy.pt"
        self.checkpoint_path = self.path / "checkpoint.pt"

    def verify_free(self) -> None:
        """Raise `CheckpointError` if the folder already contains a run."""
        if self.settings_path.exists() or self.record_path.exists() or self.checkpoint_path.exists():
            raise CheckpointError(
                f"{self.path}: already holds a run; choose another folder, or resume it with --resume"
            )

    def create(self, settings: Settings) -> None:
        """Make the folder and write the settings.

        Raises:
            CheckpointError: The folder already contains a run.
            StorageError: The folder cannot be written.
        """
        self.verify_free()
        make_folder(self.path)
        save_settings(settings, self.settings_path)

    def settings(self) -> Settings:
        """Return the settings of the run; raises `CheckpointError` if the folder contains none."""
        if not self.settings_path.is_file():
            raise CheckpointError(f"{self.path}: not a run of airlora (no {self.settings_path.name} in it)")
        return read_settings(self.settings_path)

    def write_record(self, record: RunRecord) -> None:
        """Write `run.json`; raises `StorageError`."""
        write_json(self.record_path, record.to_dict())

    def record(self) -> RunRecord:
        """Return the result of the run.

        Raises:
            CheckpointError: The run is not finished, or its record is damaged or foreign.
        """
        if self.settings_path.is_file() and not self.record_path.is_file():
            raise CheckpointError(f"{self.path}: the run is not finished; resume it with `airlora train --resume`")
        value = read_json(self.record_path, "run", CheckpointError)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise CheckpointError(f"{self.record_path}: not a run of airlora")
        if value.get("version") != _VERSION:
            raise CheckpointError.of(f"version of {self.record_path}", value.get("version"), str(_VERSION))
        try:
            record = RunRecord.from_dict(value)
            record.rank_pattern.verify(record.shapes)
        except (KeyError, TypeError, AttributeError, SettingsError) as error:
            raise CheckpointError(f"{self.record_path}: damaged ({type(error).__name__}: {error})") from error
        return record
