import json
import re
from pathlib import Path

import pytest

from airlora.errors import CheckpointError
from airlora.progress import SilentProgress
from airlora.training import Settings, load_settings
from airlora.workflows.demo import demo_settings, run_demo


def settings(model: Path, data: tuple[Path, Path], seed: int = 42) -> Settings:
    return load_settings(
        "quick",
        overrides={
            "seed": seed,
            "model.name": str(model),
            "data.train": str(data[0]),
            "data.eval": str(data[1]),
            "data.max_length": 16,
            "adapter.r_max": 4,
            "adapter.scale": 2.0,
            "policy.name": "airllm",
            "policy.constant_rank": 2,
            "finetune.steps": 12,
            "finetune.batch_size": 8,
            "finetune.eval_every": 6,
            "finetune.precision": "float32",
            "channel.bandwidth_hz": [2e4],
            "env.frozen_batch_size": 6,
            "env.frozen_batches": 3,
            "policy.steps": 16,
            "policy.rollout_steps": 8,
            "num_threads": 1,
            "tensorboard": False,
            "diffusion.num_train_timesteps": 20,
            "diffusion.num_inference_steps": 4,
            "diffusion.updates_per_stage": 4,
        },
    )


def test_the_demo_compares_all_policies_on_five_links_and_resumes(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    chosen = settings(tiny_model, tiny_data)
    result = run_demo(tmp_path / "demo", chosen, watcher=SilentProgress(), command="airlora demo")
    names = {row.policy for row in result.rows}
    assert names == {"airllm", "allocate", "greedy", "constant", "random", "adalora", "adalora-ranks"}
    assert len(result.rows) == 5 * len(names)
    for row in result.rows:
        # Every payload meets the deadline.
        assert row.deadline_share <= 1.0
        assert row.payload_bytes == 4 * (row.num_params + row.num_head_params)
        assert 0.0 <= row.score <= 1.0
    page = result.report.read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"(src|href)=\"(http|//)", page)
    assert "airlora demo" in page
    saved = json.loads((tmp_path / "demo" / "comparison.json").read_text())
    assert saved == json.loads(json.dumps([row.to_dict() for row in result.rows]))
    # A second demo uses the finished run.
    again = run_demo(tmp_path / "demo", chosen, watcher=SilentProgress(), command="airlora demo")
    assert again.rows == result.rows


def test_a_demo_does_not_overwrite_a_run_of_other_settings(
    tmp_path: Path, tiny_model: Path, tiny_data: tuple[Path, Path]
) -> None:
    from airlora.training import RunFolder

    RunFolder(tmp_path / "demo").create(settings(tiny_model, tiny_data))
    with pytest.raises(CheckpointError, match="holds a run of other settings"):
        run_demo(tmp_path / "demo", settings(tiny_model, tiny_data, seed=1), watcher=SilentProgress(), command="x")


@pytest.mark.parametrize("preset", ["standard", "paper-literal", "paper"])
def test_another_preset_replaces_the_settings_of_the_demo(preset: str) -> None:
    found = demo_settings({"preset": preset, "seed": 7})
    assert found == load_settings(preset, overrides={"seed": 7})
    assert demo_settings({"preset": "quick"}) == demo_settings() != load_settings("quick")
