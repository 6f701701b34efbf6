import json
from pathlib import Path
from typing import Any

import pytest
import torch

from airlora.adapters import dense_reference, read_adapter_metadata
from airlora.errors import AdapterError, CheckpointError, SettingsError
from airlora.policy import load_policy
from airlora.ranks import RankPattern
from airlora.tasks import predict
from airlora.text import TokenizerVocabulary
from airlora.training import (
    Interrupted,
    RunFolder,
    Settings,
    Trainer,
    load_settings,
    open_run,
    read_metrics,
    seeded_recipe,
    train,
)


def with_(settings: Settings, **overrides: Any) -> Settings:
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    flat = settings.model_dump(exclude_none=True)
    for key, value in values.items():
        *sections, last = key.split(".")
        place = flat
        for section in sections:
            place = place[section]
        place[last] = value
    return Settings.model_validate(flat)


class Recorder:
    """Reporter that records the phases and can send SIGTERM at a step."""

    def __init__(self, interrupt_at: tuple[str, int] | None = None) -> None:
        self.phases: list[str] = []
        self.interrupt_at = interrupt_at

    def phase(self, title: str, total: int, done: int = 0) -> None:
        self.phases.append(title)

    def step(self, done: int, values: Any) -> None:
        if self.interrupt_at is not None and (self.phases[-1], done) == self.interrupt_at:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    def show(self, values: Any) -> None:
        assert 0.0 <= values["accuracy"] <= 1.0


@pytest.mark.parametrize(
    "policy", ["airllm", "ppo", "ddim", "cmaes", "allocate", "greedy", "eva", "constant", "random"]
)
def test_every_policy_trains_a_complete_run(settings: Settings, tmp_path: Path, policy: str) -> None:
    chosen = with_(settings, policy__name=policy, env__objective="frozen" if policy == "greedy" else "live")
    record = train(chosen, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.settings() == chosen
    assert folder.record() == record
    assert record.policy == policy
    assert record.steps == 12
    assert 0.0 <= record.metrics["accuracy"] <= 1.0
    assert record.num_params == record.rank_pattern.num_params(record.shapes)
    assert read_adapter_metadata(folder.adapter_path).rank_pattern == record.rank_pattern
    assert load_policy(folder.policy_path).name == policy
    kinds = {line["kind"] for line in read_metrics(folder.path)}
    assert {"finetune", "eval"} <= kinds
    assert ("learn" in kinds) == (policy in ("airllm", "ppo", "ddim", "cmaes", "allocate"))


def test_an_opened_run_gives_the_recorded_result(settings: Settings, tmp_path: Path, tiny_data: Any) -> None:
    record = train(with_(settings, policy__name="allocate", finetune__learning_rate=0.05), tmp_path / "run")
    run = open_run(tmp_path / "run")
    data = run.task.read(run.settings.data, str(tiny_data[1]))
    evaluation = run.predict(data).evaluation
    assert evaluation.score == record.metrics["accuracy"]
    assert evaluation.loss == pytest.approx(record.metrics["loss"], abs=1e-9)
    zero = run.predict(data, RankPattern.constant(record.shapes, 0))
    full = run.predict(data, RankPattern.constant(record.shapes, 4))
    assert not torch.equal(zero.logits, full.logits)
    # At any pattern the logits are those of the base model with the update added to its weights.
    mixed = RankPattern.from_ranks(record.shapes, [rank % 5 for rank in range(len(record.shapes))])
    ours = run.predict(data, mixed).logits
    encoded = run.task.encode(data, run.tokenizer, TokenizerVocabulary(run.tokenizer), run.settings.data.max_length)
    dense = predict(dense_reference(run.adapted), encoded, run.device).logits
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("objective", "policy", "where"),
    [
        ("live", "airllm", ("fine-tuning", 6)),
        ("live", "airllm", ("learning", 7)),
        ("live", "cmaes", ("learning", 7)),
        ("live", "allocate", ("fine-tuning", 6)),
        ("frozen", "cmaes", ("fine-tuning", 6)),
        ("frozen", "allocate", ("learning", 7)),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_result(
    settings: Settings, tmp_path: Path, objective: str, policy: str, where: tuple[str, int]
) -> None:
    chosen = with_(settings, policy__name=policy, env__objective=objective, env__full_rank_steps_per_action=0)
    whole = train(chosen, tmp_path / "whole")
    phase = where[0] if where[0] == "fine-tuning" else f"learning {policy}"
    with pytest.raises(Interrupted, match="the state is saved, resume with: airlora train --resume"):
        train(chosen, tmp_path / "broken", progress=Recorder((phase, where[1])))
    resumed = train(chosen, tmp_path / "broken", resume=True)
    assert resumed == whole
    for name in ("adapter.safetensors", "metrics.jsonl", "run.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name


def test_early_stopping_ends_fine_tuning(settings: Settings, tmp_path: Path) -> None:
    stopping = with_(
        settings,
        policy__patience=1,
        policy__name="constant",
        finetune__steps=60,
        finetune__eval_every=3,
        env__cost_weight=1.0,
        channel__bandwidth_hz=[1e8],
        finetune__learning_rate=1e-9,
        finetune__head_learning_rate=1e-9,
    )
    assert train(stopping, tmp_path / "stopped").steps == 6
    assert train(with_(stopping, policy__early_stop=False), tmp_path / "whole").steps == 60


def test_a_run_of_no_steps_evaluates_the_untrained_model(settings: Settings, tmp_path: Path) -> None:
    record = train(with_(settings, finetune__steps=0, policy__steps=0), tmp_path / "run")
    assert record.steps == 0


def test_phases_are_reported_in_order(settings: Settings, tmp_path: Path) -> None:
    watcher = Recorder()
    train(with_(settings, policy__name="allocate"), tmp_path / "run", progress=watcher)
    assert watcher.phases == ["fine-tuning", "learning allocate"]


def test_unsuitable_folders_and_settings_are_refused(settings: Settings, tmp_path: Path) -> None:
    quick = with_(settings, policy__name="constant")
    train(quick, tmp_path / "run")
    with pytest.raises(CheckpointError, match="already holds a run"):
        train(quick, tmp_path / "run")
    with pytest.raises(CheckpointError, match="finished"):
        train(quick, tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="not a run of airlora"):
        train(quick, tmp_path / "nothing", resume=True)
    with pytest.raises(SettingsError, match="env.objective = 'live'"):
        train(with_(settings, policy__name="greedy", env__objective="live"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_damaged_checkpoint_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(settings, tmp_path / "run", progress=Recorder(("fine-tuning", 6)))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[:-100])
    with pytest.raises(CheckpointError, match="checkpoint.pt: damaged"):
        train(settings, tmp_path / "run", resume=True)
    checkpoint.write_bytes(good)
    toml = tmp_path / "run" / "settings.toml"
    toml.write_text(toml.read_text().replace("seed = 42", "seed = 43"))
    assert train(settings, tmp_path / "run", resume=True).steps == 12


def test_an_adapter_of_another_base_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    train(with_(settings, policy__name="constant"), tmp_path / "run")
    record = tmp_path / "run" / "run.json"
    value = json.loads(record.read_text())
    record.write_text(json.dumps(value | {"fingerprint": "0" * 64}))
    with pytest.raises(AdapterError, match="made for the base model 000000000000"):
        open_run(tmp_path / "run")


def test_the_ranks_of_a_run_keep_the_deadline(settings: Settings, tmp_path: Path) -> None:
    for policy in ("constant", "random", "allocate"):
        chosen = with_(settings, policy__name=policy, channel__bandwidth_hz=[5e3])
        record = train(chosen, tmp_path / policy)
        budget = 5e3 * torch.log2(torch.tensor(1 + 10**0.5)).item() / 32
        assert record.num_params + record.num_head_params <= budget


def test_the_trainer_shares_one_policy_between_the_phases(settings: Settings, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(settings)
    trainer = Trainer(settings, folder, Recorder())
    trainer.run(resume=False)
    assert trainer._policy is not None
    assert load_settings(toml=folder.settings_path) == settings


@pytest.mark.parametrize(("objective", "policy"), [("frozen", "greedy"), ("live", "airllm")])
def test_a_run_with_head_and_alignment_steps_resumes_to_the_same_result(
    settings: Settings, tmp_path: Path, objective: str, policy: str
) -> None:
    start = {"finetune__head_steps": 3, "finetune__align_steps": 2, "model__dropout": False, "adapter__dropout": 0.2}
    chosen = with_(settings, policy__name=policy, env__objective=objective, **start)
    expected = train(chosen, tmp_path / "whole")
    assert expected.steps == 12
    for name, at in (("head", 2), ("behind", 7)):
        watcher = Recorder(("fine-tuning", at))
        with pytest.raises(Interrupted):
            train(chosen, tmp_path / name, progress=watcher)
        assert train(chosen, tmp_path / name, resume=True) == expected
        for file in ("adapter.safetensors", "metrics.jsonl"):
            assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / name / file).read_bytes(), file


@pytest.mark.parametrize("at", [4, 9])
def test_a_seeded_run_resumes_to_the_same_result(settings: Settings, tmp_path: Path, at: int) -> None:
    recipe = {key.replace(".", "__"): value for key, value in seeded_recipe(1200).items()}
    chosen = with_(settings, **{**recipe, "finetune__rounding_start": 0.5})
    expected = train(chosen, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(chosen, tmp_path / "broken", progress=Recorder(("fine-tuning", at)))
    assert train(chosen, tmp_path / "broken", resume=True) == expected
    for file in ("adapter.safetensors", "coefficients.safetensors", "stream.airs", "metrics.jsonl"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "broken" / file).read_bytes(), file
