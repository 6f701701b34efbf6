"""The Trainer of transformers with an adapter whose ranks a policy chooses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import airlora
from airlora.channel import Link
from airlora.errors import ChannelError, SettingsError


class Tokens(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(4, 30, (9,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}


class Alternating:
    """Policy that asks for all ranks, or for one component of every module."""

    def __init__(self, r_max: int) -> None:
        self.seen: list[Any] = []
        self._r_max = r_max

    def decide(self, observation: airlora.Observation) -> np.ndarray:
        self.seen.append(observation)
        return np.full(len(observation.ranks), self._r_max if len(self.seen) % 2 else 1)


def trainer(folder: Path, out: Path, link: Link, **options: Any) -> tuple[Trainer, airlora.AdaptedModel, Alternating]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted, policy = airlora.wrap(model, r_max=4), Alternating(4)
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=6,
        save_steps=3,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    callback = airlora.RankPolicyCallback(adapted, policy, link, **options)
    return Trainer(model, arguments, train_dataset=Tokens(), callbacks=[callback]), adapted, policy


def components(adapted: airlora.AdaptedModel) -> torch.Tensor:
    return torch.cat([own.detach().ravel() for update in adapted.updates.values() for own in update.parameters()])


def test_a_policy_chooses_the_ranks_of_every_step(tiny_decoder: Path, tmp_path: Path) -> None:
    fast = Link(10.0, 1e6)
    own, adapted, policy = trainer(tiny_decoder, tmp_path, fast)
    own.train()
    assert len(policy.seen) == 6
    assert policy.seen[0].budget_params > 4 * sum(shape.params_per_rank for shape in adapted.shapes.values())
    assert (policy.seen[1].ranks == 4).all()
    assert set(adapted.rank_pattern.ranks) == {1}
    rare, adapted, policy = trainer(tiny_decoder, tmp_path / "rare", fast, every=3)
    rare.train()
    assert len(policy.seen) == 2


def test_the_ranks_keep_the_deadline_of_the_link(tiny_decoder: Path, tmp_path: Path) -> None:
    own, adapted, policy = trainer(tiny_decoder, tmp_path, Link(0.0, 1e4), every=10)
    own.train()
    sizes = [shape.params_per_rank for shape in adapted.shapes.values()]
    assert 0 < np.dot(adapted.rank_pattern.ranks, sizes) <= policy.seen[0].budget_params < 4 * sum(sizes)


def test_a_checkpoint_holds_the_adapter_and_resumes_exactly(
    tiny_decoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, expected, _ = trainer(tiny_decoder, tmp_path, Link(10.0, 1e6))
    whole.train()
    checkpoint = tmp_path / "checkpoint-3"
    tensors = load_file(checkpoint / "model.safetensors")
    assert sum(own.numel() for own in tensors.values()) == len(components(expected))
    resumed, adapted, policy = trainer(tiny_decoder, tmp_path / "again", Link(10.0, 1e6))
    policy.seen = [None] * 3
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(components(adapted), components(expected))
    assert "missing keys" not in caplog.text
    # The folder is no model: transformers must not load it with random weights.
    with pytest.raises((OSError, ValueError), match=r"config\.json"):
        AutoModelForCausalLM.from_pretrained(checkpoint)


def test_links_that_carry_no_component_and_numbers_below_one_are_refused(tiny_decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="carries before the deadline = .*one component"):
        trainer(tiny_decoder, tmp_path, Link(-5.0, 1e3))
    with pytest.raises(SettingsError, match="every = 0"):
        trainer(tiny_decoder, tmp_path, Link(10.0, 1e6), every=0)
