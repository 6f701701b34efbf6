"""The folder of a run: what is in it, and opening it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airlora.errors import CheckpointError
from airlora.files import make_folder, read_json, write_json
from airlora.ranks import ModuleShape, RankPattern
from airlora.training.settings import Settings, load_settings, save_settings

__all__ = ["RunFolder", "RunRecord"]

_FORMAT = "airlora-run"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a finished run came to; the contents of `run.json`.

    Args:
        model: Name of the base model.
        fingerprint: SHA-256 of its weights.
        label_names: Names of the classes, in order.
        modules: Shape, role and layer per adapted module, in order.
        policy: Name of the policy.
        rank_pattern: What the policy sends over the reference link.
        link: The reference link: `snr_db`, `bandwidth_hz`.
        accuracy: On the evaluation data, at `rank_pattern`.
        loss: Likewise, nats per sample.
        num_params: Adapter numbers of `rank_pattern`, true count.
        paper_num_params: The paper's count of the same.
        num_head_params: Numbers of the head, which travel as well.
        steps: Fine-tuning steps taken.
        text: Mean `entropy_nats` and `oov_rate` of the evaluation data.
    """

    model: str
    fingerprint: str
    label_names: tuple[str, ...]
    modules: Mapping[str, Mapping[str, Any]]
    policy: str
    rank_pattern: RankPattern
    link: Mapping[str, float]
    accuracy: float
    loss: float
    num_params: int
    paper_num_params: int
    num_head_params: int
    steps: int
    text: Mapping[str, float]

    @property
    def shapes(self) -> dict[str, ModuleShape]:
        """Shape per adapted module, in order."""
        return {name: ModuleShape(module["d_in"], module["d_out"]) for name, module in self.modules.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        value["label_names"] = list(self.label_names)
        value["rank_pattern"] = self.rank_pattern.to_dict()
        return {"format": _FORMAT, "version": _VERSION} | value


class RunFolder:
    """The files of one run.

    | file | what |
    |---|---|
    | `settings.toml` | the resolved settings |
    | `run.json` | what the run came to (`RunRecord`); written last |
    | `adapter.safetensors` | components, head, base-model fingerprint |
    | `policy.pt` | the trained policy |
    | `checkpoint.pt` | the whole state, to resume from |
    | `metrics.jsonl`, `tensorboard/` | what was measured on the way |
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def settings_path(self) -> Path:
        """`settings.toml`."""
        return self.path / "settings.toml"

    @property
    def record_path(self) -> Path:
        """`run.json`."""
        return self.path / "run.json"

    @property
    def adapter_path(self) -> Path:
        """`adapter.safetensors`."""
        return self.path / "adapter.safetensors"

    @property
    def policy_path(self) -> Path:
        """`policy.pt`."""
        return self.path / "policy.pt"

    @property
    def checkpoint_path(self) -> Path:
        """`checkpoint.pt`."""
        return self.path / "checkpoint.pt"

    def verify_free(self) -> None:
        """Raise `CheckpointError` if the folder already holds a run; nothing in it is touched."""
        if self.settings_path.exists() or self.record_path.exists() or self.checkpoint_path.exists():
            raise CheckpointError(
                f"{self.path}: already holds a run; choose another folder, or go on with it by --resume"
            )

    def create(self, settings: Settings) -> None:
        """Make the folder and write the settings; raises `CheckpointError` if it holds a run, or `StorageError`."""
        self.verify_free()
        make_folder(self.path)
        save_settings(settings, self.settings_path)

    def settings(self) -> Settings:
        """Return the settings of the run; raises `CheckpointError` if the folder holds none."""
        if not self.settings_path.is_file():
            raise CheckpointError(f"{self.path}: not a run of airlora (no {self.settings_path.name} in it)")
        return load_settings(toml=self.settings_path)

    def write_record(self, record: RunRecord) -> None:
        """Write `run.json`; raises `StorageError`."""
        write_json(self.record_path, record.to_dict())

    def record(self) -> RunRecord:
        """Return what the run came to; raises `CheckpointError` if it is not finished, damaged or not airlora's."""
        if self.settings_path.is_file() and not self.record_path.is_file():
            raise CheckpointError(f"{self.path}: the run is not finished; go on with it by `airlora train --resume`")
        value = read_json(self.record_path, "run", CheckpointError)
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise CheckpointError(f"{self.record_path}: not a run of airlora")
        if value.get("version") != _VERSION:
            raise CheckpointError.of(f"version of {self.record_path}", value.get("version"), str(_VERSION))
        try:
            fields = {name: value[name] for name in RunRecord.__dataclass_fields__}
            fields["label_names"] = tuple(fields["label_names"])
            fields["rank_pattern"] = RankPattern(fields["rank_pattern"])
            record = RunRecord(**fields)
            record.rank_pattern.verify(record.shapes)
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.record_path}: damaged ({type(error).__name__}: {error})") from error
        return record
