"""The decision of a finished run, from its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airlora.training import RunFolder

__all__ = ["inspect_run"]


def inspect_run(run: Path | str) -> dict[str, Any]:
    """Return the rank pattern, policy, model, accuracy and parameter counts of a finished run.

    Reads the record of the run alone, without the model.

    Raises:
        CheckpointError: The run is not finished, or its record is damaged.
    """
    record = RunFolder(run).record()
    return {
        "rank_pattern": record.rank_pattern.to_dict(),
        "modules": dict(record.modules),
        "policy": {"name": record.policy, "link": dict(record.link)},
        "model": {
            "name": record.model,
            "fingerprint": record.fingerprint,
            "task": record.task.name,
            **record.task.model_dump(mode="json"),
        },
        **record.metrics,
        "num_params": record.num_params,
        "paper_num_params": record.paper_num_params,
        "num_head_params": record.num_head_params,
        "steps": record.steps,
        "text": dict(record.text),
    }
