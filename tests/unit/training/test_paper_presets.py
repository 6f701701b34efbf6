"""What the presets `paper-literal` and `paper` do, counted at a tiny scale with the cadence of the presets.

The tests count calls of the equations and the stages, not values of settings. Sizes of model, data and networks, and
the numbers of diffusion steps are small; T_diff and T stay different from one another.
"""

import importlib.util
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airlora.adapters import AdaptedModel
from airlora.env import environment
from airlora.errors import DataError
from airlora.observation import Observation
from airlora.policy.coarse import CoarsePolicy
from airlora.policy.diffusion import model as diffusion_model
from airlora.policy.diffusion import samplers
from airlora.policy.diffusion.backbones.residual_mlp import ResidualMLP
from airlora.policy.diffusion.fine import FinePolicy
from airlora.policy.diffusion.losses.advantage_weighted import AdvantageWeightedLoss
from airlora.policy.diffusion.losses.literal import LiteralLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.hierarchical import HierarchicalPolicy
from airlora.training import Settings, links, load_settings, read_metrics, train
from airlora.training.presets import REPAIRS, without_repairs

NUM_TRAIN_TIMESTEPS = 20
NUM_INFERENCE_STEPS = 4
SNRS_DB = {-5.0, 0.0, 5.0, 10.0, 15.0}

Calls = dict[str, list[Any]]


@pytest.fixture
def tiny_paper(tiny_model: Path, tiny_data: tuple[Path, Path]) -> Callable[..., Settings]:
    """Return a function that makes tiny settings of a preset, whose cadence is unchanged."""

    def make(preset: str, steps: int, overrides: dict[str, Any] | None = None) -> Settings:
        small = {
            "model.name": str(tiny_model),
            "data.name": str(tiny_data[0].parent),
            "data.max_length": 16,
            "adapter.r_max": 4,
            "policy.constant_rank": 2,
            "finetune.steps": steps,
            "finetune.batch_size": 8,
            "finetune.eval_every": steps,
            "finetune.precision": "float32",
            "channel.bandwidth_hz": [2e4],
            "ppo.hidden_size": 16,
            "diffusion.hidden_size": 16,
            "diffusion.time_embedding_size": 8,
            "diffusion.num_train_timesteps": NUM_TRAIN_TIMESTEPS,
            "diffusion.num_inference_steps": NUM_INFERENCE_STEPS,
            "num_threads": 1,
            "device": "cpu",
            "tensorboard": False,
        }
        sweep = {"diffusion.updates_per_stage": NUM_TRAIN_TIMESTEPS} if preset == "paper-literal" else {}
        return load_settings(preset, overrides=small | sweep | (overrides or {}))

    return make


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Record calls by name: of the equations, the losses, the stages, the decisions and the projection."""
    found: Calls = defaultdict(list)

    def spy(owner: Any, name: str, key: str, record: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **keywords: Any) -> Any:
            result = original(*args, **keywords)
            value = record(result, *args, **keywords)
            if value is not None:
                found[key].append(value)
            return result

        monkeypatch.setattr(owner, name, wrapped)

    def trained_timesteps(result: Any, network: Any, x_tau: Any, timesteps: torch.Tensor, condition: Any) -> Any:
        return timesteps.tolist() if torch.is_grad_enabled() else None

    spy(ResidualMLP, "forward", "trained", trained_timesteps)
    spy(samplers, "posterior_mean", "eq_16", lambda result, *args: True)
    spy(diffusion_model, "guide", "guidance", lambda result, unconditional, conditional, scale: scale)
    spy(DiffusionModel, "sample", "samples", lambda result, model, condition, generator: result.clone())
    spy(FinePolicy, "explore", "explored", lambda result, fine, condition: result[0].clone())
    spy(FinePolicy, "_warmup_error", "imitations", lambda result, fine, count: count)
    spy(FinePolicy, "update", "diffusion", lambda result, fine, context, rehearse: len(context.batch))
    spy(CoarsePolicy, "update", "ppo", lambda result, coarse, rollout: rollout)
    spy(LiteralLoss, "__call__", "literal", lambda result, loss, model, batch, generator: len(batch))
    spy(AdvantageWeightedLoss, "__call__", "weighted", lambda result, loss, model, batch, generator: len(batch))
    spy(HierarchicalPolicy, "decide", "decisions", lambda result, policy, observation: (observation, result))
    spy(AdaptedModel, "orthogonality_penalty", "orthogonality", lambda result, adapted, weight: weight)
    spy(environment, "project_ranks", "projections", lambda result, *args: True)
    spy(links, "project_ranks", "link_projections", lambda result, *args: True)
    return found


def chains(decisions: list[tuple[Observation, np.ndarray]], length: int) -> list[list[tuple[Observation, np.ndarray]]]:
    return [decisions[start : start + length] for start in range(0, len(decisions), length)]


def test_the_literal_preset_does_what_the_paper_prints(
    tiny_paper: Callable[..., Settings], calls: Calls, tmp_path: Path
) -> None:
    train(tiny_paper("paper-literal", 30), tmp_path / "run")
    # One PPO stage and one diffusion stage after every episode of 15 steps, on its 15 transitions.
    assert [len(rollout) for rollout in calls["ppo"]] == [15, 15]
    assert [rollout.truncated.tolist() for rollout in calls["ppo"]] == [[False] * 14 + [True]] * 2
    assert calls["diffusion"] == [15, 15]
    # A sweep over the diffusion steps in order, the whole batch of 32 at one step; no warm-up and no rehearsal.
    assert calls["trained"] == [[step] * 32 for step in range(NUM_TRAIN_TIMESTEPS)] * 2
    assert calls["literal"] == [32] * 2 * NUM_TRAIN_TIMESTEPS
    assert calls["weighted"] == []
    assert calls["imitations"] == []
    # A sample of T_diff steps for each action, and 15 decisions in a row for the evaluation and for the result.
    num_samples = 30 + 2 * 15
    assert [len(sample) for sample in calls["samples"]] == [1] * num_samples
    assert len(calls["eq_16"]) == num_samples * NUM_INFERENCE_STEPS
    assert calls["guidance"] == [1.5] * num_samples * NUM_INFERENCE_STEPS
    # Without exploration noise, and clipped only to the ranks (Eq. 18).
    executed = [sample[0].clamp(-1.0, 1.0) for sample in calls["samples"][:30]]
    assert all(torch.equal(found, sample) for found, sample in zip(calls["explored"], executed, strict=True))
    assert calls["orthogonality"] == [0.1] * 30
    # The deadline is a price, and changes no rank.
    assert calls["projections"] == calls["link_projections"] == []
    steps = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "finetune"]
    assert {line["snr_db"] for line in steps} <= SNRS_DB
    assert any(line["violation"] > 0 for line in steps)
    for line in steps:
        assert line["reward"] == pytest.approx(-line["loss"] - 0.1 * line["cost"])
    learnt = torch.cat([rollout.rewards for rollout in calls["ppo"]]).tolist()
    assert learnt == pytest.approx([line["reward"] for line in steps])


@pytest.mark.parametrize("preset", ["paper-literal", "paper"])
def test_the_ranks_that_are_sent_are_the_last_of_15_decisions(
    tiny_paper: Callable[..., Settings], calls: Calls, tmp_path: Path, preset: str
) -> None:
    record = train(tiny_paper(preset, 15, {"diffusion.warmup_updates": 0}), tmp_path / "run")
    evaluation, result = chains(calls["decisions"], 15)
    for chain in (evaluation, result):
        assert chain[0][0].ranks.tolist() == [2] * 12
        for (_, ranks), (seen, _) in pairwise(chain):
            np.testing.assert_array_equal(seen.ranks, ranks)
        assert len({(seen.snr_db, seen.bandwidth_hz, seen.entropy_nats, seen.oov_rate) for seen, _ in chain}) == 1
    assert list(record.rank_pattern.ranks) == result[-1][1].tolist()


def test_the_preset_paper_repairs_the_method(tiny_paper: Callable[..., Settings], calls: Calls, tmp_path: Path) -> None:
    assert load_settings("paper").diffusion.warmup_updates == 500
    train(tiny_paper("paper", 60, {"diffusion.warmup_updates": 30}), tmp_path / "run")
    # One stage after every episode, of PPO on its transitions, and of diffusion on all transitions so far.
    assert [len(rollout) for rollout in calls["ppo"]] == [15] * 4
    assert calls["diffusion"] == [15, 30, 45, 60]
    # The updates of the warm-up, then 32 updates with rehearsal in each stage, at random diffusion steps.
    assert calls["imitations"] == [128] * 30 + [64] * 4 * 32
    assert len(calls["trained"]) == 30 + 4 * 2 * 32
    assert all(len(set(timesteps)) > 1 for timesteps in calls["trained"])
    assert calls["literal"] == [64] * 4 * 32
    assert calls["weighted"] == calls["eq_16"] == calls["guidance"] == []
    assert [len(sample) for sample in calls["samples"]] == [1] * (60 + 2 * 15)
    # The deadline is a price, and the learner sees rewards without the trend of the losses.
    assert calls["projections"] == calls["link_projections"] == []
    steps = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "finetune"]
    trend, expected = steps[0]["loss"], []
    for line in steps:
        assert line["reward"] == pytest.approx(-line["loss"] - 0.1 * line["cost"])
        expected.append(line["reward"] + trend)
        trend += (line["loss"] - trend) / 100
    learnt = torch.cat([rollout.rewards for rollout in calls["ppo"]]).tolist()
    assert learnt == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("repair", ["exact-x0", "identity-start", "plain-guidance"])
def test_a_run_without_one_repair_keeps_the_others(
    tiny_paper: Callable[..., Settings], calls: Calls, tmp_path: Path, repair: str
) -> None:
    train(tiny_paper("paper", 15, {"diffusion.warmup_updates": 3} | without_repairs(repair)), tmp_path / "run")
    assert bool(calls["eq_16"]) == (repair == "exact-x0")
    assert bool(calls["imitations"]) == (repair != "identity-start")
    assert bool(calls["guidance"]) == (repair == "plain-guidance")
    assert all(len(set(timesteps)) > 1 for timesteps in calls["trained"])


@pytest.mark.parametrize("preset", ["paper-literal", "paper"])
def test_without_sst2_the_run_is_refused_and_nothing_is_written(
    tiny_paper: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, preset: str
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "datasets" else find_spec(name))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AIRLORA_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = tiny_paper(preset, 15, {"data.name": load_settings(preset).data.name})
    with pytest.raises(
        DataError, match=r"^data set sst2: not found in .*; download SST-2 of GLUE .* pass --data FOLDER"
    ):
        train(settings, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_every_repair_has_a_summary_of_one_line() -> None:
    assert all(0 < len(repair.summary) <= 120 and "\n" not in repair.summary for repair in REPAIRS.values())
